"""Every model against RecBole 1.2.1: its weights in ours, the same inputs, the same numbers within float32.

tests/golden/recbole/make.py tells what is in the files and which parts of RecBole's models were set aside before,
as ours differ from them on purpose; the models' docstrings say why. What is left, and so held here, is

  all of it    BPR, LightGCN, SASRec, BERT4Rec, GRU4Rec, LR, FM, DeepFM, DSSM, PNN, DCN, DCNv2 (both structures, and
               mixed); scores and, but for batch normalisation's, the loss
  Caser        the convolutions and z at full length; the output layer is our own
  xDeepFM      with CIN layers as in the paper, split as in RecBole
  AutoInt      one interacting layer with its residual, the deep and the linear part
  Fi-GNN       all but the edges' weights, which are even here
  DIN          with Dice in the activation unit, and an MLP that reads neither product nor user
  DIEN         both GRUs and the MLP, with even attention; not the auxiliary loss

PyTorch's linear layers are [out, in], flax's kernels [in, out].
"""

import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.recommenders import objectives, sequences
from xrec_jax.recommenders.autoint import AutoInt
from xrec_jax.recommenders.bert4rec import BERT4Rec
from xrec_jax.recommenders.caser import Caser
from xrec_jax.recommenders.dcn import DCN
from xrec_jax.recommenders.dcnv2 import DCNv2
from xrec_jax.recommenders.deepfm import DeepFM
from xrec_jax.recommenders.dien import DIEN
from xrec_jax.recommenders.din import DIN
from xrec_jax.recommenders.dssm import DSSM
from xrec_jax.recommenders.fignn import FiGNN
from xrec_jax.recommenders.fm import FM
from xrec_jax.recommenders.gru4rec import GRU4Rec
from xrec_jax.recommenders.lightgcn import LightGCN
from xrec_jax.recommenders.lr import LR
from xrec_jax.recommenders.mf import BPRMF
from xrec_jax.recommenders.pnn import PNN
from xrec_jax.recommenders.predictor import History
from xrec_jax.recommenders.sasrec import SASRec
from xrec_jax.recommenders.xdeepfm import XDeepFM

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'recbole'
USERS, ITEMS, LENGTH, E, MLP = 6, 9, 5, 4, (6, 5)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def load(name):
    """(weights, inputs, outputs) of a file."""
    with np.load(GOLDEN / f'{name}.npz') as arrays:
        return [{key.partition(':')[2]: arrays[key] for key in arrays if key.startswith(kind)}
                for kind in ('weight:', 'input:', 'output:')]


def padded(table):
    """Rows 1, 2, … of RecBole's table (0 is its pad) as ours: from 0, up to 128; junk in the padding."""
    return np.pad(table[1:], [(0, 129 - len(table))] + [(0, 0)] * (table.ndim - 1), constant_values=7.0)


def linear(w, name, rows=None):
    """A linear layer; `rows`: the order of its inputs."""
    kernel = w[f'{name}.weight'].T
    layer = {'kernel': kernel if rows is None else kernel[rows]}
    return layer | ({'bias': w[f'{name}.bias']} if f'{name}.bias' in w else {})


def norm(w, name):
    return {'scale': w[f'{name}.weight'], 'bias': w[f'{name}.bias']}


def batch_norm(w, name):
    return norm(w, name) | {'mean': w[f'{name}.running_mean'], 'variance': w[f'{name}.running_var']}


def right_aligned(history):
    return np.array([np.roll(row, (row == 0).sum()) for row in history], np.int32)


# ---------------------------------------------------------------------------------------- ranking

def scores_of(model, params, user, history, **constants):
    """Scores of all items [B, I]."""
    variables = {'params': params, **constants}
    users = model.apply(variables, user, history, method='user_vectors')
    scores = np.asarray(users @ model.apply(variables, method='item_vectors').T)
    return scores + model.apply(variables, method='item_bias') if hasattr(model, 'item_bias') else scores


def pairwise(name, model, **constants):
    w, given, out = load(name)
    params = {'user': padded(w['user_embedding.weight']), 'item': padded(w['item_embedding.weight'])}
    user, item, negative = (given[key] - 1 for key in ('user', 'positive', 'negative'))
    scores = scores_of(model, params, user, np.zeros((len(user), 0), np.int32), **constants)
    np.testing.assert_allclose(scores, out['scores'], **CLOSE)
    loss = model.apply({'params': params, **constants}, user, item, negative, np.ones(len(user)), method='loss')
    np.testing.assert_allclose(loss, out['loss'], **CLOSE)


