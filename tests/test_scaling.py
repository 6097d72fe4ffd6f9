"""The paper plan: launch/SCALING.md is what the program computes, and the program what others have worked out."""

import json
import pathlib
import re

import pytest

from xrec_jax.planning import scaling
from xrec_jax.planning.chips import CHIPS

PAGE = (pathlib.Path(__file__).parents[1] / 'launch' / 'SCALING.md').read_text()


def test_decoding_takes_as_long_as_others_say():
    rows = re.findall(r'decode of 8B.* \| ([\d.]+) \|$', scaling.checks(), re.M)
    assert len(rows) == 8 and all(0.9 < float(ratio) < 1.1 for ratio in rows)


def test_the_page_has_what_is_computed():
    machine = next(machine for machine in scaling.MACHINES if machine.chip == 'h100')
    plan = scaling.best('llama-3-8b', machine)
    for reached in ({}, scaling.REACHED):
        assert ' | '.join(scaling.row('llama-3-8b', machine, plan, reached)) in PAGE
    assert scaling.checks() in PAGE
    if scaling.MEASURED.exists():
        assert scaling.measured([json.loads(line) for line in scaling.MEASURED.read_text().splitlines()]) in PAGE


def test_what_was_measured_stands_beside_what_was_predicted():
    work = {'batch': 32, 'microbatch': 8, 'prompt': 128, 'response': 64}
    lines = [{'device': 'cpu'},
             {'shape': '15m', 'step': 'decode', 'bound': 'memory', 'predicted_ms': 6.0, 'measured_ms': 12.0,
              'reached': 0.5, **work},
             {'shape': '15m', 'step': 'update', 'bound': 'compute', 'predicted_ms': 200.0, 'measured_ms': 400.0,
              'reached': 0.5, **work}]
    one, other = scaling.measured(lines).splitlines()[2:]
    assert one == '| 15m: decode, 32 rows of 128 and 64 tokens | 6.0 memory | 10.0 | 12.0 | 50% |'
    assert other == '| 15m: update, 8 rows of 192 tokens | 200.0 compute | 500.0 | 400.0 | 50% |'


def test_a_plan_fits_and_no_other_writes_more():
    machine = scaling.Machine('8 v5e', 'v5e', 8, 8)
    chip = CHIPS['v5e']
    plans = list(scaling.plans('llama-3-8b', machine))
    best = scaling.best('llama-3-8b', machine)
    assert max(best.bytes().values()) < chip.memory and plans
    assert best.explanations_a_second(chip) >= max(plan.explanations_a_second(chip) for plan in plans) * (1 - 1e-6)
    parts = best.iteration(chip)
    assert parts['write'] == pytest.approx(scaling.ROLLOUT / best.explanations_a_second(chip))
    assert scaling.best('llama-3-70b', scaling.Machine('1 v5e', 'v5e', 1, 1)) is None
