"""Makes tests/golden/recbole/*.npz: RecBole 1.2.1's models, tiny, with random weights, and what they give.

Each file holds one model (some in two settings), for tests/recommenders/test_recbole.py to load into ours:
    weight:NAME   float32, RecBole's own name and layout (buffers too)
    input:NAME    what it was called with, below
    output:NAME   `scores` in eval mode, logits of CTR models; `loss` where it is deterministic

Ranking models (6 users, 9 items; a score for each of the items 1 … 9):
    input:user [B], positive, negative [B]; history [B, 5], right-padded with 0, length [B]
CTR models, B = 6 rows (users' fields user_id, age, job; items' item_id, kind and the multi-valued genres):
    input:dims [5] tokens of each field in RecBole's order, [PAD] being one of each; ids [B, 5] in each field's own
    range, never [PAD]; genres [B, 3], 0 pads; label [B]; names [5]. DIN and DIEN: as the ranking models, and
    item_ids [10, 2], item_genres [10, 3], user_ids [7, 3]: fields of each item and user.

Weights are N(0, 0.5), variances of batch normalisation above 0.5. Sizes are small, all else is RecBole's default
but where `CASES` and `alter` say otherwise, and why. Row 0 of the sequence models' item table is the pad, which
RecBole has among the candidates of its softmax and we have not: it gets a vector of which every state is so far
that it has no share (`silence`).

Made with recbole 1.2.1, torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11, in the environment of bench/recbole_peer.py:

    /tmp/torch-venv/bin/python tests/golden/recbole/make.py [NAME …]
"""

import contextlib
import io
import logging
import pathlib
import sys
import tempfile
import warnings

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / 'bench'))
from recbole_peer import install_shims  # noqa: E402

USERS, ITEMS, LENGTH = 6, 9, 5
RANKING = dict(user=[1, 2, 6, 4], positive=[3, 9, 1, 7], negative=[2, 5, 8, 1], length=[5, 2, 5, 1],
               history=[[3, 7, 1, 2, 9], [2, 4, 0, 0, 0], [5, 1, 8, 2, 4], [6, 0, 0, 0, 0]])
EDGES = [(1, 1), (1, 2), (2, 2), (2, 4), (2, 9), (3, 2), (4, 5), (4, 7), (5, 2), (5, 3), (6, 1), (6, 8), (6, 6)]
AGES, JOBS = [1, 2, 3, 1, 2, 3], [1, 2, 2, 1, 1, 2]
KINDS, GENRES = [1, 2, 1, 2, 2, 1, 1, 2, 1], [[1, 2], [3], [2, 3, 4], [4], [1], [2], [1, 4], [3, 2], [4]]
PAIRS = [(1, 2), (2, 4), (3, 5), (4, 6), (5, 9), (6, 2)]  # items of one genre: RecBole sums first-order weights
MANY = [(1, 1), (2, 3), (3, 7), (4, 8), (5, 2), (6, 4)]   # of several
BASE = dict(embedding_size=4)
CROSS = BASE | dict(mlp_hidden_size=[6, 5], cross_layer_num=2)
TRANSFORMER = dict(n_layers=2, n_heads=2, hidden_size=8, inner_size=12)