def test_bpr():
    pairwise('bpr', BPRMF(USERS, ITEMS, E))


def test_lightgcn():
    model = LightGCN(USERS, ITEMS, E, num_layers=2, l2=0.1)
    user, item = load('lightgcn')[1]['edges'].T - 1
    pairwise('lightgcn', model, **model.constants(user, item))


def encoder(w, layers=2, heads=2):
    params = {'position_embedding': w['position_embedding.weight'], 'norm': norm(w, 'LayerNorm')}
    for n in range(layers):
        at = f'trm_encoder.layer.{n}'
        split = [linear(w, f'{at}.multi_head_attention.{name}') for name in ('query', 'key', 'value')]
        size = len(w['LayerNorm.bias'])
        params |= {
            f'qkv_{n}': {'kernel': np.stack([x['kernel'].reshape(size, heads, -1) for x in split], 1),
                         'bias': np.stack([x['bias'].reshape(heads, -1) for x in split])},
            f'attention_out_{n}': {
                'kernel': linear(w, f'{at}.multi_head_attention.dense')['kernel'].reshape(heads, -1, size),
                'bias': w[f'{at}.multi_head_attention.dense.bias']},
            f'attention_norm_{n}': norm(w, f'{at}.multi_head_attention.LayerNorm'),
            f'inner_{n}': linear(w, f'{at}.feed_forward.dense_1'),
            f'outer_{n}': linear(w, f'{at}.feed_forward.dense_2'),
            f'inner_norm_{n}': norm(w, f'{at}.feed_forward.LayerNorm')}
    return params


def next_item(name, model, params):
    """Scores after the history, and the cross-entropy of the next item."""
    _, given, out = load(name)
    history = right_aligned(given['history'])
    scores = scores_of(model, params, given['user'] - 1, history)
    np.testing.assert_allclose(scores, out['scores'], **CLOSE)
    states = model.apply({'params': params}, given['user'] - 1, history, method='user_vectors')
    vectors = model.apply({'params': params}, method='item_vectors')
    loss = sequences.softmax_cross_entropy(states, vectors, given['positive'])
    np.testing.assert_allclose(loss, out['loss'], **CLOSE)


def test_sasrec():
    w = load('sasrec')[0]
    params = {'item_embedding': padded(w['item_embedding.weight']), 'encoder': encoder(w)}
    next_item('sasrec', SASRec(ITEMS, 8, LENGTH, inner=12), params)


def test_gru4rec():
    w = load('gru4rec')[0]
    params = {'item_embedding': padded(w['item_embedding.weight']),
              'recurrent': {'input_0': w['gru_layers.weight_ih_l0'].T, 'recurrent_0': w['gru_layers.weight_hh_l0'].T,
                            'dense': linear(w, 'dense')}}
    next_item('gru4rec', GRU4Rec(ITEMS, E, LENGTH, hidden=6), params)


def test_bert4rec():
    w, given, out = load('bert4rec')
    model = BERT4Rec(ITEMS, 8, LENGTH, inner=12)
    params = {'item_embedding': padded(w['item_embedding.weight'][:-1]),
              'mask_embedding': w['item_embedding.weight'][-1], 'item_bias': padded(w['output_bias']),
              'encoder': encoder(w),
              'head': {'transform': linear(w, 'output_ffn'), 'norm': norm(w, 'output_ln')}}
    # RecBole drops the oldest item of short histories, too.
    history = right_aligned(given['history'][:, 1:])
    np.testing.assert_allclose(scores_of(model, params, given['user'], history), out['scores'], **CLOSE)

    masked = right_aligned(given['masked'])
    targets = np.where(masked == model.mask_token, right_aligned(given['history']), 0)
    assert (targets > 0).sum() == 5
    states = model.apply({'params': params}, masked, method='states')
    vectors, bias = (model.apply({'params': params}, method=name) for name in ('item_vectors', 'item_bias'))
    np.testing.assert_allclose(sequences.softmax_cross_entropy(states, vectors, targets, bias), out['loss'], **CLOSE)


