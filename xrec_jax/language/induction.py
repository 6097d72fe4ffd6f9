"""First weights of a LLaMA that copies: two layers of its attention are an induction head from the start.

An induction head continues a text as it went on before: it finds earlier places where the present
token stood, and copies what came next. Models discover it late in training, after a long plateau;
here it is written into the first weights, and training refines it. In the spirit of "Mimetic
initialization of self-attention layers" (Trockman and Kolter, 2023, arXiv 2305.09828), but made for
causal language models with rotary positions:

  embeddings    share one direction u, by which a head can attend to a position, whatever stands there
  layer 0       query head n of the first kv head attends n + 1 tokens back: q and k read u alone, and
                differ by the rotary angle of n + 1 positions. What it reads there, Bᵀ e, it writes
                into a subspace of its own, C_n (n = 0, 1, …)
  layer 1       kv head n attends to the places whose (n + 1)-last token is like the query's n-last
                one: k reads C_n, q reads B (n = 0: the present token itself) or C_(n − 1)
  other heads   attend to their like (q = k, up to noise) and output what they read (o = vᵀ)
"""

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.language import decoder, rotary
from xrec_jax.language.config import DecoderConfig

COMMON = 0.5  # length of u in an embedding; the token's own part has 0.87, together about 1
LOOK_BACK = 12.0  # length of q and k in each rotary pair of a head of layer 0
MATCH = 2.0  # scale of q and k in layer 1
WRITE = 0.1  # scale of what layer 0 writes: less than the embedding, or the token itself is drowned
QUIET = 0.15  # of the outputs of all heads outside of layer 1; those of MLPs are 0.1 of GPT-2's 1/√(2 layers)


def init_params(key: jax.Array, config: DecoderConfig) -> dict:
    """Random base weights with an induction head in layers 0 and 1 (see above), as plain arrays.

    At once, a model of 256 dimensions continues a third or half of a repeated random sequence.

    Raises ValueError for a model of fewer than two layers.
    """
    if config.num_layers < 2:
        raise ValueError(f'num_layers={config.num_layers}: an induction head takes two layers')
    params = decoder.init_params(key, config)
    attention = params['layers']['self_attn']
    groups = config.num_heads // config.num_kv_heads
    residual = (2 * config.num_layers) ** -0.5
    params['layers']['mlp']['down_proj']['kernel'] *= 0.1 * residual

    k = 0.6 * _heads(attention, 'k_proj', config)
    v = _heads(attention, 'v_proj', config)
    q = jnp.repeat(k, groups, axis=2) + 0.3 * _heads(attention, 'q_proj', config)
    o = 0.7 * jnp.repeat(v, groups, axis=2) + 0.3 * residual * _heads(attention, 'o_proj', config)
    o = o.at[0].multiply(QUIET).at[2:].multiply(QUIET)

    common, *subspaces = jax.random.split(jax.random.fold_in(key, 1), 1 + groups)
    common = jax.random.normal(common, (config.hidden_size,))
    common /= jnp.linalg.norm(common)
    q, k, v, o = (x - common[:, None, None] * jnp.einsum('d,ldhe->lhe', common, x)[:, None]
                  for x in (q, k, v, o))  # only the heads below read it

    pair = np.arange(config.head_dim // 2)
    fast = (pair < config.head_dim // 8).astype(np.float32)  # rotary pairs that tell neighbours apart
    slow = np.tile(pair >= config.head_dim // 4, 2)  # dims that mean the same from end to end of a prompt
    frequencies = rotary.rope_frequencies(config)
    position = common * 2 * LOOK_BACK / config.hidden_size**0.5  # the normed state has √D / 2 of u
    k = k.at[0, :, 0].set(position[:, None] * jnp.concatenate([fast, 0 * fast]))
    read = v[0, :, 0]  # B
    for n in range(groups):
        angle = (n + 1) * frequencies
        turned_back = jnp.concatenate([fast * jnp.cos(angle), -fast * jnp.sin(angle)])
        q = q.at[0, :, n].set(position[:, None] * turned_back)
        written = jax.random.normal(subspaces[n], read.shape) * config.hidden_size**-0.5  # C_n
        o = o.at[0, :, n].set(WRITE * written)
        if n < config.num_kv_heads:
            q = q.at[1, :, n * groups:(n + 1) * groups].set(MATCH * (read * slow)[:, None])
            k = k.at[1, :, n].set(MATCH * written * slow)
        read = written

    for name, heads in (('q_proj', q), ('k_proj', k), ('v_proj', v), ('o_proj', o)):
        kernel = heads.reshape(*heads.shape[:2], -1)
        attention[name]['kernel'] = kernel.swapaxes(1, 2) if name == 'o_proj' else kernel
    embedding = params['embed_tokens']
    size = jnp.linalg.norm(embedding, axis=1).mean()
    embedding -= jnp.outer(embedding @ common, common)
    params['embed_tokens'] = 0.87 * embedding + COMMON * size * common
    return params


def _heads(attention: dict, name: str, config: DecoderConfig) -> jax.Array:
    """A kernel as [L, D, heads, d]; that of o_proj transposed."""
    kernel = attention[name]['kernel']
    kernel = kernel.swapaxes(1, 2) if name == 'o_proj' else kernel
    return kernel.reshape(*kernel.shape[:2], -1, config.head_dim)
