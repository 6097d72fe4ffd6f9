"""The figures of bench/decode.py, from answers that are made up."""

import types

import pytest

from bench import decode


class Fake:
    """A side that answers at once; the first call of each is slow, as one that compiles."""

    def __init__(self, calls, prefill, tokens, **about):
        self.calls, self.prefill, self.tokens, self.about = list(calls), prefill, tokens, about

    def ask(self, verb, batch=None):
        if verb == 'go':
            return {'call': self.calls.pop(0), 'prefill': self.prefill, 'tokens': self.tokens, 'peak_mib': 7}
        return {'peak_mib': 1} | (self.about if verb == 'about' else self.begun if hasattr(self, 'begun') else {})


@pytest.fixture
def workers():
    ours = Fake([9, 2, 1, 3], 1.0, [[5, 6, 7], [5, 6, 8]], peak_flops=100.0, bandwidth=10.0)
    ours.begun = {'weight_bytes': 4, 'cache_bytes': 2, 'step_flops': 60, 'prefill_flops': 50}
    return {'ours': ours, 'theirs': Fake([9, 4, 4, 4], 1.0, [[5, 6, 7], [5, 9, 8]], versions='torch')}


def test_figures_are_medians_without_the_first_round(workers):
    args = types.SimpleNamespace(rounds=3, new=3)
    ours, theirs, both = decode.measure(args, workers, 2)
    assert ours['tokens_per_second'] == 2 * 3 / 2 and theirs['tokens_per_second'] == 2 * 3 / 4
    assert ours['step_ms'] == 500 and ours['peak_mib'] == 7 and ours['fastest_call'] == 1
    assert both['ratio'] == 2 and both['same_tokens'] == pytest.approx(4 / 6)  # nothing counts behind a difference


def test_shares_are_of_the_formula_that_is_printed(workers):
    ours, *_ = decode.measure(types.SimpleNamespace(rounds=3, new=3), workers, 2)
    assert ours['step_share_of_roofline'] == pytest.approx((2 / 10 + max(4 / 10, 60 / 100)) / 0.5)
    assert ours['prefill_share_of_peak'] == pytest.approx(50 / 100 / 1.0)
