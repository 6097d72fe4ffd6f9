"""How `bench/sharded_tables.py` reads compiled programs, and a small measurement."""

import jax
import numpy as np

from bench import sharded_tables


def test_large_arrays_of_a_program_are_found_in_any_layout():
    program = ('%a = f32[8,4]{1,0} add(%x, %y)\n%b = bf16[32]{0} copy(%c)\n%d = (f32[16,2]{1,0}, s32[]) tuple()\n'
               '%e = f32[8,2]{1,0} add(%x, %y)\n%f = s32[99]{0} iota()\n%g = f32[] constant(0)')
    assert sharded_tables.whole(program, 32) == 3


def test_small_tables_lie_in_parts_as_computed():
    found = sharded_tables.measure(512, dim=8, interactions=9000, steps=2)
    assert found['devices'] == jax.device_count() and found['state_bytes_found'] == found['state_bytes_computed']
    assert len(sharded_tables.row(found)) == len(sharded_tables.COLUMNS) and np.isfinite(found['seconds']['init'])
