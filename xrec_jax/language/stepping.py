"""The form in which weights and cache are given to a loop of decoding steps.

As a model is kept, its layers are stacked, and a scan over them compiles in a time that does not grow with them. XLA on
CPU copies what a scan cuts out of the stacks, each matrix and each layer's cache, at every step: a third to a half of a
small model's time. There the layers are taken apart once, before the loop, and a step writes them out one by one.
Elsewhere nothing changes.

  `unrolled`   whether to take the layers apart
  `prepare`    variables and cache for `model.apply` with one new token a row
"""

import math

import flax.traverse_util
import jax
import jax.numpy as jnp

from xrec_jax.language import flash, quantize
from xrec_jax.language.attention import Cache
from xrec_jax.language.decoder import Decoder

COPIED = 2**30  # bytes of layers at most that are held a second time
JOINED = {('layers', 'self_attn', 'qkv_proj'): ('q_proj', 'k_proj', 'v_proj'),
          ('layers', 'mlp', 'gate_up_proj'): ('gate_proj', 'up_proj')}
MOST_LAYERS = 40  # written out, each is compiled


def unrolled(model: Decoder, variables: dict) -> bool:
    """What `config.unroll` says; None: on one CPU device, where the layers are few and small."""
    config = model.config
    if config.unroll is not None:
        return config.unroll
    alone = config.mesh is None or config.mesh.size == 1
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(variables['params']['layers']))
    return alone and flash.platform(config.mesh) == 'cpu' and size <= COPIED and config.num_layers <= MOST_LAYERS


def prepare(model: Decoder, variables: dict, cache: Cache) -> tuple[dict, Cache | tuple[Cache, ...]]:
    """Variables and cache for steps: as they are, or by layers where `unrolled` says so."""
    if not unrolled(model, variables):
        return variables, cache
    layers = range(model.config.num_layers)
    return separate(model, variables), tuple(jax.tree.map(lambda x: x[layer], cache) for layer in layers)


def separate(model: Decoder, variables: dict) -> dict:
    """The variables with a tuple of trees, one for each layer, in place of `layers`.

    Adapters are merged where that rounds nothing, and matrices that multiply the same put side by side.
    """
    variables = joined(merged(model, variables))
    take = lambda tree, layer: jax.tree.map(lambda x: x[layer], tree)
    return {name: tree | {'layers': tuple(take(tree['layers'], layer) for layer in range(model.config.num_layers))}
            for name, tree in variables.items()}


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