def test_caser():
    w, given, out = load('caser')
    convolutions = {f'horizontal_{h}': {'kernel': w[f'conv_h.{h - 1}.weight'][:, 0].reshape(3, -1).T,
                                        'bias': w[f'conv_h.{h - 1}.bias']} for h in range(1, LENGTH + 1)}
    vertical = np.arange(2 * E).reshape(2, E).T.ravel()  # ours run over the filters first
    order = np.concatenate([2 * E + np.arange(3 * LENGTH), vertical])
    convolutions |= {'vertical': {'kernel': w['conv_v.weight'][:, 0, :, 0].T, 'bias': w['conv_v.bias']},
                     'dense': linear(w, 'fc1', order)}
    model = Caser(num_items=ITEMS, num_users=USERS, embed_dim=E, max_length=LENGTH, horizontal=3, vertical=2)
    params = {'item_embedding': padded(w['item_embedding.weight']), 'convolutions': convolutions,
              'user_embedding': padded(w['user_embedding.weight']), 'item_bias': np.zeros(128, np.float32),
              'item_output': np.zeros((128, 2 * E), np.float32)}
    full = given['length'] == LENGTH
    assert full.sum() == 2
    vectors = model.apply({'params': params}, given['user'][full] - 1, given['history'][full], method='user_vectors')
    last = linear(w, 'fc2')  # RecBole's output layer, in place of ours
    scores = np.maximum(vectors @ last['kernel'] + last['bias'], 0) @ w['item_embedding.weight'][1:].T
    np.testing.assert_allclose(scores, out['scores'][full], **CLOSE)


# -------------------------------------------------------------------------------------------- CTR

def fields(w, given, prefix='token_embedding_table.embedding', many='token_seq_embedding_table.0'):
    """(table, ids, attributes, order): row 0 is nobody's, then RecBole's fields in its order, then the attributes.

    `ids` have the users' fields first; `order` picks from our side of [v_1; …; v_F] what stands where in RecBole's
    [v_attributes; v_1; …; v_F].
    """
    tokens, genres = w[f'{prefix}.weight'], w[f'{many}.weight']
    table = np.concatenate([np.full((1, tokens.shape[1]), 7, np.float32), tokens, genres])
    names = given['names'].tolist()
    ours = [names.index(name) for name in ('user_id', 'age', 'job', 'item_id', 'kind')]
    start = 1 + np.cumsum(given['dims']) - given['dims']
    ids = (given['ids'] + start)[:, ours].astype(np.int32)
    attributes = np.where(given['genres'] > 0, given['genres'] + 1 + len(tokens), 0).astype(np.int32)
    return table, ids, attributes, [n + 1 for n in ours] + [0]


def rows(order, size=E):
    """The same for each number of the vectors."""
    return (np.asarray(order)[:, None] * size + np.arange(size)).ravel()


def first_order(w, given):
    at = 'first_order_linear'
    table, *_ = fields(w, given, f'{at}.token_embedding_table.embedding', f'{at}.token_seq_embedding_table.0')
    return {'weight': table[:, 0], 'bias': w[f'{at}.bias'][0]}


def mlp(w, order, at='mlp_layers.mlp_layers', name='mlp', step=3, norms=False):
    """`Sequential(dropout, linear, [batch norm,] activation, …)`."""
    params = {}
    for n in range(len(MLP)):
        params[f'{name}_{n}'] = linear(w, f'{at}.{1 + step * n}', order if n == 0 else None)
        if norms:
            params[f'{name}_{n}_norm'] = batch_norm(w, f'{at}.{2 + step * n}')
    return params


def check(name, model, params, ids, attributes, *history):
    _, given, out = load(name)
    params = jax.tree.map(jnp.asarray, params)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids, attributes, None, *history)['params']
    assert jax.tree.structure(params) == jax.tree.structure(jax.tree.map(lambda x: 0, nn.unbox(shapes)))
    logits = model.apply({'params': params}, ids, attributes, None, *history)
    np.testing.assert_allclose(logits, out['scores'], **CLOSE)
    if 'loss' in out:
        loss = objectives.OBJECTIVES['click'](logits, given['label'], np.ones(len(logits), np.float32))
        np.testing.assert_allclose(loss, out['loss'], **CLOSE)


