"""A run that is killed at random moments of every phase."""

import json
import pathlib
import subprocess
import sys

BENCH = pathlib.Path(__file__).parents[2] / 'bench' / 'preemption.py'


def test_twenty_kills_change_no_bit(tmp_path):
    """Four rounds of five phases; the moments are random, so one in the last phase may come when the run is over."""
    bench = subprocess.run([sys.executable, str(BENCH), '--rounds', '4', '--workdir', str(tmp_path / 'bench')],
                           capture_output=True, text=True, timeout=1200)
    assert bench.returncode == 0, bench.stdout + bench.stderr
    seconds, *rounds = map(json.loads, bench.stdout.splitlines())
    assert len(rounds) == 4 and all(row['differs'] == [] for row in rounds)
    killed_in = [phase for row in rounds for phase in row['killed_in']]
    assert len(killed_in) > 16 and {*killed_in} - {'end'} == {*seconds['seconds']}
