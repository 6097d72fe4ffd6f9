"""Slow parts of CTR models in NumPy float64, row by row and by loops, and what every model must pass.

A test file gives its model and `slow(params, ids, attributes, text)` of one row; `text` is [K, d] or None.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

B, F, A, V, E, K, D = 7, 4, 3, 30, 5, 2, 6

# (attributes a row, text_projection or None for a model without explanations): what a golden test goes through.
CASES = [(A, None), (0, None), (A, 0), (0, 3), (A, 3)]


def case(model_class, *, attributes=A, projection=None, seed=0, **options):
    """(model, params with every leaf random, ids, attributes, text or None)."""
    rng = np.random.default_rng(seed)
    if projection is not None:
        options |= dict(text_dim=D, num_texts=K, text_projection=projection)
    model = model_class(**dict(vocab_size=V, embed_dim=E, mlp=(8, 4), num_user_fields=2) | options)
    ids = rng.integers(1, V, (B, F)).astype(np.int32)
    ids[0, 1] = ids[3, 0] = ids[3, 2] = 0  # absent
    many = np.where(rng.random((B, attributes)) < 0.5, rng.integers(1, V, (B, attributes)), 0).astype(np.int32)
    many[:1] = 0  # an item without any
    text = rng.normal(size=(B, K, D)).astype(np.float32)
    text[2] = 0  # a row without explanations

    def drawn(path, shape):
        x = jnp.asarray(rng.normal(scale=0.5, size=shape.shape), jnp.float32)
        return 0.5 + jnp.abs(x) if path[-1].key == 'variance' else x

    params = jax.tree_util.tree_map_with_path(
        drawn, nn.unbox(jax.eval_shape(model.init, jax.random.key(0), ids, many)['params']))
    return model, params, ids, many, None if projection is None else text


def plain(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def rows_of(table, ids, attributes):
    """One row or number of `table` a field, zeros where absent; last the attributes' mean."""
    rows = [table[i] if i > 0 else 0.0 * table[0] for i in ids]
    if len(attributes):
        here = [table[a] for a in attributes if a > 0]
        rows.append(sum(here) / len(here) if here else 0.0 * table[0])
    return rows


def features(p, text):
    """z of explanations [K, d], each at a root mean square of 1, as a list of numbers."""
    numbers = []
    for z in [] if text is None else np.asarray(text, np.float64):
        scale = np.sqrt(np.mean(z ** 2))
        z = z / scale if scale > 0 else z
        numbers.extend(z @ p['text_projection']['kernel'] if 'text_projection' in p else z)
    return numbers


def linear(layer, hidden):
    kernel = layer['kernel']
    assert len(hidden) == len(kernel)
    return [sum(hidden[i] * kernel[i, j] for i in range(len(hidden))) + (layer['bias'][j] if 'bias' in layer else 0.0)
            for j in range(kernel.shape[1])]


def normalised(p, name, hidden):
    """Batch-normalised by moving averages, where the model has any."""
    if name not in p:
        return hidden
    return [(x - mean) / np.sqrt(variance + 1e-5) * scale + bias for x, mean, variance, scale, bias
            in zip(hidden, *(p[name][key] for key in ('mean', 'variance', 'scale', 'bias')), strict=True)]


def relu_mlp(p, hidden):
    n = 0
    while f'mlp_{n}' in p:
        hidden = [max(0.0, x) for x in normalised(p, f'mlp_{n}_norm', linear(p[f'mlp_{n}'], hidden))]
        n += 1
    return hidden


def dot(x, y):
    assert len(x) == len(y)
    return sum(a * b for a, b in zip(x, y))


def check_equal(slow, model, params, ids, many, text):
    """The model is `slow`, row by row, within float32."""
    logits = jax.jit(model.apply)({'params': params}, ids, many, text)
    assert logits.shape == (len(ids),) and logits.dtype == jnp.float32
    p = plain(params)
    expected = [slow(p, ids[b], many[b], None if text is None else text[b]) for b in range(len(ids))]
    np.testing.assert_allclose(logits, expected, rtol=5e-5, atol=5e-5)


def check_zero_text_is_no_text(model, params, ids, many, text):
    apply = jax.jit(model.apply)
    none = apply({'params': params}, ids, many, None)
    np.testing.assert_array_equal(none, apply({'params': params}, ids, many, np.zeros_like(text)))
    differs = np.asarray(none != apply({'params': params}, ids, many, text))
    assert not differs[2] and differs[[0, 1, 3, 4, 5, 6]].all()  # row 2 has no explanations


def check_absent_ids_have_no_say(model, params, ids, many, text):
    """Row 0 of the tables belongs to nobody."""
    changed = dict(params)
    for name in {'embedding', 'weight'} & set(params):
        changed[name] = params[name].at[0].set(100.0)
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply({'params': params}, ids, many, text),
                                  apply({'params': changed}, ids, many, text))


def check_gradients_are_finite(model, params, ids, many, text):
    """Also where a row has neither ids nor explanations, and at the parameters a run starts from."""
    empty = np.zeros_like(ids), np.zeros_like(many), np.zeros_like(text)
    start = nn.unbox(jax.jit(model.init)(jax.random.key(0), ids, many)['params'])
    loss = lambda p, ids, many, text: model.apply({'params': p}, ids, many, text).sum()
    gradient = jax.jit(jax.grad(loss, argnums=(0, 3)))
    for p in params, start:
        for inputs in (ids, many, text), empty:
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(p, *inputs)))


def check_parameters_have_axes(model, ids, many):
    """Every table and kernel names a logical axis for each of its dimensions."""
    specs = nn.get_partition_spec(jax.eval_shape(model.init, jax.random.key(0), ids, many))['params']
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), ids, many)['params'])
    for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
        spec = specs
        for key in path:
            spec = spec[key.key]
        named = [name for name in spec if name]
        assert shape.ndim == 0 or len(spec) == shape.ndim, path
        assert len(named) == len(set(named)), path  # no two dimensions along one axis of the mesh
