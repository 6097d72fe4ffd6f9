"""Tables of users or items whose number of rows need not divide over a mesh, and the scores made of them.

  padded    rows that a table of so many really has: the next multiple of 128 (`fields.Fields.vocab_size` too)
  table     a parameter [padded, features] or [padded], drawn as `init` draws the real shape; the rest is zeros
  scores    users' vectors times items', accumulated in float32

An axis that a mesh axis does not divide stays whole on every device (`parallel.sharding`), so that without the
padding most real numbers of users and items could not be sharded at all. A model looks up rows of real users and
items only and slices the rest off before it hands a table on: the padding has no score, no place in a softmax
and no gradient, and stays zero.

Tables may be held in bfloat16, for size. They are drawn in float32 and rounded, and what is looked up in them is
computed with in float32 (but the vectors that go into `scores`). A step that is smaller than 1/256 of the number
it is added to is lost then, and optimizer state needs a dtype of its own.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

_MULTIPLE = 128


def padded(num_rows: int) -> int:
    """The next multiple of 128."""
    return -(-num_rows // _MULTIPLE) * _MULTIPLE


def table(module: nn.Module, name: str, init: nn.initializers.Initializer, num_rows: int, features: int | None,
          axis: str, dtype: Any = jnp.float32) -> jax.Array:
    """A parameter of `module`: [padded(num_rows), features], or [padded(num_rows)] with `features` None.

    `init(key, shape, dtype)` is asked for the real shape, so that one which looks at the shape (Xavier) is not
    misled. `axis` is the logical axis of the rows, 'users' or 'items'.
    """
    rest = () if features is None else (features,)
    logical = nn.with_logical_partitioning(functools.partial(_drawn, init, num_rows), (axis, *(None for _ in rest)))
    return module.param(name, logical, (padded(num_rows), *rest), jnp.dtype(dtype))


def _drawn(init, num_rows, key, shape, dtype):
    real = init(key, (num_rows, *shape[1:]), jnp.float32)
    return jnp.pad(real, [(0, shape[0] - num_rows)] + [(0, 0)] * (len(shape) - 1)).astype(dtype)


def scores(users: jax.Array, items: jax.Array) -> jax.Array:
    """float32 [..., I] of users' vectors [..., E] and items' [I, E]; the users' are first rounded to the items' dtype.

    So a catalogue in bfloat16 is read as it lies, never copied to float32.
    """
    return jnp.einsum('...E,IE->...I', users.astype(items.dtype), items, preferred_element_type=jnp.float32)
