"""Labelled pairs: reading, copies and contradictions, splits without leaks, both orders."""

import json
import pathlib

import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.material import judge_pairs
from xrec_jax.language.material.judge_pairs import Pair
from xrec_jax.metrics import judging

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'llmxrec'
real = pytest.mark.skipif(not SHARED.is_dir(), reason='needs ../shared/data/llmxrec')


def written(tmp_path, *rows: tuple[str, str]) -> pathlib.Path:
    path = tmp_path / 'judge.jsonl'
    path.write_text(''.join(json.dumps({'instruction': text, 'input': '', 'output': label}) + '\n'
                            for text, label in rows))
    return path


def asked(instruction: str, first: str, second: str) -> str:
    return instructions.judge(instruction, first, second, question=False)


def test_a_text_becomes_a_pair(tmp_path):
    path = written(tmp_path, (asked('why?\n', 'because\nso', ' no '), '2'), (asked('how?', 'x', 'y'), '1'))
    assert judge_pairs.read_pairs(path) == [Pair('why?\n', 'because\nso', 'no', 2), Pair('how?', 'x', 'y', 1)]


@pytest.mark.parametrize('text, label, told', [
    ('which is better?', '1', 'key instruction: not a judge'),
    (asked('why?', ' ', 'b'), '1', 'key instruction: explanation 1 is empty'),
    (asked('why?', 'a', ''), '1', 'key instruction: explanation 2 is empty'),
    (asked('why?', 'a', 'b'), '3', 'key output: should be "1" or "2", is \'3\''),
    (asked('why?', 'a', 'b'), 'Explanation 1', 'key output: should be "1" or "2"'),
])
def test_a_bad_line_is_refused_with_its_place(tmp_path, text, label, told):
    path = written(tmp_path, (asked('why?', 'a', 'b'), '1'), (text, label))
    with pytest.raises(UserError) as refused:
        judge_pairs.read_pairs(path)
    assert str(refused.value).startswith(f'{path}, line 2, {told}')


def test_copies_become_one_and_contradictions_none():
    pairs = [Pair('i', 'a', 'b', 1), Pair('j', 'a', 'b', 2), Pair('i', 'a', 'b', 1),  # twice, the same label
             Pair('k', 'c', 'd', 1), Pair('k', 'c', 'd', 2),  # both labels
             Pair('l', 'e', 'f', 2), Pair('l', 'f', 'e', 1),  # swapped, the same winner
             Pair('m', 'e', 'f', 2), Pair('m', 'f', 'e', 2),  # swapped, the same label: both win
             Pair('n', 'g', 'h', 1), Pair('n', 'g', 'h', 2), Pair('n', 'h', 'g', 1),  # h by 2 to 1
             Pair('o', 'x', 'x', 1)]
    kept, counts = judge_pairs.resolved(pairs)
    assert kept == [Pair('i', 'a', 'b', 1), Pair('j', 'a', 'b', 2), Pair('l', 'e', 'f', 2), Pair('n', 'g', 'h', 2)]
    assert counts == {'read': 13, 'kept': 4, 'copies': 6, 'repeated': 5, 'contradicting': 3, 'dropped': 3}
    assert judge_pairs.resolved(kept)[0] == kept


def test_no_instruction_is_on_both_sides_of_a_split():
    rng = np.random.default_rng(0)
    pairs = [Pair(f'i{n}', f'a{k}', f'b{k}', 1) for n in range(40) for k in range(int(rng.integers(1, 9)))]
    pairs = [pairs[n] for n in rng.permutation(len(pairs))]
    training, validation = judge_pairs.split(pairs, 0.2, seed=3)
    assert not {pair.instruction for pair in training} & {pair.instruction for pair in validation}
    assert sorted(training + validation) == sorted(pairs)
    assert [pair for pair in pairs if pair in set(validation)] == validation
    assert 0.2 <= len(validation) / len(pairs) < 0.2 + 8 / len(pairs)
    assert judge_pairs.split(pairs, 0.2, seed=3)[1] == validation != judge_pairs.split(pairs, 0.2, seed=4)[1]
    for share in (0, 1, 0.999):
        with pytest.raises(UserError, match='share'):
            judge_pairs.split(pairs, share, seed=0)


def test_both_orders_swap_texts_and_labels():
    pairs = [Pair('i', 'a', 'b', 1), Pair('j', 'c', 'd', 1)]
    both = judge_pairs.both_orders(pairs)
    assert both == [pairs[0], Pair('i', 'b', 'a', 2), pairs[1], Pair('j', 'd', 'c', 2)]
    assert judge_pairs.label_figures([pair.label for pair in pairs])['constant'] == 1
    assert judge_pairs.label_figures([pair.label for pair in both]) == {
        'count': 4, 'share_of_second': 0.5, 'constant': 0.5}
    assert judge_pairs.resolved(both)[0] == pairs


@real
@pytest.mark.parametrize('name, constant, counts', [
    ('judge_train', 1190 / 1440, {'read': 1440, 'kept': 1250, 'copies': 160, 'repeated': 160, 'contradicting': 30,
                                  'dropped': 30}),
    ('judge_test', 296 / 360, {'read': 360, 'kept': 314, 'copies': 40, 'repeated': 40, 'contradicting': 6,
                               'dropped': 6})])
def test_published_pairs(name, constant, counts):
    pairs = judge_pairs.read_pairs(SHARED / f'{name}.jsonl')
    assert judge_pairs.resolved(pairs)[1] == counts
    labels = [pair.label for pair in pairs]
    assert judge_pairs.label_figures(labels)['constant'] == pytest.approx(constant)
    second = judging.judge_metrics(labels, np.zeros(len(labels)), np.zeros(len(labels)))  # a judge that says "2"
    assert second['accuracy_given'] == pytest.approx(constant)
    assert (second['accuracy'], second['accuracy_averaged'], second['flips']) == (0.5, 0.5, 1)


@real
def test_published_files_share_no_instruction():
    train, test = ({pair.instruction for pair in judge_pairs.read_pairs(SHARED / f'judge_{name}.jsonl')}
                   for name in ('train', 'test'))
    assert len(train) == 243 and len(test) == 61 and not train & test
