"""xDeepFM (Lian et al. 2018): a compressed interaction network (CIN) beside a linear part and an MLP.

  X^0       = [v_1; ...; v_F]                                      [F, E]
  X^k_n     = sum_h sum_f W^k_hfn (X^{k-1}_h * X^0_f)              map n of layer k, [E]; * element by element
  p^k_n     = sum_e X^k_ne                                         sum pooling
  logit     = w0 + sum_f w_f  +  w_cin^T [p^1; p^2; ...]  +  MLP([v_1; ...; v_F; z])

Easy to get wrong: every layer multiplies with X^0, not with itself; elements of different dimensions e never
meet, so a map stays a vector until it is pooled; the layers have no activation (section 4.4.3: identity is
best) and no bias. With `split`, as in the authors' code and RecBole, the first half of a layer's maps goes on
to the next layer and only the second is pooled; the last layer is pooled whole.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError
from xrec_jax.recommenders.predictor import History, Predictor, dense


class XDeepFM(Predictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations.

    Widths are the paper's (section 4.1.4; 100 maps for Dianping and Bing News, 200 for Criteo). Depths were
    tuned there: three layers of CIN are RecBole's too, which has mlp=(128, 128, 128) and split=True. Dropout is
    RecBole's. RecBole 1.2.1 also has a ReLU and a bias in each layer of the CIN, a ReLU on the MLP's one number (so
    that it can only add), and 5e-4 times the norms of its weights in the loss.
    """

    mlp: Sequence[int] = (400, 400)
    cin: Sequence[int] = (100, 100, 100)  # maps of each layer
    split: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.cin or min(self.cin) < 1:
            raise UserError(f'cin={self.cin}: xDeepFM needs at least one layer, each with at least one map.')
        if self.split and any(n % 2 for n in self.cin[:-1]):
            raise UserError(f'cin={self.cin} with split: every layer but the last is halved, so its maps '
                            'should be even in number.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Returns logits [B]; arguments as `DeepFM` has them."""
        chex.assert_rank([ids, attributes], 2)
        v, w = self.embeddings(ids, attributes), self.weights(ids, attributes)
        pooled = self._interact(v)
        explicit = dense(1, (None, None), 'cin_out', use_bias=False)(pooled)[..., 0]

        hidden = Dropout(self.dropout, deterministic=not train)(v.reshape(len(ids), -1))
        hidden = jnp.concatenate([hidden, self.texts(text, len(ids), train)], axis=-1)
        return self.bias() + w.sum(-1) + explicit + self.out(self.deep(hidden, train))

    def _interact(self, v: jax.Array) -> jax.Array:
        """The CIN: embeddings [B, F, E] → pooled maps [B, N]."""
        first = v.swapaxes(1, 2)  # [B, E, F]: a layer is then one matrix product
        maps, pooled = first, []
        for n, width in enumerate(self.cin):
            products = maps[..., :, None] * first[..., None, :]  # [B, E, H, F]
            out = dense(width, (None, 'mlp'), f'cin_{n}', use_bias=False)(products.reshape(*first.shape[:2], -1))
            if self.split and n < len(self.cin) - 1:
                maps, out = jnp.split(out, 2, axis=-1)
            else:
                maps = out
            pooled.append(out.sum(1))
        return jnp.concatenate(pooled, axis=-1)
