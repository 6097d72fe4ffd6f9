"""DCNv2 (Wang et al. 2021): cross layers with matrices, beside an MLP or before it.

  x_0 = [v_1; ...; v_F]                              D = F E dimensions
  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l              (eq. 1) * is elementwise, l = 0 .. L-1
  parallel:  logit = <w, [x_L; MLP([x_0; z])]> + b   z: the explanations' features
  stacked:   logit = <w, MLP([x_L; z])> + b

With `num_experts` = M > 0 the matrices are low-rank and mixed, DCN-Mix:

  x_{l+1} = sum_m G_m(x_l) E_m(x_l) + x_l,           G = softmax over m of a linear layer, the same for every l
  E_m(x_l) = x_0 * (U_lm g(C_lm g(V_lm^T x_l)) + b_l)      V, U [D, r], C [r, r], g = tanh

Softmax, tanh and gates shared by the layers are RecBole 1.2.1's choice among what the paper leaves open. So
are the defaults, since the paper tunes them by data set: stacked, 3 layers, an MLP of 768, 768 (RecBole's
mixture: 4 experts of rank 128). RecBole also normalises the MLP by batches, of which the paper says nothing:
`batch_norm`, off by default, as on ExpCTR's split of ML-100k some starts collapse with it (validation LogLoss
0.676 ± 0.038 over five, without 0.651 ± 0.004). Features z go to the MLP alone: they are far wider than x_0, and
a cross layer costs the square.
RecBole starts W from a unit normal distribution, so that a layer multiplies by about sqrt(D), and holds it down
by a penalty of 2 sum_l |W_l|; here, as in every other layer, W has a variance of 1/D and no penalty.

Easy to get wrong: b_l stands inside of the product (in DCN outside), so x_0 = 0 gives x_L = 0; the residual
is x_l; the gates read x_l and not x_0.
"""

from collections.abc import Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from xrec_jax.dropout import Dropout
from xrec_jax.errors import UserError, nearest
from xrec_jax.recommenders.batch_norm import BatchNormPredictor
from xrec_jax.recommenders.predictor import History, dense

STRUCTURES = ('parallel', 'stacked')


class DCNv2(BatchNormPredictor):
    """Predicts logits [B] from ids and, where `text_dim` is set, explanations."""

    embed_dim: int = 16
    mlp: Sequence[int] = (768, 768)
    cross_layers: int = 3
    structure: str = 'stacked'   # or 'parallel'
    batch_norm: bool = False
    num_experts: int = 0         # M, low-rank and mixed (RecBole: 4); 0 = one full matrix a layer
    rank: int = 128              # r of an expert; should be well below D

    def __post_init__(self):
        super().__post_init__()
        if self.structure not in STRUCTURES:
            raise UserError(f'structure: "{self.structure}" is no way to join cross layers and MLP.'
                            f'{nearest(self.structure, STRUCTURES)}')
        for name, least in (('cross_layers', 1), ('num_experts', 0), ('rank', 1)):
            if getattr(self, name) < least:
                raise UserError(f'{name}={getattr(self, name)}: DCNv2 needs at least {least}.')

    @nn.compact
    def __call__(self, ids: jax.Array, attributes: jax.Array, text: jax.Array | None = None,
                 history: History | None = None, *, train: bool = False) -> jax.Array:
        """Logits [B] of ids [B, F], attributes [B, A] and explanations [B, K, d]; `history` is not looked at."""
        chex.assert_rank([ids, attributes], 2)
        x0 = self.embeddings(ids, attributes).reshape(len(ids), -1)  # [B, D], D = F' E
        crossed = self.mixed_cross(x0) if self.num_experts else self.cross(x0)
        parallel = self.structure == 'parallel'
        hidden = Dropout(self.dropout, deterministic=not train)(x0 if parallel else crossed)
        hidden = self.deep(jnp.concatenate([hidden, self.texts(text, len(ids), train)], axis=-1), train)
        return self.out(jnp.concatenate([crossed, hidden], axis=-1) if parallel else hidden)

    def cross(self, x0: jax.Array) -> jax.Array:
        """x_L [B, D] of x_0 [B, D]."""
        x = x0
        for n in range(self.cross_layers):
            x = x0 * dense(x0.shape[-1], ('embed', 'mlp'), f'cross_{n}')(x) + x
        return x

    def mixed_cross(self, x0: jax.Array) -> jax.Array:
        """x_L [B, D] of x_0 [B, D], by `num_experts` experts (M) of `rank` (R)."""
        M, R, D = self.num_experts, self.rank, x0.shape[-1]
        gate = dense(M, ('embed', None), 'gate')
        x = x0
        for n in range(self.cross_layers):
            low = jnp.tanh(_experts((M, D, R), 'BD,MDR->BMR', (None, 'embed', 'mlp'), f'cross_{n}_v')(x))
            low = jnp.tanh(_experts((M, R, R), 'BMR,MRS->BMS', (None, None, 'mlp'), f'cross_{n}_c')(low))
            high = _experts((M, R, D), 'BMR,MRD->BMD', (None, 'mlp', 'embed'), f'cross_{n}_u')(low)
            high += self.param(f'cross_{n}_bias', nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)), (D,))
            x = x0 * jnp.einsum('BM,BMD->BD', nn.softmax(gate(x)), high) + x
        return x


def _experts(shape: tuple[int, int, int], equation: str, axes: tuple[str | None, ...], name: str) -> nn.Einsum:
    """One matrix an expert, [M, in, out]; each starts as it would alone."""
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(batch_axis=0), axes)
    return nn.Einsum(shape, equation, use_bias=False, kernel_init=init, name=name)
