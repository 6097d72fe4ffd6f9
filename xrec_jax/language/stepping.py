"""The form of the weights in which texts are written.

As a model is kept, its layers are stacked, and a scan over them compiles in a time that does not grow with them. XLA on
CPU copies what a scan cuts out of the stacks, each matrix and each layer's cache, at every step: a third to a half of a
small model's time. There the layers are taken apart once, and prefill and steps write them out one by one, each with a
cache of its own; matrices lie as suits the rows of a step. Elsewhere nothing changes.

  `unrolled`   whether to take the layers apart
  `prepare`    variables as `generate` and `slots` want them; `prepared`: the same, compiled, before many batches
  `prefill`    runs whole prompts, for their caches and last hidden states
  `logits`     of the next token of each row, in the order in which they are made
"""

import math

import flax.traverse_util
import jax
import jax.numpy as jnp

from xrec_jax.language import flash, quantize
from xrec_jax.language.attention import Cache
from xrec_jax.language.decoder import Decoder
from xrec_jax.language.projection import FEW, TRANSPOSED, product_of_transposed

COPIED = 2**30  # bytes at most that are held a second time
JOINED = {('layers', 'self_attn', 'qkv_proj'): ('q_proj', 'k_proj', 'v_proj'),
          ('layers', 'mlp', 'gate_up_proj'): ('gate_proj', 'up_proj')}
MOST_LAYERS = 40  # written out, each is compiled
PACKED = 4  # rows of a step from which on XLA packs a matrix on the right: then it goes to the left, `projection.FEW`
AT_ONCE = 512  # tokens of a prefill: what a layer makes of them then stays in a CPU's caches


def unrolled(model: Decoder, variables: dict) -> bool:
    """What `config.unroll` says; None: on one CPU device, where the layers are few and small."""
    config = model.config
    if config.unroll is not None:
        return config.unroll
    alone = config.mesh is None or config.mesh.size == 1
    copied = variables['params']['layers'], variables['params']['embed_tokens'] if config.tie_word_embeddings else ()
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(copied))
    return alone and flash.platform(config.mesh) == 'cpu' and size <= COPIED and config.num_layers <= MOST_LAYERS


def prepare(model: Decoder, variables: dict, rows: int) -> dict:
    """The variables `separate` where `unrolled` says so and they are not yet; else as they are. `rows`: of a step."""
    return separate(model, variables, rows) if _to_separate(model, variables) else variables


def prepared(model: Decoder, variables: dict, rows: int) -> dict:
    """`prepare` compiled: once for all batches that are written with these variables, not once in each."""
    return _separate(model, variables, rows) if _to_separate(model, variables) else variables