def options(table, **more):
    return dict(vocab_size=len(table), num_user_fields=3, embed_dim=E, mlp=MLP) | more


def test_lr():
    w, given, _ = load('lr')
    table, ids, attributes, _ = fields(w, given)
    check('lr', LR(**options(table)), first_order(w, given), ids, attributes)


def test_fm():
    w, given, _ = load('fm')
    table, ids, attributes, _ = fields(w, given)
    check('fm', FM(**options(table)), first_order(w, given) | {'embedding': table}, ids, attributes)


def test_deepfm():
    w, given, _ = load('deepfm')
    table, ids, attributes, order = fields(w, given)
    params = first_order(w, given) | {'embedding': table, 'mlp_out': linear(w, 'deep_predict_layer')}
    check('deepfm', DeepFM(**options(table)), params | mlp(w, rows(order)), ids, attributes)


def test_dssm():
    w, given, _ = load('dssm')
    table, ids, attributes, _ = fields(w, given)
    params = {'embedding': table}
    # Towers: [users' tokens], and [genres; items' tokens] against our [items' tokens; genres].
    for name, order in (('user', [0, 1, 2]), ('item', [1, 2, 0])):
        assert [n for n in given['names'] if n in ('user_id', 'age', 'job')] == ['user_id', 'age', 'job']
        params |= mlp(w, rows(order), f'{name}_mlp_layers.mlp_layers', f'{name}_mlp', step=4, norms=True)
    check('dssm', DSSM(**options(table), batch_norm=True), params, ids, attributes)


def test_pnn():
    w, given, _ = load('pnn')
    table, ids, attributes, order = fields(w, given)
    count = len(order)
    pairs = [(f, g) for f in range(count) for g in range(f + 1, count)]
    products = [count * E + pairs.index(tuple(sorted((order[f], order[g])))) for f, g in pairs]
    params = {'embedding': table, 'mlp_out': linear(w, 'predict_layer')}
    params |= mlp(w, np.concatenate([rows(order), products]))
    check('pnn', PNN(**options(table)), params, ids, attributes)


def test_xdeepfm():
    w, given, _ = load('xdeepfm')
    table, ids, attributes, order = fields(w, given)
    params = first_order(w, given) | {'embedding': table, 'mlp_out': linear(w, 'mlp_layers.mlp_layers.7')}
    first = w['conv1d_list.0.weight'][:, :, 0].reshape(4, 6, 6)[:, order][:, :, order]
    second = w['conv1d_list.1.weight'][:, :, 0].reshape(-1, 2, 6)[:, :, order]
    params |= {'cin_0': {'kernel': first.reshape(4, -1).T}, 'cin_1': {'kernel': second.reshape(len(second), -1).T},
               'cin_out': {'kernel': w['cin_linear.weight'].T}}
    model = XDeepFM(**options(table, cin=(4, len(second)), split=True))
    check('xdeepfm', model, params | mlp(w, rows(order)), ids, attributes)


def attention(w, name, heads, scaled):
    """Query, key and value kernels of PyTorch's attention behind a linear layer: both are linear, so one is."""
    before = w['att_embedding.weight'].T
    query, key, value = (before @ part.T for part in np.split(w[f'{name}.in_proj_weight'], 3))
    return query if scaled else query / np.sqrt(query.shape[1] / heads), key, value


def test_autoint():
    w, given, _ = load('autoint')
    table, ids, attributes, order = fields(w, given)
    query, key, value = attention(w, 'self_attns.0', 2, scaled=False)
    params = first_order(w, given) | mlp(w, rows(order)) | {
        'embedding': table, 'mlp_out': linear(w, 'deep_predict_layer'), 'query_0': {'kernel': query},
        'key_0': {'kernel': key}, 'value_0': {'kernel': value},
        'residual_0': {'kernel': w['v_res_embedding.weight'].T}, 'attention_out': linear(w, 'attn_fc', rows(order, 6))}
    model = AutoInt(**options(table, num_layers=1, num_heads=2, attention_dim=3))
    check('autoint', model, params, ids, attributes)


