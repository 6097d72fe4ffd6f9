"""Integers in place of weights: how far they are off, that they stay integers, and that all else works on them."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, lora, quantize
from xrec_jax.language.config import DecoderConfig

CONFIG = DecoderConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2,
                       head_dim=4)
LORA = lora.LoraConfig(rank=3, alpha=12.0)
MODEL = decoder.Decoder(CONFIG, LORA.scale)
TOKENS = np.random.default_rng(0).integers(0, 32, size=(2, 9))
MASK = np.ones(TOKENS.shape, bool)


@pytest.fixture(scope='module')
def params():
    return jax.jit(lambda: decoder.init_params(jax.random.key(0), CONFIG))()


@jax.jit
def logits(variables):
    hidden, _ = MODEL.apply(variables, TOKENS, decoder.positions_of(MASK), MASK)
    return MODEL.apply(variables, hidden, method='logits')


@pytest.mark.parametrize('kind, largest', [('int8', 127), ('int4', 7)])
def test_each_channel_has_its_own_scale_and_is_off_by_half_a_step(kind, largest, monkeypatch):
    monkeypatch.setitem(quantize.CLIPS, kind, (1.0,))
    quantize.quantize_kernel.clear_cache()
    kernel = np.random.default_rng(1).normal(size=(3, 64, 8)).astype(np.float32) * 10.0 ** np.arange(-4, 4)
    kernel[1, :, 2] = 0
    values, scale = quantize.quantize_kernel(kernel, kind)
    quantize.quantize_kernel.clear_cache()
    assert values.dtype == quantize.KINDS[kind] and values.shape == kernel.shape and scale.shape == (3, 8)
    whole = np.asarray(values, np.int32)
    assert np.abs(whole).max(axis=1)[kernel.any(axis=1)].min() == largest and np.abs(whole).max() == largest
    off = np.abs(np.asarray(quantize.dequantize_kernel(values, scale), np.float64) - kernel)
    assert np.all(off <= np.asarray(scale, np.float64)[:, None] * 0.5001)
    assert not off[1, :, 2].any()
    np.testing.assert_allclose(scale[kernel.any(axis=1)], np.abs(kernel).max(axis=1)[kernel.any(axis=1)] / largest,
                               rtol=1e-6)


def test_the_scale_of_int4_is_the_one_of_least_squared_error():
    kernel = np.random.default_rng(2).normal(size=(256, 6)).astype(np.float32)
    values, scale = quantize.quantize_kernel(kernel, 'int4')

    def error(scale):
        return ((np.clip(np.round(kernel / scale), -7, 7) * scale - kernel) ** 2).sum(axis=0)

    tried = np.abs(kernel).max(axis=0) / 7 * np.array(quantize.CLIPS['int4'])[:, None]
    errors = np.stack([error(scale) for scale in tried])
    np.testing.assert_allclose(error(np.asarray(scale)), errors.min(axis=0), rtol=1e-5)
    assert np.all(errors.min(axis=0) < errors[0])  # cutting off pays for normal weights
    np.testing.assert_array_equal(np.asarray(values, np.float32), np.clip(np.round(kernel / scale), -7, 7))


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_the_model_of_integers_is_that_of_the_floats_they_stand_for(params, kind):
    quantised = quantize.quantize(params, kind, lora.TARGETS, head=True)
    floats = quantize.dequantize(quantised)
    assert jax.tree.structure(floats) == jax.tree.structure(params)
    ours, theirs = logits({'params': quantised}), logits({'params': floats})
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert 1e-3 < np.abs(ours - logits({'params': params})).max() < {'int8': 0.2, 'int4': 3}[kind]


def test_only_projections_are_quantised_and_the_head_if_asked(params):
    for head in (False, True):
        quantised = quantize.quantize(params, 'int8', lora.TARGETS, head)
        kinds = {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.dtype
                 for path, leaf in jax.tree_util.tree_leaves_with_path(quantised)}
        integers = {name for name, kind in kinds.items() if kind == jnp.int8}
        assert integers == {f'layers/{module}/kernel' for module in (
            'self_attn/q_proj', 'self_attn/k_proj', 'self_attn/v_proj', 'self_attn/o_proj', 'mlp/gate_proj',
            'mlp/up_proj', 'mlp/down_proj')} | ({'lm_head'} if head else set())
    some = quantize.quantize(params, 'int8', ('q_proj',))
    assert some['layers']['self_attn']['q_proj']['kernel'].dtype == jnp.int8
    assert some['layers']['self_attn']['k_proj']['kernel'] is params['layers']['self_attn']['k_proj']['kernel']


def test_bytes_are_those_of_the_integers(params):
    projections = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if 'kernel' in str(path))
    scales = 4 * 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
    others = quantize.num_bytes(params) - 4 * projections
    for kind, size in (('int8', projections), ('int4', projections / 2)):
        assert quantize.num_bytes(quantize.quantize(params, kind, lora.TARGETS)) == others + size + scales


def test_weights_stay_integers_up_to_the_product(params):
    """No float array of the shape of a whole stack of kernels is made."""
    def jaxprs(jaxpr):
        yield jaxpr
        for eqn in jaxpr.eqns:
            yield from (inner for part in jax.extend.core.jaxprs_in_params(eqn.params) for inner in jaxprs(part))

    def stacks(params):
        program = jax.make_jaxpr(lambda params: logits({'params': params}))(params)
        return [var.aval.dtype for jaxpr in jaxprs(program.jaxpr) for var in
                [*jaxpr.invars, *(var for eqn in jaxpr.eqns for var in eqn.outvars)] if var.aval.shape == (2, 16, 24)]

    assert set(stacks(quantize.quantize(params, 'int8', lora.TARGETS))) == {jnp.dtype(jnp.int8)}
    assert set(stacks(params)) == {jnp.dtype(jnp.float32)}


def test_an_adapter_learns_on_integers_as_on_the_floats_they_stand_for(params):
    quantised = quantize.quantize(params, 'int4', lora.TARGETS)
    fresh = lora.init_adapter(jax.random.key(1), quantised, LORA)
    rng = np.random.default_rng(2)
    adapter = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.3, fresh)
    gradient = jax.jit(jax.grad(lambda adapter, params: logits({'params': params, 'lora': adapter})[:, :, 5].sum()))
    ours, theirs = (gradient(adapter, base) for base in (quantised, quantize.dequantize(quantised)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), ours, theirs)
    merged = lora.merge(quantised, adapter, LORA)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(logits({'params': merged}), logits({'params': quantised, 'lora': adapter}), atol=2e-4)


def test_what_cannot_be_quantised_is_refused(params):
    with pytest.raises(UserError, match='quantize="int5".*Did you mean "int'):
        quantize.quantize(params, 'int5', lora.TARGETS)
    once = quantize.quantize(params, 'int8', lora.TARGETS)
    with pytest.raises(UserError, match='kernel is int8 already'):
        quantize.quantize(once, 'int8', lora.TARGETS)
    with pytest.raises(UserError, match='sparse experts cannot be quantised'):
        quantize.quantize({'layers': {'mlp': {'experts': {'up': jnp.ones((2, 2, 2, 2))}}}}, 'int8', lora.TARGETS)
