"""What `bench/recommenders.py` hands to RecBole, and how it reads clocks and traced programs."""

import argparse
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.data.protocols import Examples, Histories
from xrec_jax.recommenders.fields import Fields

PATH = pathlib.Path(__file__).parents[2] / 'bench' / 'recommenders.py'


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location('bench_recommenders', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(user, item, label):
    none = np.zeros(len(user), np.int32)
    past = Histories(np.arange(9, dtype=np.int32), np.ones(9, bool), none + 3, none + 2, 2)
    return Examples(np.array(user), np.array(item), none + 4.0, np.array(label, np.float32), none, past)


def test_a_predictors_fields_are_written_as_they_are(bench, tmp_path):
    fields = Fields(user_fields=jnp.array([[1, 6], [2, 7]]), item_fields=jnp.array([[3], [4], [5]]),
                    item_attributes=jnp.array([[8, 9], [0, 0], [9, 0]]), sizes=(2, 2, 3, 2),
                    names=('user_id', 'profile.age', 'item_id', 'attributes'))
    folder = tmp_path / 'made'
    folder.mkdir()
    bench.write_ctr({'train': examples([1, 0], [2, 1], [1, 0])}, fields, folder)
    assert (folder / 'made.train.inter').read_text() == 'user_id:token\titem_id:token\tlabel:float\n1\t2\t1\n0\t1\t0\n'
    assert (folder / 'made.user').read_text() == 'user_id:token\tprofile_age:token\n0\t6\n1\t7\n'
    assert (folder / 'made.item').read_text() == 'item_id:token\tattributes:token_seq\n0\t8 9\n1\t\n2\t9\n'


def test_a_profile_with_a_gap_is_refused(bench, tmp_path):
    fields = Fields(user_fields=jnp.array([[1, 0]]), item_fields=jnp.array([[2]]), names=('user_id', 'profile.age'),
                    item_attributes=jnp.zeros((1, 0), int), sizes=(1, 1))
    with pytest.raises(ValueError, match='without gaps'):
        bench.write_ctr({}, fields, tmp_path)


def test_the_first_examples_keep_their_own_histories(bench):
    made = bench.first(examples([1, 0, 1], [2, 1, 0], [1, 0, 1]), 2)
    assert made.user.tolist() == [1, 0] and made.history.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize('seconds, median', [([9.0, 2.0, 4.0, 3.0], 3.0), ([165.0], 165.0)])
def test_the_first_epoch_counts_only_where_it_is_the_only_one(bench, seconds, median):
    assert bench.after_first(seconds)['seconds'] == median


def test_flops_are_those_of_all_products_in_loops_and_gradients(bench):
    def epoch(w, xs):
        loss = lambda w, x: jnp.tanh(x @ w).sum()
        return jax.lax.scan(lambda w, x: (w - jax.grad(loss)(w, x), None), w, xs)[0]

    forward_and_weights = 2 * 2 * 3 * 4 * 5  # x is no parameter
    assert bench.product_flops(jax.jit(epoch), jnp.ones((4, 5)), jnp.ones((7, 3, 4))) == 7 * forward_and_weights


def test_a_run_of_the_peer_leaves_its_line_and_is_not_run_again(bench, tmp_path):
    class Peer:
        ran = []

        def data(self, name, write):
            return name

        def run(self, model, data, seed, fast):
            self.ran.append((model, seed, fast))
            return {'test': {'recall@10': 0.5}, 'seed': seed}

    args, peer = argparse.Namespace(peer_results=tmp_path / 'lines'), Peer()
    assert bench.peer_line(args, None, 'SASRec', 1) is None
    first = bench.peer_line(args, peer, 'SASRec', 1)
    assert first == bench.peer_line(args, peer, 'SASRec', 1) == bench.peer_line(args, None, 'SASRec', 1)
    bench.peer_line(args, peer, 'BPR', 1)
    assert peer.ran == [('SASRec', 1, True), ('BPR', 1, False)]
