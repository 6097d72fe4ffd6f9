"""PETER (Li, Zhang, Chen 2021): a small transformer that reads user and item, rates, and writes the explanation.

  sequence   s_0 = [u, i, <bos>, e_1 … e_n] sqrt(E) + sinusoidal positions         u, i: the fields' embeddings, summed
  mask       u and i see each other; a word sees u, i and the words up to itself   ("PETER masking")
  layer      x <- LN(x + O softmax(Q K^T / sqrt(E / heads)) V);  x <- LN(x + W2 relu(W1 x + b1) + b2)
  rating     r = w^T sigma(W_r s_u + b_r) + b                                      s: states of the last layer
  words      c_t = softmax(W_v s_t + b_v)                                          one W_v for both tasks of words
  L_c        = 1/n sum_t -log c_i[e_t]           context prediction: from i's state alone all words of the text
  L_e        = 1/(n+1) sum_t -log c_t[e_t+1]     explanation: from <bos> and each word the next, the last being <eos>
  L          = lambda_e L_e + lambda_c L_c + lambda_r L_r                          weights 1, 1 and 0.1

The paper's L_r is the squared error in stars. Here the logit r goes through a sigmoid to a place s on the scale of the
ratings, from 0 to 1, as of all predictors, so L_r = range² (s - y)² with `rating_range`, the stars from the lowest to the
highest. The trainer's own objective (s - y)² has weight 1, so L / (lambda_r range²) is what is minimised: the losses that
are sown in 'losses' have the weights lambda_c / (lambda_r range²) and lambda_e / (lambda_r range²), 0.625 each on a scale
of 1 to 5. Clicks, which the paper has not, keep these weights beside their log loss.

Other than the paper: AdamW at a constant rate (there SGD from 1.0, gradients clipped at 1, a quarter of the rate after
each epoch that did not validate better), stopped by the rating alone (there rating and words); other fields of user and
item beside the ids, where a run has them (with the ids alone u and i are the paper's); pad, bos and unk are never written.
PETER+, which is given a word that the explanation is to name, is not here: nobody knows it of a new pair. Not told by the
paper and taken from its authors' code: the layers' order of norms, their ReLU, the scaling by sqrt(E).

Easy to get wrong: the rating must not see the words, which nobody has at test (the mask sees to it, and without words the
sequence is [u, i] alone, to the same rating); i's state may not see them either, or the context's loss is nothing to learn.
"""

import functools
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.predictor import History, Predictor, dense, pooled
from xrec_jax.recommenders.sasrec import layer_norm
from xrec_jax.recommenders.words import BOS, EOS, PAD, SPECIAL, UNK

SOURCES = 2  # user and item, before the words
NEVER = np.array([PAD, BOS, UNK])  # written