# File: (RecBole's model, settings, PAIRS or MANY or None for ranking, what is done to the model before it runs).
CASES = {
    'bpr': ('BPR', BASE, None, None),
    'lightgcn': ('LightGCN', BASE | dict(n_layers=2, reg_weight=0.1, require_pow=True), None, None),  # the paper's
    'sasrec': ('SASRec', TRANSFORMER, None, None),
    'bert4rec': ('BERT4Rec', TRANSFORMER, None, None),
    'gru4rec': ('GRU4Rec', BASE | dict(hidden_size=6), None, None),
    'caser': ('Caser', BASE | dict(nh=3, nv=2), None, None),
    'lr': ('LR', BASE, PAIRS, None),
    'fm': ('FM', BASE, PAIRS, None),
    'deepfm': ('DeepFM', BASE | dict(mlp_hidden_size=[6, 5]), PAIRS, None),
    'dssm': ('DSSM', BASE | dict(mlp_hidden_size=[6, 5]), MANY, None),
    'pnn': ('PNN', BASE | dict(mlp_hidden_size=[6, 5]), MANY, None),
    'xdeepfm': ('xDeepFM', BASE | dict(mlp_hidden_size=[6, 5], cin_layer_size=[4, 3]), PAIRS, 'identity'),
    'autoint': ('AutoInt', BASE | dict(mlp_hidden_size=[6, 5], n_layers=1, attention_size=6, has_residual=True), PAIRS,
                'plain attention'),
    'fignn': ('FiGNN', BASE | dict(attention_size=4, n_layers=3), MANY, 'plain attention'),
    'dcn': ('DCN', BASE | dict(mlp_hidden_size=[6, 5], cross_layer_num=3), MANY, None),
    'dcnv2_stacked': ('DCNV2', CROSS, MANY, None),
    'dcnv2_parallel': ('DCNV2', CROSS | dict(structure='parallel'), MANY, None),
    'dcnv2_mixed': ('DCNV2', CROSS | dict(mixed=True, expert_num=3, low_rank=2), MANY, None),
    'din': ('DIN', BASE | dict(mlp_hidden_size=[6, 5]), MANY, 'dice'),
    'dien': ('DIEN', BASE | dict(mlp_hidden_size=[6, 5]), MANY, 'even attention'),
}


def write_dataset(folder: pathlib.Path) -> None:
    """RecBole's atomic files of the tables above; ids are named so that RecBole numbers them as here."""
    (folder / 'tiny').mkdir()

    def write(kind, header, rows):
        (folder / 'tiny' / f'tiny.{kind}').write_text('\n'.join(['\t'.join(header), *map('\t'.join, rows)]) + '\n')

    # The first rows meet users, items and genres in their order, which is the order of RecBole's numbers.
    first = [(n, n) for n in range(1, USERS + 1)] + [(1, n) for n in range(USERS + 1, ITEMS + 1)]
    write('inter', ['user_id:token', 'item_id:token', 'label:float', 'timestamp:float'],
          [(f'u{u}', f'i{i}', str(n % 2), str(n)) for n, (u, i) in enumerate(first)])
    write('user', ['user_id:token', 'age:token', 'job:token'],
          [(f'u{n + 1}', f'a{AGES[n]}', f'j{JOBS[n]}') for n in range(USERS)])
    write('item', ['item_id:token', 'kind:token', 'genres:token_seq'],
          [(f'i{n + 1}', f'k{KINDS[n]}', ' '.join(f'g{g}' for g in GENRES[n])) for n in range(ITEMS)])


