"""Packing: rows against a slow first fit, batches against the examples that went in."""

import numpy as np
import pytest

from xrec_jax.language import packing, tokenizers
from xrec_jax.language.packing import Example


@pytest.fixture(scope='module')
def tokenizer():
    return tokenizers.train_tokenizer(['one two three four five six seven', 'eight nine ten'] * 3, 300)


def encoded(lengths, prompts):
    """Examples whose tokens are all different."""
    starts = np.cumsum([0, *lengths])
    return packing.Encoded(np.arange(starts[-1], dtype=np.int32) + 1, starts, np.asarray(prompts, np.int32))


def slow_first_fit(lengths, capacity):
    free, rows = [], [None] * len(lengths)
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        for row, room in enumerate(free):
            if room >= lengths[n]:
                break
        else:
            row = len(free)
            free.append(capacity)
        free[row] -= lengths[n]
        rows[n] = row
    return rows


@pytest.mark.parametrize('seed', range(5))
def test_rows_are_those_of_a_slow_first_fit(seed):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(0.05, size=200), 64)
    np.testing.assert_array_equal(packing.first_fit_decreasing(lengths, 64), slow_first_fit(lengths.tolist(), 64))


def test_rows_of_extreme_lengths():
    np.testing.assert_array_equal(packing.first_fit_decreasing(np.array([3, 3, 3]), 3), [0, 1, 2])
    np.testing.assert_array_equal(packing.first_fit_decreasing(np.array([1, 3, 1, 1]), 3), [1, 0, 1, 1])
    assert packing.first_fit_decreasing(np.array([], int), 3).size == 0
    for lengths in ([4], [0, 1]):
        with pytest.raises(ValueError, match='do not go into rows of 3'):
            packing.first_fit_decreasing(np.array(lengths), 3)