def test_fignn():
    w, given, _ = load('fignn')
    table, ids, attributes, order = fields(w, given)
    query, key, value = attention(w, 'self_attn', 2, scaled=True)

    # PyTorch: reset, update (the share of what is old), candidate; ours: update (of what is new), …
    def gates(which):
        kernel, bias = w[f'gru_cell.weight_{which}'].T, w[f'gru_cell.bias_{which}']
        reset, update, candidate = np.split(np.concatenate([kernel, bias[None]]), 3, axis=1)
        both = np.concatenate([-update, reset, candidate], axis=1)
        return {'kernel': both[:-1], 'bias': both[-1]}

    params = {'embedding': table, 'query': {'kernel': query}, 'key': {'kernel': key}, 'value': {'kernel': value},
              'edge_source': {'kernel': np.zeros((4, 1), np.float32)},
              'edge_target': {'kernel': np.zeros((4, 1), np.float32)},
              'send': {'kernel': w['gnn.0.W_out'][order].swapaxes(1, 2)},
              'receive': {'kernel': w['gnn.0.W_in'][order].swapaxes(1, 2)}, 'message_bias': w['gnn.0.bias_p'],
              'gru_input': gates('ih'), 'gru_state': gates('hh'),
              'mlp_out': {'kernel': w['mlp1.weight'].T, 'bias': np.zeros(1, np.float32)},
              'weight_out': {'kernel': w['mlp2.weight'][:1, :4].T, 'bias': np.zeros(1, np.float32)}}
    model = FiGNN(**options(table, mlp=(), state_dim=4, num_heads=2, num_steps=2))
    check('fignn', model, params, ids, attributes)


def test_dcn():
    w, given, _ = load('dcn')
    table, ids, attributes, order = fields(w, given)
    here = rows(order)
    params = {'embedding': table, 'mlp_out': linear(w, 'predict_layer', np.concatenate([here, 6 * E + np.arange(5)]))}
    params |= mlp(w, here, step=4, norms=True)
    for n in range(3):
        params |= {f'cross_{n}': {'kernel': w[f'cross_layer_w.{n}'][here, None]},
                   f'cross_{n}_bias': w[f'cross_layer_b.{n}'][here]}
    check('dcn', DCN(**options(table, cross_layers=3)), params, ids, attributes)


@pytest.mark.parametrize('kind', ['stacked', 'parallel', 'mixed'])
def test_dcnv2(kind):
    w, given, _ = load(f'dcnv2_{kind}')
    table, ids, attributes, order = fields(w, given)
    here = rows(order)
    out = np.concatenate([here, 6 * E + np.arange(5)]) if kind == 'parallel' else None
    params = {'embedding': table, 'mlp_out': linear(w, 'predict_layer', out)} | mlp(w, here, step=4, norms=True)
    for n in range(2):
        bias = w[f'bias.{n}'][here, 0]
        if kind == 'mixed':
            u, v, c = (w[f'cross_layer_{name}.{n}'] for name in 'uvc')
            params |= {f'cross_{n}_v': {'kernel': v[:, here]}, f'cross_{n}_c': {'kernel': c.swapaxes(1, 2)},
                       f'cross_{n}_u': {'kernel': u[:, here].swapaxes(1, 2)}, f'cross_{n}_bias': bias}
        else:
            params[f'cross_{n}'] = {'kernel': w[f'cross_layer_w.{n}'][here][:, here].T, 'bias': bias}
    if kind == 'mixed':
        gates = [linear(w, f'gating.{m}', here) for m in range(3)]
        params['gate'] = {'kernel': np.concatenate([g['kernel'] for g in gates], 1),
                          'bias': np.concatenate([g['bias'] for g in gates])}
    model = DCNv2(**options(table, batch_norm=True, cross_layers=2,
                            structure='parallel' if kind == 'parallel' else 'stacked',
                            num_experts=3 if kind == 'mixed' else 0, rank=2))
    check(f'dcnv2_{kind}', model, params, ids, attributes)


# ------------------------------------------------------------------------------- CTR with histories