def build(name: str, settings: dict, ranking: bool, folder: pathlib.Path):
    """(config, dataset, model in eval mode with random weights)."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    columns = {'inter': ['user_id', 'item_id', 'timestamp']}
    if not ranking:
        columns = {'inter': ['user_id', 'item_id', 'label', 'timestamp'], 'user': ['user_id', 'age', 'job'],
                   'item': ['item_id', 'kind', 'genres']}
    # The timestamp orders a history and is no field: RecBole has numbers among the fields only where it is told to.
    config = Config(model=name, dataset='tiny', config_dict={
        'data_path': str(folder), 'load_col': columns, 'MAX_ITEM_LIST_LENGTH': LENGTH, 'use_gpu': False,
        'show_progress': False, 'train_neg_sample_args': None, 'threshold': None, **settings})
    init_seed(0, True)
    dataset = create_dataset(config)
    if not ranking:
        dataset._change_feat_format()  # from data frames to tensors, as `dataset.build()` does
        for table in (dataset.get_user_feature(), dataset.get_item_feature()):
            for values in table.interaction.values():
                values[0] = 0  # the pad's own: RecBole's `fillna(inplace=True)` does nothing under pandas 3
    if name == 'BERT4Rec':
        from recbole.data.transform import construct_transform
        construct_transform(config)  # names the fields of masked rows
    if name == 'LightGCN':
        import scipy.sparse
        user, item = np.array(EDGES).T
        matrix = scipy.sparse.coo_matrix((np.ones(len(EDGES), np.float32), (user, item)), (USERS + 1, ITEMS + 1))
        dataset.inter_matrix = lambda form: matrix
    model = get_model(name)(config, dataset)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and 'adj' not in key:
                value.normal_(0, 0.5, generator=generator)
                if 'running_var' in key:
                    value.abs_().add_(0.5)
    return config, dataset, model.eval()


def alter(model, how: str | None) -> None:
    """Sets aside, in RecBole's model, what ours has otherwise on purpose; the docstrings of ours say why."""
    import torch
    from recbole.model.layers import SequenceAttLayer

    with torch.no_grad():
        if how == 'identity':  # paper: no activation and no bias in the CIN; RecBole: ReLU, and on the MLP's logit too
            cin = model.compressed_interaction_network
            model.compressed_interaction_network = lambda x: cin(x, 'identity')
            for conv in model.conv1d_list:
                conv.bias.zero_()
            model.cin_linear.bias.zero_()
            del model.mlp_layers.mlp_layers[-1]
        elif how == 'plain attention':  # paper: the projections alone; RecBole: a linear layer before and one after
            attention = model.self_attns[0] if hasattr(model, 'self_attns') else model.self_attn
            attention.out_proj.weight.copy_(torch.eye(attention.embed_dim))
            for layer in (model.att_embedding, attention.out_proj, model.v_res_embedding):
                layer.bias.zero_()
            attention.in_proj_bias.zero_()
            if hasattr(model, 'W_attn'):
                model.gnn[1].load_state_dict(model.gnn[0].state_dict())  # one layer's parameters for all steps
                # Fi-GNN: outgoing weights sum to 1 and RecBole's incoming ones, which is one where all are even;
                # no residual around the attention; and MLP_2 is of each field's own state, with the same weights.
                model.W_attn.weight.zero_()
                model.v_res_embedding.weight.zero_()
                fields, size = model.mlp2.weight.shape
                own = model.mlp2.weight[0, :size // fields].clone()
                model.mlp2.weight.copy_(torch.block_diag(*own.expand(fields, -1).unsqueeze(1)))
        elif how == 'dice':  # figure 2: Dice in the activation unit; RecBole: sigmoid. Paper: no product into the MLP.
            old = model.attention
            model.attention = new = SequenceAttLayer(old.mask_mat, old.att_hidden_size, 'Dice', False, False)
            new.load_state_dict(old.state_dict())
            first = model.dnn_mlp_layers.mlp_layers[1].weight
            first[:, first.shape[1] * 2 // 3:] = 0
        elif how == 'even attention':  # paper: bilinear; RecBole: an MLP. Even for both where its last layer is zero.
            model.interest_evolution.attention_layer.dense.weight.zero_()
            for name, gates in model.named_parameters():  # RecBole's gates have two biases, ours the one of eq. 2 to 5
                if 'bias_hh' in name:
                    gates.zero_()


def silence(model) -> None:
    """Gives the pad's row of the item table a product of -90 and less with every state."""
    import torch
    with torch.no_grad():
        table = model.item_embedding.weight
        table[0] = 0
        table[0, 0] = -50
        last = {'SASRec': 'trm_encoder.layer.1.feed_forward.LayerNorm.bias', 'BERT4Rec': 'output_ln.bias',
                'GRU4Rec': 'dense.bias'}[type(model).__name__]
        model.get_parameter(last)[0] += 10  # the first number of a state is then about 10


def run(name: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    import torch
    from recbole.data.interaction import Interaction

    kind, settings, pairs, how = CASES[name]
    config, dataset, model = build(kind, settings, pairs is None, folder)
    alter(model, how)
    inputs = {key: torch.tensor(value) for key, value in RANKING.items()}
    sequence = {'user_id': inputs['user'], 'item_id': inputs['positive'], 'neg_item_id': inputs['negative'],
                'item_id_list': inputs['history'], 'item_length': inputs['length']}
    outputs = {}
    with torch.no_grad():
        if pairs is None:
            if kind in ('SASRec', 'GRU4Rec', 'BERT4Rec'):
                silence(model)
            if kind == 'BERT4Rec':
                index = torch.tensor([[1, 3], [1, 0], [2, 4], [0, 0]])  # 0: none (RecBole never counts place 0)
                masked = inputs['history'].clone()
                masked[0, 1] = masked[0, 3] = masked[1, 1] = masked[2, 2] = masked[2, 4] = ITEMS + 1
                positive = torch.gather(inputs['history'], 1, index) * (index > 0)
                sequence |= {config['MASK_ITEM_SEQ']: masked, config['POS_ITEMS']: positive,
                             config['NEG_ITEMS']: positive, config['MASK_INDEX']: index}
                inputs |= {'masked': masked}
            batch = Interaction(sequence)
            scores = model.full_sort_predict(batch).reshape(len(inputs['user']), -1)
            outputs['scores'] = scores[:, 1:]
            if kind != 'Caser':  # whose penalty is on whole tables, pads too
                outputs['loss'] = model.calculate_loss(batch).reshape(())
                assert kind in ('BPR', 'LightGCN') or scores[:, 0].max() < -90, scores[:, 0]
        elif kind in ('DIN', 'DIEN'):
            users, items = dataset.get_user_feature(), dataset.get_item_feature()
            inputs |= {'user_ids': torch.stack([users[n] for n in ('user_id', 'age', 'job')], 1),
                       'item_ids': torch.stack([items[n] for n in ('item_id', 'kind')], 1),
                       'item_genres': items['genres']}
            args = [inputs['user'], inputs['history'], inputs['length'], inputs['positive']]
            if kind == 'DIEN':
                scores, _ = model(args[0], args[1], args[1], args[2], args[3])
            else:
                scores = model(*args)
            outputs['scores'] = scores
        else:
            user, item = torch.tensor(pairs).T
            users, items = dataset.get_user_feature(), dataset.get_item_feature()
            row = {n: users[n][user] for n in ('user_id', 'age', 'job')} | {n: items[n][item] for n in
                                                                          ('item_id', 'kind', 'genres')}
            row['label'] = torch.tensor([1.0, 0, 0, 1, 1, 0])
            inputs = {'ids': torch.stack([row[n] for n in model.token_field_names], 1), 'genres': row['genres'],
                      'label': row['label'], 'dims': torch.tensor(model.token_field_dims)}
            assert model.token_seq_field_names == ['genres'] and not model.float_field_names
            batch = Interaction(row)
            outputs['scores'] = model(batch)
            if kind == 'DCNV2':  # gives probabilities
                outputs['scores'] = torch.logit(outputs['scores'].double()).float()
            if kind in ('LR', 'FM', 'DeepFM', 'PNN', 'DSSM'):  # others add norms of their weights
                outputs['loss'] = model.calculate_loss(batch).reshape(())
    assert all(torch.isfinite(value).all() for value in outputs.values())
    arrays = {f'weight:{key}': value for key, value in model.state_dict().items() if 'adj' not in key}
    arrays |= {f'input:{key}': value for key, value in inputs.items()}
    arrays |= {f'output:{key}': value for key, value in outputs.items()}
    arrays = {key: value.numpy() for key, value in arrays.items()}
    arrays = {key: value.astype(np.int32) if value.dtype == np.int64 else value for key, value in arrays.items()}
    if pairs is not None and kind not in ('DIN', 'DIEN'):
        arrays['input:names'] = np.array(model.token_field_names)
    if kind == 'LightGCN':
        arrays['input:edges'] = np.array(EDGES, np.int32)
    return arrays


def main() -> None:
    names = sys.argv[1:] or list(CASES)
    sys.argv = sys.argv[:1]  # RecBole reads it too
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    install_shims()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(pathlib.Path(folder))
        for name in names:
            with contextlib.redirect_stdout(io.StringIO()):
                arrays = run(name, pathlib.Path(folder))
            np.savez_compressed(HERE / f'{name}.npz', **arrays)
            size, scores = (HERE / f'{name}.npz').stat().st_size, arrays['output:scores'].ravel()[:4]
            print(name, size, 'bytes,', np.round(scores, 4), arrays.get('output:loss'), flush=True)


if __name__ == '__main__':
    main()
