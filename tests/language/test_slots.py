"""A queue in slots says what each prompt says alone, whatever ran beside it, and compiles once."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from xrec_jax.errors import UserError
from xrec_jax.language import decoder, slots
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.generate import generate
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import mesh as meshes, sharding
from xrec_jax.runs.compiles import num_compiles

CONFIG = DecoderConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2,
                       num_kv_heads=1, head_dim=8, max_position_embeddings=64)
MODEL = decoder.Decoder(CONFIG)
STOPS = (2, 5)
SIZES = {'num_slots': 4, 'prefill_size': 2}


@pytest.fixture(scope='module')
def variables():
    params = decoder.init_params(jax.random.key(0), CONFIG)
    return {'params': jax.tree.map(lambda x: x * 2, params)}  # sharper than at the start


def queue(count, width=6, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, width + 1, count)
    return random.integers(3, 16, (count, width)), np.arange(width) >= width - lengths[:, None]


def alone(model, variables, tokens, mask, key, sampling):
    """Each prompt in a batch of its own, with the key that its place gives it."""
    rows = [generate(model, variables, tokens[i:i + 1], mask[i:i + 1], jax.random.fold_in(key, i), sampling=sampling,
                     stop_ids=STOPS) for i in range(len(tokens))]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def assert_same(ours, expected):
    np.testing.assert_array_equal(ours.mask, expected.mask)
    np.testing.assert_array_equal(ours.truncated, expected.truncated)
    np.testing.assert_array_equal(ours.tokens, np.where(expected.mask, expected.tokens, 0))
    np.testing.assert_allclose(ours.log_probs, np.where(expected.mask, expected.log_probs, 0), atol=2e-4)


@pytest.mark.parametrize('sampling', [
    SamplingConfig(max_length=9, temperature=0.0), SamplingConfig(max_length=9, temperature=1.5),
    SamplingConfig(max_length=9, temperature=1.2, top_k=6, top_p=0.9, min_length=4, repetition_penalty=1.3)],
    ids=['greedy', 'sampled', 'cut'])
def test_every_prompt_is_answered_as_if_it_were_alone(variables, sampling):
    tokens, mask = queue(33)
    key = jax.random.key(7)
    expected = alone(MODEL, variables, tokens, mask, key, sampling)
    assert len(set(expected.mask.sum(axis=1).tolist())) > 3 and 0 < expected.truncated.mean() < 1
    # 33 prompts of up to 6 tokens over a ring of 15 slots: it turns several times, the last group is not full.
    ours, steps = slots.generate_queue(MODEL, variables, tokens, mask, key, sampling=sampling, stop_ids=STOPS, **SIZES)
    assert_same(ours, expected)
    assert steps > 2 * 15


def test_nothing_depends_on_slots_and_groups(variables):
    tokens, mask = queue(11)
    sampling = SamplingConfig(max_length=7, temperature=1.5)
    run = lambda num_slots, prefill_size: slots.generate_queue(
        MODEL, variables, tokens, mask, jax.random.key(3), sampling=sampling, stop_ids=STOPS, num_slots=num_slots,
        prefill_size=prefill_size)[0]
    first = run(4, 2)
    for sizes in ((1, 1), (16, 3)):
        other = run(*sizes)
        np.testing.assert_array_equal(first.tokens, other.tokens)


def test_a_model_with_a_sliding_window_sees_the_same_of_the_ring(variables):
    model = decoder.Decoder(dataclasses.replace(CONFIG, sliding_window=5))
    tokens, mask = queue(9, seed=1)
    sampling = SamplingConfig(max_length=9, temperature=1.5)
    key = jax.random.key(1)
    expected = alone(model, variables, tokens, mask, key, sampling)
    ours, _ = slots.generate_queue(model, variables, tokens, mask, key, sampling=sampling, stop_ids=STOPS, **SIZES)
    assert_same(ours, expected)
    without = alone(MODEL, variables, tokens, mask, key, sampling)
    assert (np.abs(without.log_probs - expected.log_probs) > 1e-3).any()  # the window does cut something off


def test_nothing_is_compiled_after_the_first_refill(variables):
    tokens, mask = queue(30, seed=2)
    sampling = SamplingConfig(max_length=8, temperature=1.5)
    finished = slots.stream(MODEL, variables, tokens, mask, jax.random.key(5), sampling=sampling, stop_ids=STOPS,
                            **SIZES)
    count = len(next(finished).index)
    compiles = num_compiles()
    for some in finished:
        count += len(some.index)
    assert count == 30 and num_compiles() == compiles


def test_responses_come_while_others_are_written(variables):
    tokens, mask = queue(40, seed=3)
    sampling = SamplingConfig(max_length=8, temperature=1.5)
    told = []
    ours, steps = slots.generate_queue(
        MODEL, variables, tokens, mask, jax.random.key(5), sampling=sampling, stop_ids=STOPS,
        advance=told.append, **SIZES)
    assert sum(told) == 40 and len(told) > 10
    seen = [finished.steps for finished in slots.stream(
        MODEL, variables, tokens, mask, jax.random.key(5), sampling=sampling, stop_ids=STOPS, **SIZES)]
    assert seen == sorted(seen) and seen[len(seen) // 2] < steps == seen[-1]


def test_unequal_lengths_take_fewer_steps_than_plain_batches(variables):
    tokens, mask = queue(64, seed=4)
    sampling = SamplingConfig(max_length=30, temperature=1.5)
    ours, steps = slots.generate_queue(MODEL, variables, tokens, mask, jax.random.key(5), sampling=sampling,
                                       stop_ids=STOPS, num_slots=8, prefill_size=1)
    lengths = ours.lengths.reshape(8, 8)
    assert steps < lengths.max(axis=1).sum() - 8  # a plain batch: its longest response, the first token by prefill
    # With groups of one no row waits but at the end: it is nearly all the work there is, divided among the rows.
    assert steps < (lengths.sum() - 64) / 8 + 30


@pytest.fixture(scope='module')
def on_one_device(variables):
    """A queue, drawn and greedy, on a device without a mesh."""
    return {name: run_queue(MODEL, variables, sampling) for name, sampling in SAMPLINGS.items()}


SAMPLINGS = {'drawn': SamplingConfig(max_length=7, temperature=1.5), 'greedy': SamplingConfig(max_length=7, temperature=0)}


def run_queue(model, variables, sampling):
    tokens, mask = queue(20, seed=6)
    return slots.generate_queue(model, variables, tokens, mask, jax.random.key(5), sampling=sampling, stop_ids=STOPS,
                                num_slots=8, prefill_size=4)[0]


@pytest.mark.parametrize('sizes', [(1, 1, 2), (1, 2, 1), (2, 2, 2)], ids=str)
def test_on_several_devices_it_is_the_same(variables, on_one_device, sizes):
    mesh = meshes.make_mesh(dict(zip(meshes.AXES, sizes)), jax.devices()[:math.prod(sizes)])
    model = decoder.Decoder(dataclasses.replace(CONFIG, mesh=mesh))
    placed = {'params': sharding.place_params(variables['params'], decoder.abstract_params(CONFIG), mesh)}
    for name, sampling in SAMPLINGS.items():
        assert_same(run_queue(model, placed, sampling), on_one_device[name])


def test_sizes_that_do_not_fit_are_refused(variables):
    tokens, mask = queue(3)
    with pytest.raises(UserError, match='prefill_size=5 should be from 1 to num_slots=4'):
        next(slots.stream(MODEL, variables, tokens, mask, jax.random.key(0), sampling=SamplingConfig(max_length=4),
                          stop_ids=STOPS, num_slots=4, prefill_size=5))


def test_an_empty_queue_is_no_work(variables):
    tokens, mask = queue(0)
    ours, steps = slots.generate_queue(MODEL, variables, tokens, mask, jax.random.key(0),
                                       sampling=SamplingConfig(max_length=4), stop_ids=STOPS, **SIZES)
    assert ours.tokens.shape == (0, 4) and steps == 0