def with_history(name):
    """(weights, table, ids, attributes, history); the table: nobody, users' fields, items' fields, genres."""
    w, given, _ = load(name)
    at = 'embedding_layer.token{}_embedding_table.{}.weight'
    places = ('', 'user.embedding'), ('', 'item.embedding'), ('_seq', 'item.0')
    user, item, genres = (w[at.format(*place)] for place in places)
    table = np.concatenate([np.full((1, E), 7, np.float32), user, item, genres])
    user_ids = given['user_ids'] + 1 + np.cumsum([0, 7, 4])
    item_ids = given['item_ids'] + 1 + len(user) + np.array([0, 10])
    many = np.where(given['item_genres'] > 0, given['item_genres'] + 1 + len(user) + len(item), 0)
    past = right_aligned(given['history'])
    mask = past > 0
    history = History(ids=np.where(mask[..., None], item_ids[past], 0).astype(np.int32),
                      attributes=np.where(mask[..., None], many[past], 0).astype(np.int32), liked=mask, mask=mask)
    ids = np.concatenate([user_ids[given['user']], item_ids[given['positive']]], axis=1).astype(np.int32)
    return w, table, ids, many[given['positive']].astype(np.int32), history


def silu_layers(w, at, name, names, norms, first):
    """Layers with RecBole's Dice, s sigmoid(s), as ours is with alpha, E = 0 and Var = 1; norms folded into them."""
    params = {}
    for n, number in enumerate(names):
        layer = linear(w, f'{at}.{number}')
        if norms:
            p = batch_norm(w, f'{at}.{number + 1}')
            factor = p['scale'] / np.sqrt(p['variance'] + 1e-5)
            layer = {'kernel': layer['kernel'] * factor, 'bias': (layer['bias'] - p['mean']) * factor + p['bias']}
        width = len(layer['bias'])
        params |= {f'{name}_{n}': layer, f'{name}_{n}_dice': {
            'alpha': np.zeros(width, np.float32), 'mean': np.zeros(width, np.float32),
            'variance': np.ones(width, np.float32)}}
    params[f'{name}_0'] = params[f'{name}_0'] | {'kernel': first(params[f'{name}_0']['kernel'])}
    return params


def test_din():
    w, table, ids, attributes, history = with_history('din')
    width = 3 * E  # of an item
    none = np.zeros((3 * E, MLP[0]), np.float32)  # the user's fields, which RecBole does not read
    params = {'embedding': table, 'mlp_out': linear(w, 'dnn_predict_layers')}
    params |= silu_layers(w, 'dnn_mlp_layers.mlp_layers', 'mlp', (1, 5), True,
                          lambda kernel: np.concatenate([none, kernel[:2 * width]]))
    params |= silu_layers(w, 'attention.att_mlp_layers.mlp_layers', 'attention', (1, 4), False, lambda kernel: kernel)
    out = linear(w, 'attention.dense')
    params['attention_out'] = jax.tree.map(lambda x: x / np.float32(np.sqrt(width)), out)
    check('din', DIN(**options(table, attention_mlp=MLP)), params, ids, attributes, history)


def test_dien():
    w, table, ids, attributes, history = with_history('dien')
    width = 3 * E

    def gates(inputs, states, bias, updates_new):
        reset, update, candidate = np.split(np.concatenate([inputs.T, states.T, bias[None]]), 3, axis=1)
        all_ = np.concatenate([update if updates_new else -update, reset, candidate], axis=1)
        return {'input': {'kernel': all_[:width], 'bias': all_[-1]}, 'kernel': all_[width:-1]}

    at, cell = 'interset_extractor.gru', 'interest_evolution.dynamic_rnn.rnn'
    order = np.concatenate([2 * width + np.arange(3 * E), np.arange(2 * width)])  # ours: user, interest, target
    params = {'embedding': table, 'mlp_out': linear(w, 'dnn_predict_layer'),
              'attention': {'kernel': np.zeros((width, width), np.float32)},
              'extractor': gates(w[f'{at}.weight_ih_l0'], w[f'{at}.weight_hh_l0'], w[f'{at}.bias_ih_l0'], False),
              'evolving': gates(w[f'{cell}.weight_ih'], w[f'{cell}.weight_hh'], w[f'{cell}.bias_ih'], True)}
    params |= silu_layers(w, 'dnn_mlp_layers.mlp_layers', 'mlp', (1, 5), True, lambda kernel: kernel[order])
    check('dien', DIEN(**options(table, hidden_dim=width, auxiliary_weight=0.0)), params, ids, attributes, history)
