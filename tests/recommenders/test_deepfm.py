"""DeepFM against a slow NumPy float64 one: pairs counted pair by pair, layers by loops."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.recommenders.deepfm import DeepFM

B, F, A, V, E, K, D = 7, 4, 3, 30, 5, 2, 6


def case(seed=0, attributes=A, **options):
    """(model, params with every leaf random, ids, attributes, text)."""
    rng = np.random.default_rng(seed)
    model = DeepFM(vocab_size=V, embed_dim=E, mlp=(8, 4), **options)
    ids = rng.integers(0, V, (B, F)).astype(np.int32)
    ids[0, 1] = 0  # absent
    many = np.where(rng.random((B, attributes)) < 0.5, rng.integers(1, V, (B, attributes)), 0)
    many[:1] = 0  # an item without any
    text = rng.normal(size=(B, K, D)).astype(np.float32)
    text[2] = 0  # a row without explanations
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.5, size=x.shape), jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0), ids, many.astype(np.int32))['params'])
    return model, params, ids, many.astype(np.int32), text


def plain(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), nn.unbox(params))


def slow_deepfm(params, ids, attributes, text):
    p = plain(params)
    logits = []
    for b in range(len(ids)):
        vectors, weights = [], []
        for i in ids[b]:
            vectors.append(p['embedding'][i] if i > 0 else np.zeros(E))
            weights.append(p['weight'][i] if i > 0 else 0.0)
        if attributes.shape[1]:
            here = [a for a in attributes[b] if a > 0]
            vectors.append(np.mean([p['embedding'][a] for a in here], axis=0) if here else np.zeros(E))
            weights.append(np.mean([p['weight'][a] for a in here]) if here else 0.0)
        first = p['bias'] + sum(weights)
        second = 0.0
        for f in range(len(vectors)):
            for g in range(f):
                second += float(np.dot(vectors[f], vectors[g]))
        hidden = [x for vector in vectors for x in vector]
        if text is not None:
            for z in text[b].astype(np.float64):
                scale = np.sqrt(np.mean(z ** 2))
                z = z / scale if scale > 0 else z
                if 'text_projection' in p:
                    z = z @ p['text_projection']['kernel']
                hidden.extend(z)
        for n in range(2):
            layer = p[f'mlp_{n}']
            hidden = [max(0.0, float(np.dot(hidden, layer['kernel'][:, j]) + layer['bias'][j]))
                      for j in range(layer['kernel'].shape[1])]
        deep = np.dot(hidden, p['mlp_out']['kernel'][:, 0]) + p['mlp_out']['bias'][0]
        logits.append(first + second + deep)
    return np.array(logits)


@pytest.mark.parametrize('attributes', [A, 0])
def test_ids_alone_equal_the_slow_model(attributes):
    model, params, ids, many, _ = case(attributes=attributes)
    logits = jax.jit(model.apply)({'params': params}, ids, many)
    assert logits.shape == (B,) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, slow_deepfm(params, ids, many, None), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('projection', [0, 3])
def test_with_explanations_equals_the_slow_model(projection):
    model, params, ids, many, text = case(text_dim=D, num_texts=K, text_projection=projection)
    logits = jax.jit(model.apply)({'params': params}, ids, many, text)
    np.testing.assert_allclose(logits, slow_deepfm(params, ids, many, text), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('projection', [0, 3])
def test_no_text_is_exactly_zero_text(projection):
    model, params, ids, many, text = case(text_dim=D, num_texts=K, text_projection=projection)
    without = model.apply({'params': params}, ids, many, None)
    zeros = model.apply({'params': params}, ids, many, np.zeros_like(text))
    some = model.apply({'params': params}, ids, many, text)
    np.testing.assert_array_equal(without, zeros)
    differs = np.asarray(some != without)
    assert not differs[2] and differs[[0, 1, 3, 4, 5, 6]].all()  # row 2 has no explanations


def test_zero_text_has_a_finite_gradient():
    model, params, ids, many, text = case(text_dim=D, num_texts=K, text_projection=3)
    gradient = jax.grad(lambda t: model.apply({'params': params}, ids, many, t).sum())(
        jnp.zeros_like(text))
    assert np.isfinite(gradient).all()


def test_the_scale_of_an_encoder_does_not_matter():
    model, params, ids, many, text = case(text_dim=D, num_texts=K)
    one, large = (model.apply({'params': params}, ids, many, s * text) for s in (1.0, 1000.0))
    np.testing.assert_allclose(one, large, rtol=1e-4)


def test_projection_has_no_bias_and_the_width_asked_for():
    _, params, *_ = case(text_dim=D, num_texts=K, text_projection=3)
    assert set(params['text_projection']) == {'kernel'}
    assert plain(params)['text_projection']['kernel'].shape == (D, 3)
    assert plain(params)['mlp_0']['kernel'].shape == ((F + 1) * E + K * 3, 8)
    _, without, *_ = case(text_dim=D, num_texts=K)
    assert 'text_projection' not in without


def test_order_of_attributes_and_pads_does_not_matter():
    model, params, ids, many, _ = case()
    shuffled = np.concatenate([many[:, ::-1], np.zeros((B, 2), np.int32)], axis=1)
    np.testing.assert_allclose(model.apply({'params': params}, ids, many),
                               model.apply({'params': params}, ids, shuffled), rtol=1e-5, atol=1e-6)


def test_text_for_a_model_without_a_place_is_refused():
    model, params, ids, many, text = case()
    with pytest.raises(ValueError, match='set text_dim'):
        model.apply({'params': params}, ids, many, text)


def test_text_of_another_shape_is_refused():
    model, params, ids, many, text = case(text_dim=D, num_texts=K)
    with pytest.raises(AssertionError):
        model.apply({'params': params}, ids, many, text[:, :1])


def test_dropout_acts_in_training_only():
    model, params, ids, many, text = case(text_dim=D, num_texts=K, text_projection_dropout=0.5)
    score = lambda n: model.apply({'params': params}, ids, many, text, train=True,
                                  rngs={'dropout': jax.random.key(n)})
    assert not np.allclose(score(0), score(1))
    np.testing.assert_array_equal(score(0), score(0))


def test_a_model_with_a_list_of_layers_can_be_a_static_argument():
    assert hash(DeepFM(vocab_size=V, mlp=[8, 4])) == hash(DeepFM(vocab_size=V, mlp=(8, 4)))
