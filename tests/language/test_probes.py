"""The probes against writers whose skill is known."""

import numpy as np

from xrec_jax.language import probes

HELD_OUT = probes.tell_many(0, 400, 8)
CAREFUL = [story for story in HELD_OUT if story.careful]
CARELESS = [story for story in HELD_OUT if not story.careful]


def test_the_careful_writer_does_all_of_it():
    figures = probes.probe_reasons(CAREFUL, [story.reason for story in CAREFUL])
    assert figures['copies_title'] == 1 and figures['attribute_is_the_targets'] == 1
    assert figures['attribute_is_shared'] == 1 and figures['names_shared_attribute'] > 0.99


def test_the_careless_writer_names_nothing():
    figures = probes.probe_reasons(CARELESS, [story.reason for story in CARELESS])
    assert figures['copies_title'] == 1
    assert figures['names_attribute'] < 0.05


def test_reasons_of_other_stories_do_not_count():
    shifted = [story.reason for story in CAREFUL[1:] + CAREFUL[:1]]
    figures = probes.probe_reasons(CAREFUL, shifted)
    assert figures['copies_title'] < 0.05 and figures['names_shared_attribute'] < 0.2


def test_held_out_stories_are_the_same_every_time_and_not_those_of_training():
    again = probes.tell_many(0, 5, 8)
    assert [story.explain_prompt for story in again] == [story.explain_prompt for story in HELD_OUT[:5]]
    assert len({story.target for story in HELD_OUT}) > 390
    assert np.isclose(np.mean([story.careful for story in HELD_OUT]), 0.5, atol=0.12)
