"""Adapters: what they change, what they leave, and that merging equals applying."""

import flax.traverse_util
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, lora
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.lora import LoraConfig

CONFIG = DecoderConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2,
                           num_heads=4, num_kv_heads=2, head_dim=4)
LORA = LoraConfig(rank=3, alpha=12.0)
MODEL = decoder.Decoder(CONFIG, lora_scale=LORA.scale)
TOKENS = np.random.default_rng(0).integers(0, 32, size=(2, 9))
MASK = np.ones(TOKENS.shape, bool)


@pytest.fixture(scope='module')
def params():
    return jax.jit(lambda: decoder.init_params(jax.random.key(0), CONFIG))()


def random_adapter(params, config=LORA):
    adapter = lora.init_adapter(jax.random.key(1), params, config)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.3, adapter)


@jax.jit
def logits(variables):
    hidden, _ = MODEL.apply(variables, TOKENS, decoder.positions_of(MASK), MASK)
    return MODEL.apply(variables, hidden, method='logits')


def target_sum(variables):
    return jnp.sum(logits(variables)[:, :, 5])


@jax.jit
def adapter_gradient(params, adapter):
    return jax.grad(lambda adapter: target_sum({'params': params, 'lora': adapter}))(adapter)


def test_fresh_adapter_changes_nothing(params):
    adapter = lora.init_adapter(jax.random.key(1), params, LORA)
    np.testing.assert_array_equal(logits({'params': params, 'lora': adapter}), logits({'params': params}))


def test_fresh_adapter_is_that_of_peft(params):
    adapter = flax.traverse_util.flatten_dict(lora.init_adapter(jax.random.key(1), params, LORA))
    drawn = []
    for path, value in adapter.items():
        fan_in, fan_out = flax.traverse_util.flatten_dict(params)[path[:-1] + ('kernel',)].shape[1:]
        assert value.dtype == jnp.float32
        if path[-1] == 'b':
            assert value.shape == (2, 3, fan_out) and not np.asarray(value).any()
        else:
            assert value.shape == (2, fan_in, 3)
            assert 0.7 < np.abs(value).max() * np.sqrt(fan_in) <= 1
            drawn.append(np.asarray(value).ravel()[:8])
    assert len(np.unique(np.stack(drawn), axis=0)) == len(lora.TARGETS)  # none shares its numbers


def test_merged_weights_equal_applying_the_adapter(params):
    adapter = random_adapter(params)
    applied = logits({'params': params, 'lora': adapter})
    assert np.abs(applied - logits({'params': params})).max() > 0.1
    np.testing.assert_allclose(logits({'params': lora.merge(params, adapter, LORA)}), applied, atol=1e-4)


def test_merging_equals_numpy_and_keeps_dtype(params):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    adapter = random_adapter(params)
    merged = flax.traverse_util.flatten_dict(lora.merge(half, adapter, LORA))
    pairs = flax.traverse_util.flatten_dict(adapter)
    for path, value in flax.traverse_util.flatten_dict(half).items():
        assert merged[path].dtype == jnp.bfloat16
        expected = np.asarray(value, np.float64)
        if path[:-1] + ('a',) in pairs:
            a, b = (np.asarray(pairs[path[:-1] + (leaf,)], np.float64) for leaf in 'ab')
            expected = expected + np.stack([a[n] @ b[n] for n in range(2)]) * 12.0 / 3
        np.testing.assert_allclose(np.asarray(merged[path], np.float64), expected, rtol=1e-2, atol=1e-6)


def test_adapter_sits_on_the_chosen_targets_only(params):
    config = LoraConfig(rank=2, alpha=4.0, targets=('q_proj', 'down_proj'))
    adapter = lora.init_adapter(jax.random.key(0), params, config)
    paths = {path[:-1] for path in flax.traverse_util.flatten_dict(adapter)}
    assert paths == {('layers', 'self_attn', 'q_proj'), ('layers', 'mlp', 'down_proj')}
    merged = lora.merge(params, random_adapter(params, config), config)
    for path, value in flax.traverse_util.flatten_dict(merged).items():
        same = np.array_equal(value, flax.traverse_util.flatten_dict(params)[path])
        assert same == (path[:-1] not in paths)


def test_adapter_of_shapes_equals_adapter_of_arrays(params):
    shapes = jax.eval_shape(lambda: params)
    jax.tree.map(np.testing.assert_array_equal, lora.init_adapter(jax.random.key(1), shapes, LORA),
                 lora.init_adapter(jax.random.key(1), params, LORA))


def test_unknown_target_names_the_nearest():
    with pytest.raises(UserError, match='"q_prj".*Did you mean "q_proj"'):
        LoraConfig(targets=('q_prj',))


def test_gradient_of_the_adapter_is_that_of_the_merged_weights(params):
    """dL/dA = dL/dW Bᵀ s and dL/dB = Aᵀ dL/dW s, by the chain rule through the merged matrix."""
    adapter = random_adapter(params)

    ours = adapter_gradient(params, adapter)
    merged = lora.merge(params, adapter, LORA)
    theirs = jax.jit(jax.grad(lambda params: target_sum({'params': params})))(merged)
    gradient, full = flax.traverse_util.flatten_dict(ours), flax.traverse_util.flatten_dict(theirs)
    pairs = flax.traverse_util.flatten_dict(adapter)
    for path in pairs:
        w = np.asarray(full[path[:-1] + ('kernel',)], np.float64)
        a, b = (np.asarray(pairs[path[:-1] + (leaf,)], np.float64) for leaf in 'ab')
        expected = (w @ b.swapaxes(1, 2) if path[-1] == 'a' else a.swapaxes(1, 2) @ w) * LORA.scale
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient[path], expected, atol=1e-3 * scale)


def test_fresh_adapter_moves_only_its_zero_half(params):
    adapter = lora.init_adapter(jax.random.key(1), params, LORA)
    gradient = adapter_gradient(params, adapter)
    for path, value in flax.traverse_util.flatten_dict(gradient).items():
        assert bool(np.abs(value).max() > 0) == (path[-1] == 'b')
