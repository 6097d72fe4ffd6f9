"""The figures of bench/ppo.py, from answers that are made up."""

import types

import pytest

from bench import ppo


class Fake:
    """A side that answers at once; its first round is slow, as one that compiles."""

    def __init__(self, rounds, **about):
        self.rounds, self.about = list(rounds), about

    def ask(self, verb, *unused):
        if verb == 'about':
            return self.about
        seconds = self.rounds.pop(0)
        parts = [{'write': 0.5 * one, 'score': 0.2 * one, 'update': 0.2 * one} for one in seconds]
        return {'seconds': seconds, 'parts': parts, 'prefill': 0.1, 'peak_mib': 7, 'kl': 0.0, 'entropy': 9.0,
                'score_mean': 0.5}


def test_a_ratio_is_of_the_medians_without_the_first_round():
    workers = {'ours': Fake([[90.0], [1.0, 2.0], [3.0, 2.0]], at_best={'prefill': 0.05, 'decode': 0.3, 'update': 0.1}),
               'theirs': Fake([[90.0], [8.0, 8.0], [9.0, 6.0]], trl='0.29')}
    args = types.SimpleNamespace(rounds=2, steps=2, rollout=4, response=10, values='shared')
    ours, theirs, both = ppo.report(args, workers)
    assert ours['seconds'] == 2 and theirs['seconds'] == 8 and both['ratio'] == 4 and both['ratio_of_fastest'] == 6
    assert ours['tokens_per_second'] == 20 and theirs['trl'] == '0.29'
    assert ours['parts'] == pytest.approx({'write': 1.0, 'score': 0.4, 'update': 0.4, 'host': 0.2})
    assert ours['share'] == pytest.approx({'prefill': 0.05, 'decode': 0.45, 'score': 0.2, 'update': 0.2, 'host': 0.1})
    assert ours['reached'] == pytest.approx({'prefill': 0.5, 'decode': 0.3 / 0.9, 'update': 0.25})


def test_prompts_are_padded_on_the_left_and_one_is_full():
    tokens = ppo.prompts(types.SimpleNamespace(rollout=6, prompt=8), 50)
    lengths = (tokens != ppo.PAD).sum(axis=1)
    assert lengths[0] == 8 and lengths.min() >= 4
    for row, length in zip(tokens, lengths):
        assert (row[8 - length:] != ppo.PAD).all() and (row[:8 - length] == ppo.PAD).all()
