"""Kernels of attention against `attention.attend`; what cannot run here is lowered for its platform."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, flash, lora, tuning
from xrec_jax.language.attention import attend
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.packing import Packed

LENGTH = 101  # fills no block
CONFIG = DecoderConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2,
                       head_dim=64, dtype=jnp.bfloat16)


@functools.cache
def inputs(heads=4, kv_heads=2, head_dim=16):
    """q, k, v, and segments: a row padded on the left, and one of three packed texts with padding behind."""
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(2, n, LENGTH, head_dim)), jnp.float32)
               for n in (heads, kv_heads, kv_heads))
    packed = np.repeat([1, 2, 3, 0], [40, 7, 30, LENGTH - 77])
    return q, k, v, jnp.asarray(np.stack([np.arange(LENGTH) >= 33, packed]), jnp.int32)


def mask_of(segments, window=None):
    """The mask [B, S, S], slot by slot."""
    segments = np.asarray(segments)
    mask = np.zeros((2, LENGTH, LENGTH), bool)
    for row, query, key in np.ndindex(mask.shape):
        mask[row, query, key] = (key <= query and segments[row, query] == segments[row, key] > 0
                                 and (window is None or query - key < window))
    return jnp.asarray(mask)


def real(out, segments):
    return np.where((np.asarray(segments) > 0)[:, None, :, None], out, 0)


@pytest.mark.parametrize('window', [None, 12])
def test_tpu_kernel_is_our_attention(window):
    q, k, v, segments = inputs()
    ours = attend(q, k, v, mask_of(segments, window))
    theirs = flash.tpu(q, k, v, segments, window, interpret=True)
    np.testing.assert_allclose(real(theirs, segments), real(ours, segments), atol=1e-5)


def test_tpu_kernel_has_our_gradients():
    q, k, v, segments = inputs()
    weight = jnp.asarray(np.random.default_rng(1).normal(size=q.shape) * (np.asarray(segments) > 0)[:, None, :, None])
    gradients = lambda run: jax.grad(lambda *qkv: (run(*qkv) * weight).sum(), argnums=(0, 1, 2))(q, k, v)
    ours = gradients(lambda *qkv: attend(*qkv, mask_of(segments)))
    theirs = gradients(lambda *qkv: flash.tpu(*qkv, segments, interpret=True))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_cudnn_gets_our_heads_and_our_mask(monkeypatch):
    """Its computation is JAX's to test; what we hand to it is what the form without cuDNN gets."""
    q, k, v, segments = inputs()
    plain = jax.nn.dot_product_attention

    def instead(q, k, v, *, mask, implementation):
        assert implementation == 'cudnn' and q.shape[1] % 2 == 0
        return plain(q, k, v, mask=mask, implementation='xla')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', instead)
    mask = mask_of(segments, 12)
    out = flash.cudnn(q, k, v, mask)
    np.testing.assert_allclose(real(out, segments), real(attend(q, k, v, mask), segments), atol=1e-5)


def lowered(attention, platform, config=CONFIG):
    """The text of a tuning step's loss and gradient on packed rows, lowered for a platform."""
    config = dataclasses.replace(config, attention=attention)
    params = jax.eval_shape(lambda key: decoder.init_params(key, config), jax.random.key(0))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, config.dtype), params)
    adapter = jax.eval_shape(lambda key: lora.init_adapter(key, params, lora.LoraConfig(rank=2)), jax.random.key(0))
    field = lambda dtype: jax.ShapeDtypeStruct((2, LENGTH), dtype)
    batch = Packed(*[field(jnp.int32)] * 3, field(bool), jax.ShapeDtypeStruct((), jnp.int32))
    loss = lambda params, adapter, batch: tuning.packed_loss(decoder.Decoder(config), params, adapter, batch, 0.0)
    step = jax.jit(jax.grad(loss, argnums=1, has_aux=True))
    return step.trace(params, adapter, batch).lower(lowering_platforms=(platform,)).as_text()


def test_tuning_lowers_for_tpu_with_its_kernel():
    assert lowered('tpu', 'tpu').count('tpu_custom_call') >= 3  # forward, and the gradients of queries, keys and values
    assert 'tpu_custom_call' not in lowered('xla', 'tpu')


def test_tuning_lowers_for_cuda_with_its_kernel(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn
    monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91200)
    text = lowered('cudnn', 'cuda')
    assert '__cudnn$fmha' in text and 'Backward' in text
    assert '__cudnn' not in lowered('xla', 'cuda')


@pytest.mark.parametrize('platform, changes, by_segments, expected', [
    ('cpu', {}, True, 'xla'),
    ('gpu', {}, True, 'cudnn'),
    ('gpu', {}, False, 'cudnn'),
    ('gpu', {'dtype': jnp.float32}, True, 'xla'),
    ('gpu', {'head_dim': 256}, True, 'xla'),
    ('gpu', {'attention': 'xla'}, True, 'xla'),
    ('tpu', {}, True, 'tpu'),
    ('tpu', {'dtype': jnp.float32, 'sliding_window': 8}, True, 'tpu'),
    ('tpu', {}, False, 'xla'),
    ('tpu', {'attention': 'tpu'}, False, 'xla'),
    ('tpu', {'sliding_window': 8, 'first_window_layer': 1}, True, 'xla'),
])
def test_auto_is_the_platforms_kernel_where_it_fits(monkeypatch, platform, changes, by_segments, expected):
    monkeypatch.setattr(flash, 'platform', lambda mesh: platform)
    assert flash.choose(dataclasses.replace(CONFIG, **changes), by_segments) == expected


@pytest.mark.parametrize('platform, changes, said', [
    ('cpu', {'attention': 'cudnn'}, 'runs on gpu, and this is cpu'),
    ('gpu', {'attention': 'tpu'}, 'runs on tpu, and this is gpu'),
    ('gpu', {'attention': 'cudn'}, 'Did you mean "cudnn"'),
    ('gpu', {'attention': 'cudnn', 'dtype': jnp.float32}, 'needs bfloat16'),
    ('gpu', {'attention': 'cudnn', 'head_dim': 20}, 'multiple of 8'),
    ('tpu', {'attention': 'tpu', 'sliding_window': 8, 'first_window_layer': 1}, 'first layers'),
])
def test_a_kernel_that_cannot_be_is_refused_by_name(monkeypatch, platform, changes, said):
    monkeypatch.setattr(flash, 'platform', lambda mesh: platform)
    with pytest.raises(UserError, match=f'language.attention="{changes["attention"]}".*{said}'):
        flash.check(dataclasses.replace(CONFIG, **changes))


def test_kernels_that_fit_pass(monkeypatch):
    flash.check(CONFIG)
    monkeypatch.setattr(flash, 'platform', lambda mesh: 'gpu')
    flash.check(dataclasses.replace(CONFIG, attention='cudnn'))
