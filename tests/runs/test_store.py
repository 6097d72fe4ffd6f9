"""Stored explanations: every pair is found again, and a later phase's take the place of an earlier one's."""

import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.runs import store as stores
from xrec_jax.runs.explanations import ExplanationWriter
from xrec_jax.runs.store import Store, publish


def write(workdir, phase, pairs):
    writer = ExplanationWriter(workdir, phase)
    for kind in ('positive', 'negative'):
        writer.add(user_id=[user for user, _ in pairs], item_id=[item for _, item in pairs], kind=kind, split='test',
                   example=np.arange(len(pairs), dtype=np.int32), text=[f'{phase} {kind} {u} {i}' for u, i in pairs],
                   step=1)
    writer.flush(1)
    publish(workdir, writer.finish())


def test_every_pair_is_found_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, 'ROWS', 7)  # of a record batch
    random = np.random.default_rng(0)
    pairs = list({(f'u{u}', f'ä{i}') for u, i in random.integers(0, 12, (60, 2))} | {('u1', 'x'), ('ü', 'z')})
    random.shuffle(pairs)
    write(tmp_path, '01-explain-a', [tuple(pair) for pair in pairs])
    store = Store(tmp_path)
    for user, item in pairs:
        found = store.find(user, item)
        assert [row['text'] for row in found] == [f'01-explain-a {kind} {user} {item}'
                                                  for kind in ('positive', 'negative')]
    assert store.find('u1', 'nothing') == [] and store.find('', '') == [] and store.find('zz', 'z') == []


def test_the_newest_phase_counts_and_other_pairs_stay(tmp_path):
    write(tmp_path, '01-explain-a', [('u', 'i'), ('u', 'j')])
    write(tmp_path, '02-explain-b', [('v', 'i'), ('u', 'j')])
    store = Store(tmp_path)
    phases = {pair: [row['phase'] for row in store.find(*pair)] for pair in (('u', 'i'), ('u', 'j'), ('v', 'i'))}
    assert phases == {('u', 'i'): ['01-explain-a'] * 2, ('u', 'j'): ['02-explain-b'] * 2, ('v', 'i'): ['02-explain-b'] * 2}
    write(tmp_path, '02-explain-b', [('v', 'i'), ('u', 'j')])  # a resumed run publishes again
    assert len(Store(tmp_path).table) == 6


def test_what_is_missing_is_said_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match='holds no stored explanations'):
        Store(tmp_path)
    write(tmp_path, '01-explain-a', [('u', 'item-1'), ('u', 'item-2')])
    store = Store(tmp_path)
    assert 'no explanation is stored for user "w"' in store.missing('w', 'item-1')
    assert 'has 2 explained items. Did you mean "item-2"?' in store.missing('u', 'item-22')
