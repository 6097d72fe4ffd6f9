"""The embedded model does its job, in worlds that it has never seen."""

import importlib.resources

import jax
import pytest

from xrec_jax.language import decoder, probes, tokenizers, weights
from xrec_jax.language.sampling import SamplingConfig


@pytest.fixture(scope='module')
def tiny():
    directory = importlib.resources.files('xrec_jax.language') / 'tiny'
    config, params = weights.load_model(directory)
    return decoder.Decoder(config), params, tokenizers.load_tokenizer(directory), directory


def test_it_copies_titles_and_names_attributes_of_the_target(tiny):
    model, params, tokenizer, _ = tiny
    held_out = probes.tell_many(1, 64, 6)
    texts = probes.write_reasons(model, params, tokenizer, held_out, jax.random.key(0),
                                 SamplingConfig(max_length=40, temperature=0.0))
    figures = probes.probe_reasons(held_out, texts)
    assert figures['copies_title'] > 0.8
    assert figures['names_attribute'] == 0 or figures['attribute_is_the_targets'] > 0.8


def test_it_answers_better_than_chance_after_a_careful_reason(tiny):
    model, params, tokenizer, _ = tiny
    careful = [story for story in probes.tell_many(2, 400, 6) if story.careful]
    assert probes.answer_auc(model, params, tokenizer, careful, [story.reason for story in careful]) > 0.57


def test_it_is_small_enough_to_ship(tiny):
    assert sum(path.stat().st_size for path in tiny[3].iterdir()) < 12_000_000