@pytest.mark.parametrize('together', [True, False])
def test_every_example_lies_whole_in_one_row(together):
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 17, size=30)
    examples = encoded(lengths, [rng.integers(1, n) for n in lengths])
    index = rng.permutation(30)[:23]
    batch = packing.pack(examples, index, batch_size=25, microbatch_size=4, row_length=16, packing=together)
    assert batch.tokens.shape == (7, 4, 16)
    tokens, segments, positions, response = (
        getattr(batch, name).reshape(-1, 16) for name in ('tokens', 'segments', 'positions', 'response'))
    found = []
    for row in range(len(tokens)):
        assert set(segments[row]) - {0} == set(range(1, segments[row].max() + 1))
        for segment in range(1, segments[row].max() + 1):
            slots = np.flatnonzero(segments[row] == segment)
            np.testing.assert_array_equal(np.diff(slots), 1)
            np.testing.assert_array_equal(positions[row, slots], np.arange(len(slots)))
            n = int(np.searchsorted(examples.starts, tokens[row, slots[0]] - 1))
            np.testing.assert_array_equal(tokens[row, slots], examples.tokens[slice(*examples.starts[n:n + 2])])
            np.testing.assert_array_equal(response[row, slots], np.arange(len(slots)) >= examples.prompt_lengths[n])
            found.append(n)
    assert sorted(found) == sorted(index)
    used = np.flatnonzero(segments.any(axis=1))
    np.testing.assert_array_equal(used, np.arange(len(used)))  # the empty ones are the last
    assert batch.count == -(-len(used) // 4)
    assert (len(used) < len(index)) == together
    assert np.all(np.diff(response[used].sum(axis=1)) <= 0)
    assert packing.padding_share(batch) == pytest.approx(1 - lengths[index].sum() / (batch.count * 64))
    assert not tokens[segments == 0].any() and not response[segments == 0].any()


def test_an_example_that_is_too_long_loses_the_left_of_what_may_go(tokenizer):
    prompt = 'one two three four five six seven'
    words = [tokenizer(f' {word}', add_special_tokens=False)['input_ids'] for word in ('nine', 'ten')]
    response = tokenizers.encode_responses(tokenizer, [' nine ten'])[0]
    assert response == [*words[0], *words[1], tokenizer.eos_token_id]
    whole = tokenizer(prompt)['input_ids']

    def prompt_of(max_length, *span):
        result = packing.encode(tokenizer, [Example(prompt, ' nine ten', *span)], max_length)
        assert result.num_cut == (max_length < len(whole) + len(response)) and not result.num_dropped
        assert result.tokens[result.prompt_lengths[0]:].tolist() == response
        return tokenizer.decode(result.tokens[:result.prompt_lengths[0]])

    length = len(whole) + len(response)
    assert prompt_of(length) == f'<s>{prompt}'
    assert prompt_of(length - 1) == '<s> two three four five six seven'
    assert prompt_of(length - 2, prompt.index(' three'), prompt.index(' six')) == '<s>one two five six seven'
    # All that may go has gone, or nothing may: the example is not there.
    for max_length, span in ((length - 3, (0, len('one two'))), (length - 1, (3, 4)), (len(response), (0, None))):
        result = packing.encode(tokenizer, [(prompt, ' nine ten', *span)], max_length)
        assert (len(result), result.num_cut, result.num_dropped) == (0, 0, 1)
    assert len(packing.encode(tokenizer, [], 8)) == 0


def test_prompts_that_hold_their_own_special_tokens_get_no_others(tokenizer):
    examples = [('one', ' two'), Example('<s>one two three', ' two', whole=True), ('nine', ' two')]
    result = packing.encode(tokenizer, examples, 16)
    prompts = [result.tokens[start:start + length].tolist() for start, length in zip(result.starts, result.prompt_lengths)]
    assert prompts == [tokenizer(text)['input_ids'] for text in ('one', 'one two three', 'nine')]
    cut = packing.encode(tokenizer, examples[1:2], result.lengths[1] - 1)
    assert tokenizer.decode(cut.tokens[:cut.prompt_lengths[0]]) == '<s> two three'


def test_joined_examples_are_those_of_the_parts():
    parts = [encoded([3, 2], [1, 1]), encoded([], []), encoded([4], [2])]
    whole = packing.joined(parts)
    rows = [whole.tokens[slice(*whole.starts[n:n + 2])].tolist() for n in range(len(whole))]
    assert rows == [[1, 2, 3], [4, 5], [1, 2, 3, 4]] and whole.prompt_lengths.tolist() == [1, 1, 2]


def test_an_epoch_sees_every_example_once():
    first, second = (packing.epoch([3, 5], (), (7, 1), number) for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(8)) and first.tolist() != second.tolist()
    np.testing.assert_array_equal(first, packing.epoch([3, 5], (), (7, 1), 0))
    assert first.tolist() != packing.epoch([3, 5], (), (8, 1), 0).tolist()


@pytest.mark.parametrize('ratio', [(), (3, 1)])
def test_examples_that_belong_together_stay_side_by_side(ratio):
    order = packing.epoch([6, 10], ratio, (0, 1), 0, together=2).reshape(-1, 2)
    np.testing.assert_array_equal(order[:, 0] % 2, 0)
    np.testing.assert_array_equal(order[:, 1], order[:, 0] + 1)
    assert len(order) == 8 and (order[:, 0] < 6).sum() == (6 if ratio else 3)


def test_one_that_is_too_long_takes_those_that_belong_to_it_along(tokenizer):
    examples = [('to be', 'or'), ('not', 'to be'), ('be ' * 20, 'or', 0, 0), ('to', 'or'), ('be', 'not'), ('or', 'be')]
    alone, pairs = (packing.encode(tokenizer, examples, 10, together) for together in (1, 2))
    assert (len(alone), alone.num_dropped, len(pairs), pairs.num_dropped) == (5, 1, 4, 2)
    np.testing.assert_array_equal(pairs.prompt_lengths, np.delete(alone.prompt_lengths, 2))


def test_an_epoch_mixes_sources_by_ratio_and_goes_on_where_the_last_one_ended():
    sizes, epochs = [10, 30, 4], [packing.epoch([10, 30, 4], (3, 1, 0), (0, 1), number) for number in range(4)]
    for order in epochs:
        assert len(order) == sum(sizes)
        assert np.bincount(np.searchsorted([10, 40], order, side='right'), minlength=3).tolist() == [33, 11, 0]
    seen = np.concatenate(epochs)
    counts = np.bincount(seen, minlength=44)
    assert sorted(counts[:10]) == [13] * 8 + [14] * 2  # 132 draws in passes of ten
    assert set(counts[10:40]) == {1, 2} and counts[10:40].sum() == 44
    assert any(np.diff(np.searchsorted([10], epochs[0], side='right')))  # shuffled across sources