class Layer(nn.Module):
    """One layer of the transformer."""

    heads: int
    inner: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array, train: bool, cache: jax.Array | None = None, place: int = 0
                 ) -> tuple[jax.Array, jax.Array]:
        """States [B, q, E] → the next layer's, and keys and values [2, B, H, k, D].

        visible: bool [q, k], of a query which keys. cache: keys and values of k places, into which those of the q
          states are put from `place` on; None: these are all, and k = q.
        """
        width = x.shape[-1]
        drop = lambda x: Dropout(self.dropout, deterministic=not train)(x)
        split = lambda x: x.reshape(*x.shape[:2], self.heads, width // self.heads).swapaxes(1, 2)
        query, *own = (split(part) for part in jnp.split(dense(3 * width, ('embed', 'mlp'), 'qkv')(x), 3, axis=-1))
        known = jnp.stack(own)
        if cache is not None:
            known = jax.lax.dynamic_update_slice_in_dim(cache, known, place, axis=3)
        logits = jnp.einsum('BHqD,BHkD->BHqk', query, known[0]) * (width // self.heads) ** -0.5
        weights = drop(jax.nn.softmax(jnp.where(visible, logits, -1e9), axis=-1))
        mixed = jnp.einsum('BHqk,BHkD->BHqD', weights, known[1]).swapaxes(1, 2).reshape(x.shape)
        x = layer_norm(1e-5, 'attention_norm')(x + drop(dense(width, ('mlp', 'embed'), 'attention_out')(mixed)))
        hidden = drop(nn.relu(dense(self.inner, ('embed', 'mlp'), 'inner')(x)))
        return layer_norm(1e-5, 'inner_norm')(x + drop(dense(width, ('mlp', 'embed'), 'outer')(hidden))), known


class PETER(Predictor):
    """Predicts logits [B] of the rating's place on its scale, or of a click; `generate` writes."""

    embed_dim: int = 512
    layers: int = 2
    heads: int = 2
    inner: int = 2048
    max_words: int = 15              # of an explanation
    max_vocabulary: int = 20_000     # words and special tokens
    rating_weight: float = 0.1       # lambda_r
    context_weight: float = 1.0      # lambda_c
    explanation_weight: float = 1.0  # lambda_e
    num_words: int = len(SPECIAL)    # in the vocabulary, special tokens and all
    rating_range: float = 4.0        # stars from the lowest rating to the highest

    uses_words = True

    def __post_init__(self):
        if self.embed_dim % self.heads:
            raise UserError(f'embed_dim={self.embed_dim} cannot be split over heads={self.heads}.')
        if self.max_words < 1:
            raise UserError(f'max_words={self.max_words}: should be at least 1.')
        if self.rating_weight <= 0:
            raise UserError(f'rating_weight={self.rating_weight}: should be above 0, as the rating is what is predicted.')
        super().__post_init__()

    def setup(self):
        uniform = nn.with_logical_partitioning(lambda *args: jax.random.uniform(*args, minval=-0.1, maxval=0.1), ('ids', None))
        self.embedding = self.param('embedding', uniform, (self.vocab_size, self.embed_dim), jnp.float32)
        self.word_table = nn.Embed(self.num_words, self.embed_dim, embedding_init=uniform)
        self.stack = [Layer(self.heads, self.inner, self.dropout) for _ in range(self.layers)]
        self.head = dense(self.num_words, ('embed', 'vocab'), None)
        self.rating_hidden = dense(self.embed_dim, ('embed', 'mlp'), None)
        self.rating_out = dense(1, ('mlp', None), None)
        self.drop = Dropout(self.dropout, True)
        self.drop_training = Dropout(self.dropout, False)

    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, words: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F] and attributes [B, A]; explanations and histories are not looked at.

        words: int32 [B, max_words + 1], as `words.encode` has them. With them 'context' and 'explanation' [B] are sown in
          the collection 'losses'; to train without them is an error.
        """
        chex.assert_rank([ids, attributes], 2)
        if text is not None:
            raise ValueError('PETER reads no explanations')
        if words is None and train and not self.is_initializing():
            raise ValueError('PETER learns from words: make_rows(..., words=...)')
        sources = self.sources(ids, attributes)
        if words is None and self.is_initializing():
            words = jnp.full((len(ids), 1), PAD)
        if words is None:
            states, _ = self.states(sources, 0, train)
        else:
            shown = jnp.pad(words[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
            states, _ = self.states(jnp.concatenate([sources, self.word_table(shown)], axis=1), 0, train)
            self._sow_losses(states, words)
        return self.rating_out(nn.sigmoid(self.rating_hidden(states[:, 0])))[..., 0]

    def sources(self, ids: jax.Array, attributes: jax.Array) -> jax.Array:
        """u and i, [B, 2, E]: the sums of their fields' embeddings."""
        fields = pooled(self.embedding, ids, attributes)
        return jnp.stack([fields[:, :self.num_user_fields].sum(1), fields[:, self.num_user_fields:].sum(1)], axis=1)

    def states(self, tokens: jax.Array, place: int, train: bool, caches: list[jax.Array] | None = None
               ) -> tuple[jax.Array, list[jax.Array]]:
        """Embedded tokens [B, q, E], the first at `place`, as states of the last layer; and each layer's keys and values
        [2, B, H, k, D], in those of `caches` where given."""
        count = tokens.shape[1]
        total = count if caches is None else caches[0].shape[3]
        here = place + jnp.arange(count)
        visible = visible_places(total)[here]
        x = tokens * self.embed_dim ** 0.5 + sinusoids(total, self.embed_dim)[here]
        x, after = (self.drop_training if train else self.drop)(x), []
        for n, layer in enumerate(self.stack):
            x, known = layer(x, visible, train, None if caches is None else caches[n], place)
            after.append(known)
        return x, after

    def _sow_losses(self, states: jax.Array, words: jax.Array) -> None:
        """L_e and L_c of states [B, 2 + T, E] and the words [B, T] that they should tell, weighted."""
        scale = 1 / (self.rating_weight * self.rating_range ** 2)
        log_probs = jax.nn.log_softmax(self.head(states[:, 1:]))  # of i, <bos> and the words
        there = words != PAD
        said = jnp.take_along_axis(log_probs[:, 1:], words[..., None], axis=-1)[..., 0]
        self.sow('losses', 'explanation', self.explanation_weight * scale * _mean(-said, there))
        in_context = jnp.take_along_axis(log_probs[:, 0], words, axis=-1)
        self.sow('losses', 'context', self.context_weight * scale * _mean(-in_context, there & (words != EOS)))

    def begin(self, ids: jax.Array, attributes: jax.Array, max_words: int) -> tuple[jax.Array, list[jax.Array]]:
        """Logits [B, V] of the first word, and the caches for `max_words` words after <bos>."""
        sources = self.sources(ids, attributes)
        bos = jnp.broadcast_to(self.word_table(jnp.array([BOS])), (len(ids), 1, self.embed_dim))
        shape = (2, len(ids), self.heads, SOURCES + 1 + max_words, self.embed_dim // self.heads)
        states, caches = self.states(jnp.concatenate([sources, bos], axis=1), 0, False,
                                     [jnp.zeros(shape, sources.dtype)] * self.layers)
        return self.head(states[:, -1]), caches

    def next_word(self, word: jax.Array, place: jax.Array, caches: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        """Logits [B, V] of the word after `word` [B], which stands at `place` of the sequence, and the caches with it."""
        states, caches = self.states(self.word_table(word)[:, None], place, False, caches)
        return self.head(states[:, 0]), caches


@functools.partial(jax.jit, static_argnames=('model', 'max_words'))
def generate(model: PETER, params: Any, ids: jax.Array, attributes: jax.Array, max_words: int) -> jax.Array:
    """Writes an explanation for each row by the likeliest word each time: int32 [B, max_words], PAD after its end.

    EOS is the end and stands where there is room for it: a row without any was cut off. `ids` [B, F], `attributes` [B, A].
    """
    apply = functools.partial(model.apply, {'params': params})
    logits, caches = apply(ids, attributes, max_words, method='begin')

    def step(carry, place):
        logits, caches, ended = carry
        word = jnp.argmax(logits.at[:, NEVER].set(-jnp.inf), axis=-1).astype(jnp.int32)
        word = jnp.where(ended, PAD, word)
        logits, caches = apply(word, place, caches, method='next_word')
        return (logits, caches, ended | (word == EOS)), word

    _, words = jax.lax.scan(step, (logits, caches, jnp.zeros(len(ids), bool)), SOURCES + 1 + jnp.arange(max_words))
    return words.T


def visible_places(length: int) -> jax.Array:
    """bool [query, key]: the mask of a sequence of user, item and words."""
    return jnp.tril(jnp.ones((length, length), bool)).at[0, 1].set(True)


def sinusoids(length: int, width: int) -> jax.Array:
    """[length, width]: sine and cosine of position / 10000^(2 d / width), in turns (Vaswani et al. 2017)."""
    angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)[:, :width], jnp.float32)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, T] → [B], the mean over a row's `mask`; 0 where there is none."""
    return jnp.where(mask, values, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)
