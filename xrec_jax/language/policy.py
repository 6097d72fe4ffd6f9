"""The language model as a policy: log-probs, entropies and values of given responses.

One function, `evaluate`, serves the old policy, the new one and the reference (which is the same
model without an adapter), so the first minibatch's ratio is exactly 1.

The logits of all responses would be gigabytes where the vocabulary is large (64 rows of 128 tokens over 128,000
words: 4 GiB, and several times that with the gradient). So no more than `LOGITS` of them are made at once, from some
positions of all rows, and the backward pass makes them again. A small vocabulary is read out in one piece.
"""

import functools

import chex
import flax.struct
import jax
import jax.numpy as jnp

from xrec_jax.language.decoder import Decoder, head_product, positions_of
from xrec_jax.parallel import sharding
from xrec_jax.rl.ppo import entropy_from_logits

LOGITS = 2**26  # on a device at once: 256 MiB in float32, 512 tokens over 128,000 words


@flax.struct.dataclass
class Evaluation:
    """All float32 [B, R], of response tokens; anything behind the mask."""

    log_probs: jax.Array
    entropy: jax.Array  # nats, of the distribution that the token was drawn from
    values: jax.Array  # of the state before the token; 0 without a value head


def init_value_head(hidden_size: int) -> dict:
    """A value head that says 0 everywhere."""
    return {'kernel': jnp.zeros((hidden_size,), jnp.float32), 'bias': jnp.zeros((), jnp.float32)}


def evaluate(
    model: Decoder,
    variables: dict,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    responses: jax.Array,
    response_mask: jax.Array,
    *,
    temperature: float = 1.0,
    value_head: dict | None = None,
    prefix_embeddings: jax.Array | None = None,
) -> Evaluation:
    """Scores responses [B, R] to left-padded prompts [B, P], at the sampler's temperature.

    Logits and values of response token t are read one slot earlier, from the state before it. The
    gradient of `values` reaches the body (and so the adapter), as in TRL. At temperature 0 (greedy)
    the distribution is that of temperature 1.
    """
    chex.assert_rank([prompts, prompt_mask, responses, response_mask], 2)
    length = responses.shape[1]
    tokens = jnp.concatenate([prompts, responses], axis=1)
    mask = jnp.concatenate([prompt_mask, response_mask], axis=1)
    full_mask = mask
    if prefix_embeddings is not None:
        soft = jnp.ones(prefix_embeddings.shape[:2], bool)
        full_mask = jnp.concatenate([soft, mask], axis=1)
    hidden, _ = model.apply(variables, jnp.where(mask, tokens, 0), positions_of(full_mask), full_mask,
                            prefix_embeddings=prefix_embeddings)
    before = hidden[:, -length - 1:-1]
    log_probs, entropy = read_out(model, variables, before, responses, temperature or 1.0)
    values = jnp.zeros(responses.shape, jnp.float32)
    if value_head is not None:
        values = before.astype(jnp.float32) @ value_head['kernel'] + value_head['bias']
    return Evaluation(log_probs=log_probs, entropy=entropy, values=values)


def read_out(model: Decoder, variables: dict, hidden: jax.Array, tokens: jax.Array, temperature: float
             ) -> tuple[jax.Array, jax.Array]:
    """Log-probs of tokens [B, R] after hidden states [B, R, D], and the entropies of what they are drawn from."""
    batch, length, _ = hidden.shape
    config, mesh = model.config, model.config.mesh
    rows, words = batch, config.vocab_size
    if mesh is not None:
        rows, words = -(-rows // sharding.batch_shards(mesh)), -(-words // mesh.shape['tensor'])
    chunk = positions_at_once(rows, words, length)
    if chunk == length:
        return _measured(model.apply(variables, hidden, method='logits') / temperature, tokens)
    head, scale = model.apply(variables, method='head')

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def some(inputs):
        hidden, tokens = inputs
        logits = head_product(hidden, head, 1 if config.tie_word_embeddings else 0)
        logits = sharding.constrain(logits, ('batch', None, 'vocab'), mesh)
        return _measured((logits if scale is None else logits * scale) / temperature, tokens)

    num_chunks = -(-length // chunk)
    spare = num_chunks * chunk - length
    cut = lambda x: jnp.moveaxis(jnp.pad(x, ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2)).reshape(
        batch, num_chunks, chunk, *x.shape[2:]), 1, 0)
    joined = lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, -1)[:, :length]
    return jax.tree.map(joined, jax.lax.map(some, (cut(hidden), cut(tokens))))


def positions_at_once(rows: int, words: int, length: int) -> int:
    """Of `length`, how many are read out together, for `rows` and `words` on a device: as equal chunks as there can be."""
    num_chunks = -(-length // min(length, max(1, LOGITS // (rows * words))))
    return -(-length // num_chunks)


def _measured(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probs of tokens [B, c], and entropies, from logits [B, c, V]."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0], entropy_from_logits(logits)
