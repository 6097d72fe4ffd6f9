"""Attention of whole sequences by the kernel that the platform has.

  xla     `attention.attend`: everywhere, in any type, with any mask
  cudnn   cuDNN's flash attention, on NVIDIA's GPUs, in bfloat16 or float16
  tpu     splash attention, JAX's Pallas kernel, on TPUs

`DecoderConfig.attention` names one, or 'auto': that of the platform where it fits the model, else xla. New tokens
that attend to a cache are read by xla everywhere: there a kernel has nothing to keep out of memory.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.attention import attend
from xrec_jax.parallel import sharding

if TYPE_CHECKING:
    from xrec_jax.language.config import DecoderConfig

PLATFORMS = {'cudnn': 'gpu', 'tpu': 'tpu'}  # of kernels that are not at home everywhere
KERNELS = ('auto', 'xla', *PLATFORMS)
CUDNN_HEAD_DIM = 128  # at most, and a multiple of 8
TPU_BLOCK = 512  # queries, and keys, of a block at most; sequences are filled up to multiples of 128


@flax.struct.dataclass
class Sight:
    """What each query sees."""

    mask: jax.Array  # bool [B, S, T], all in all
    window: jax.Array | None = None  # bool [1 or B, S, T], the sliding window, where only some layers have one
    # int [B, S], where a query sees what lies before it in its own segment; None: say so by `mask` alone.
    segments: jax.Array | None = None
    kernel: str = flax.struct.field(pytree_node=False, default='xla')

    def of_layer(self, layer: jax.Array | int, first_window_layer: int) -> 'Sight':
        """Without the window in the layers before `first_window_layer`."""
        if self.window is None:
            return self
        return self.replace(mask=self.mask & (self.window | (layer < first_window_layer)), window=None)


def platform(mesh: Mesh | None) -> str:
    """'cpu', 'gpu' or 'tpu': what a program for this mesh, or without one, runs on."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def choose(config: 'DecoderConfig', by_segments: bool) -> str:
    """The kernel for whole sequences: the one that `config.attention` names, or the platform's where it fits.

    `by_segments`: whether the mask is one of segments; of any other, splash attention knows nothing.
    """
    name = config.attention
    if name == 'auto':
        here = platform(config.mesh)
        name = next((kernel for kernel, home in PLATFORMS.items() if home == here), 'xla')
        name = 'xla' if misfit(name, config) else name
    return 'xla' if name == 'tpu' and not by_segments else name


def misfit(name: str, config: 'DecoderConfig') -> str:
    """Why a model cannot use a kernel; '' where it can."""
    if name == 'cudnn' and jnp.dtype(config.dtype).itemsize != 2:
        return f'needs bfloat16 or float16, and the model is {jnp.dtype(config.dtype).name}'
    if name == 'cudnn' and (config.head_dim > CUDNN_HEAD_DIM or config.head_dim % 8):
        return f'needs heads of a multiple of 8, at most {CUDNN_HEAD_DIM}, and the model has {config.head_dim}'
    if name == 'tpu' and config.sliding_window and config.first_window_layer:
        return 'has one sliding window for all layers, and the first layers of the model have none'
    return ''


def check(config: 'DecoderConfig') -> None:
    """UserError for a kernel that there is not, that the platform lacks, or that does not fit the model."""
    name, here = config.attention, platform(config.mesh)
    said = f'language.attention="{name}"'
    if name not in KERNELS:
        raise UserError(f'{said}: should be one of {", ".join(KERNELS)}.{nearest(name, KERNELS)}')
    if PLATFORMS.get(name, here) != here:
        raise UserError(f'{said}: this kernel runs on {PLATFORMS[name]}, and this is {here}; use "auto" or "xla".')
    if why := misfit(name, config):
        raise UserError(f'{said}: it {why}; use "auto" or "xla".')


def attend_sequences(q: jax.Array, k: jax.Array, v: jax.Array, sight: Sight, config: 'DecoderConfig') -> jax.Array:
    """`attention.attend` of whole sequences (T = S), by `sight.kernel`; queries of padding come out as anything."""
    if sight.kernel == 'cudnn':
        return cudnn(q, k, v, sight.mask)
    if sight.kernel == 'tpu':
        run = functools.partial(tpu, window=config.sliding_window)
        return _on_each_device(run, config.mesh)(q, k, v, sight.segments)
    return attend(q, k, v, sight.mask)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Flash attention by cuDNN: q [B, H, S, d], k, v [B, K, S, d], mask bool [B, S, S] → [B, H, S, d]."""
    length = q.shape[2]
    odd = length % 2  # which its backward pass refuses
    q, k, v = (jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, odd), (0, 0), (0, 0))) for x in (q, k, v))
    mask = jnp.pad(mask, ((0, 0), (0, odd), (0, odd)))
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], implementation='cudnn')
    return out[:, :length].swapaxes(1, 2)


def tpu(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, window: int | None = None,
        interpret: bool = False) -> jax.Array:
    """Splash attention: q [B, H, S, d], k, v [B, K, S, d], segments int [B, S] → [B, H, S, d].

    A query sees the slots of its segment up to its own, of them the last `window`.
    """
    # Here, since only this function needs Pallas, which takes its time to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    heads, length, head_dim = q.shape[1:]
    more = -length % 128
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in (q, k, v))
    segments = jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, more)))
    size = next(size for size in (TPU_BLOCK, 256, 128) if (length + more) % size == 0)
    blocks = splash.BlockSizes(**{f'block_{name}': size for name in (
        'q', 'kv', 'kv_compute', 'q_dkv', 'kv_dkv', 'kv_dkv_compute', 'q_dq', 'kv_dq')})
    shape = (length + more,) * 2
    one = (splash_attention_mask.CausalMask(shape) if window is None
           else splash_attention_mask.LocalMask(shape, (window - 1, 0), 0))
    kernel = splash.make_splash_mha(splash_attention_mask.MultiHeadMask([one] * heads), head_shards=1, q_seq_shards=1,
                                    block_sizes=blocks, interpret=interpret)
    scaled = (q.astype(jnp.float32) * head_dim**-0.5).astype(q.dtype)
    out = jax.vmap(kernel)(scaled, k, v, splash.SegmentIds(segments, segments))
    return out[:, :, :length].astype(v.dtype)


def _on_each_device(run: Callable, mesh: Mesh | None) -> Callable:
    """`run` of each device's rows and heads: no compiler knows how to split a kernel."""
    if mesh is None or mesh.size == 1:
        return run

    def split(q, k, v, segments):
        spec = lambda x, *names: sharding.partition(names + (None,) * (x.ndim - len(names)), x.shape, mesh)
        specs = (spec(q, 'batch', 'heads'), spec(k, 'batch', 'kv_heads'), spec(v, 'batch', 'kv_heads'),
                 spec(segments, 'batch'))
        return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(q, k, v, segments)

    return split