def prefill(model: Decoder, variables: dict, tokens: jax.Array, positions: jax.Array, mask: jax.Array,
            prefix_embeddings: jax.Array | None = None) -> tuple[jax.Array, Cache | tuple[Cache, ...]]:
    """The hidden state of the last position [B, 1, D] and the cache of whole prompts; arguments as of `Decoder`.

    Where the layers are apart, a few rows after the others.
    """
    run = lambda rows: model.apply(variables, *rows[:3], prefix_embeddings=rows[3], last_only=True)
    rows = tokens, positions, mask, prefix_embeddings
    batch, width = positions.shape
    most = max(AT_ONCE // width, 1)
    sizes = [size for size in range(most, most // 2, -1) if batch % size == 0]
    if not sizes or batch <= most or not isinstance(variables['params']['layers'], tuple):
        return run(rows)
    done = jax.lax.map(run, jax.tree.map(lambda x: x.reshape(-1, sizes[0], *x.shape[1:]), rows))
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), done)


def _to_separate(model: Decoder, variables: dict) -> bool:
    return not isinstance(variables['params']['layers'], tuple) and unrolled(model, variables)


def separate(model: Decoder, variables: dict, rows: int) -> dict:
    """The variables with a tuple of trees, one for each layer, in place of `layers`, for steps of so many rows.

    Adapters are merged where that rounds nothing, and matrices that multiply the same put side by side.
    """
    variables = joined(merged(model, variables))
    if rows >= PACKED:
        variables = transposed(model, variables, layers=rows <= FEW)
    if TRANSPOSED not in variables['params']:
        variables = with_head(model, variables)
    take = lambda tree, layer: jax.tree.map(lambda x: x[layer], tree)
    return {name: tree | {'layers': tuple(take(tree['layers'], layer) for layer in range(model.config.num_layers))}
            for name, tree in variables.items()}


_separate = jax.jit(separate, static_argnames=('model', 'rows'))


def transposed(model: Decoder, variables: dict, layers: bool) -> dict:
    """The variables with the float32 output matrix, and those of the layers if asked, as `TRANSPOSED` [out, in].

    Not those with an adapter or scales beside them.
    """
    flat = flax.traverse_util.flatten_dict(variables['params'])
    beside = {path[:-1] for path in flax.traverse_util.flatten_dict(variables.get('lora', {}))}
    tied = model.config.tie_word_embeddings
    for (*above, name), value in list(flat.items()):
        if not value.dtype == model.config.dtype == jnp.float32:
            continue
        if name == 'kernel' and layers and tuple(above) not in beside and (*above, quantize.SCALE) not in flat:
            flat[(*above, TRANSPOSED)] = flat.pop((*above, name)).mT
        elif name == ('embed_tokens' if tied else quantize.HEAD) and (quantize.HEAD_SCALE,) not in flat:
            flat[(TRANSPOSED,)] = value if tied else value.T
    return variables | {'params': flax.traverse_util.unflatten_dict(flat)}


def logits(model: Decoder, variables: dict, hidden: jax.Array) -> tuple[jax.Array, int]:
    """float32 logits of hidden states [B, D], and which axis is the vocabulary: [B, V] and 1, or [V, B] and 0."""
    if TRANSPOSED in variables['params']:
        return product_of_transposed(variables['params'][TRANSPOSED], hidden), 0
    return model.apply(variables, hidden, method='logits'), 1


def with_head(model: Decoder, variables: dict) -> dict:
    """The variables with the embeddings a second time, transposed, where they are the output matrix too.

    A product over the rows of [D, V] takes two thirds of the time of one over the columns of [V, D].
    """
    if not model.config.tie_word_embeddings:
        return variables
    return variables | {'params': variables['params'] | {quantize.HEAD: variables['params']['embed_tokens'].T}}


def merged(model: Decoder, variables: dict) -> dict:
    """The variables with W + A B · scale for each pair of an adapter whose matrix is float32; without these pairs.

    Of other types the sum would be rounded, and the writer no longer be the model that is trained.
    """
    if 'lora' not in variables:
        return variables
    flat = flax.traverse_util.flatten_dict(variables['params'])
    pairs = flax.traverse_util.flatten_dict(variables['lora'])
    for path in {path[:-1] for path in pairs}:
        kernel = flat[path + ('kernel',)]
        if kernel.dtype == model.config.dtype == jnp.float32 and path + (quantize.SCALE,) not in flat:
            a, b = pairs.pop(path + ('a',)), pairs.pop(path + ('b',))
            flat[path + ('kernel',)] = kernel + jnp.matmul(a, b * model.lora_scale)
    result = {'params': flax.traverse_util.unflatten_dict(flat)}
    return result | {'lora': flax.traverse_util.unflatten_dict(pairs)} if pairs else result


def joined(variables: dict) -> dict:
    """The variables with the matrices of `JOINED` (and their biases) as one, where there are no others beside them."""
    flat = flax.traverse_util.flatten_dict(variables['params'])
    pairs = flax.traverse_util.flatten_dict(variables.get('lora', {}))
    for (*above, name), members in JOINED.items():
        modules = [(*above, member) for member in members]
        kept = [{path[-1] for path in (*flat, *pairs) if path[:-1] == module} for module in modules]
        if kept[0] in ({'kernel'}, {'kernel', 'bias'}) and all(names == kept[0] for names in kept):
            for leaf in kept[0]:
                parts = [flat.pop((*module, leaf)) for module in modules]
                flat[(*above, name, leaf)] = jnp.concatenate(parts, axis=-1)
    return variables | {'params': flax.traverse_util.unflatten_dict(flat)}
