"""The paper plan: launch/SCALING.md is what the program computes, and the program what others have worked out."""

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
