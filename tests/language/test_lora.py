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
from xrec_jax.language.projection import Projection

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


def test_bad_settings_are_refused(params):
    with pytest.raises(UserError, match='"q_prj".*Did you mean "q_proj"'):
        LoraConfig(targets=('q_prj',))
    with pytest.raises(UserError, match='lora.rank=0'):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match='lora.dropout=1.0'):
        LoraConfig(dropout=1.0)
    with pytest.raises(UserError, match='has none of q_proj'):
        lora.init_adapter(jax.random.key(0), {'layers': {'mlp': params['layers']['mlp']}}, LoraConfig(targets=('q_proj',)))


def test_rslora_divides_alpha_by_the_root_of_the_rank():
    assert LoraConfig(rank=16, alpha=32.0).scale == 2 and LoraConfig(rank=16, alpha=32.0, rslora=True).scale == 8


def project(x, lora, dropout=0.0, key=None, dtype=jnp.float32):
    module = Projection(6, ('embed', 'mlp'), dtype, lora_scale=0.5, lora_dropout=dropout)
    kernel = np.random.default_rng(4).normal(size=(5, 6)).astype(np.float32)
    variables = {'params': {'kernel': kernel.astype(dtype)}} | ({'lora': lora} if lora else {})
    return module.apply(variables, x.astype(dtype), rngs=None if key is None else {'dropout': key})


def pair():
    rng = np.random.default_rng(5)
    return {'a': rng.normal(size=(5, 2)).astype(np.float32), 'b': rng.normal(size=(2, 6)).astype(np.float32)}


@pytest.mark.parametrize('tokens', [4, 40])  # added to the product, and to the matrix
@pytest.mark.parametrize('dtype, tolerance', [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_few_tokens_and_many_have_the_same_result_and_gradients(tokens, dtype, tolerance):
    x = np.random.default_rng(6).normal(size=(2, tokens // 2, 5)).astype(np.float32)
    out = np.asarray(project(x, pair(), dtype=dtype), np.float64)
    a, b = (value.astype(np.float64) for value in pair().values())
    kernel = np.random.default_rng(4).normal(size=(5, 6))
    np.testing.assert_allclose(out, x @ (kernel + 0.5 * a @ b), atol=tolerance * 10)
    dy = np.cos(np.arange(out.size)).reshape(out.shape)
    gradient = jax.grad(lambda x, lora: (project(x, lora, dtype=dtype) * dy).sum(), argnums=(0, 1))(x, pair())
    flat, flat_dy = x.reshape(-1, 5), dy.reshape(-1, 6)
    expected = (flat_dy @ (kernel + 0.5 * a @ b).T).reshape(x.shape), {
        'a': 0.5 * flat.T @ flat_dy @ b.T, 'b': 0.5 * (flat @ a).T @ flat_dy}
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(
        np.asarray(ours, np.float64), theirs, atol=tolerance * np.abs(theirs).max()), gradient, expected)


def test_a_trained_kernel_under_an_adapter_has_its_gradient():
    """Frozen ones have none to compute; but who trains both gets both."""
    x = np.random.default_rng(6).normal(size=(40, 5)).astype(np.float32)
    module = Projection(6, ('embed', 'mlp'), jnp.float32, lora_scale=0.5)
    gradient = jax.grad(lambda kernel: module.apply({'params': {'kernel': kernel}, 'lora': pair()}, x).sum())
    np.testing.assert_allclose(gradient(np.ones((5, 6), np.float32)), np.repeat(x.sum(axis=0)[:, None], 6, 1), atol=1e-4)


def test_dropout_touches_the_adapters_input_alone_and_keeps_its_mean():
    x = np.random.default_rng(6).normal(size=(40, 5)).astype(np.float32)
    plain, base = project(x, pair()), project(x, None)
    np.testing.assert_array_equal(project(x, pair(), dropout=0.5), plain)  # without a key
    np.testing.assert_array_equal(project(x, None, 0.5, jax.random.key(0)), base)
    outs = np.stack([project(x, pair(), 0.5, jax.random.key(n)) for n in range(400)])
    assert len(np.unique(outs[:, 0, 0])) > 20
    deviation = outs.std(axis=0) / 20
    assert np.mean(np.abs(outs.mean(axis=0) - plain) < 3 * deviation) > 0.98
    # What is dropped is an input of A: the change is one of 2^5 sums of its rows.
    a, b = pair().values()
    kept = np.array(np.meshgrid(*[[0, 2]] * 5)).reshape(5, -1).T
    sums = (kept * x[0]) @ a @ b * 0.5
    change = outs[:, 0] - base[0]
    assert np.abs(change[:, None] - sums).max(axis=2).min(axis=1).max() < 1e-4


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
