"""What responses are worth to a policy, read out a few positions at a time: the same numbers in less memory."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xrec_jax.language import decoder, lora, policy
from xrec_jax.language.config import DecoderConfig
from xrec_jax.parallel import mesh as meshes, sharding

CONFIG = DecoderConfig(vocab_size=2048, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, num_kv_heads=2,
                       head_dim=8, max_position_embeddings=128)
LORA = lora.LoraConfig(rank=2)
B, P, R = 4, 5, 23  # 23: the last chunk is not full


def case(config):
    """(model, base, what is learned, rollouts)."""
    random = np.random.default_rng(0)
    base = decoder.init_params(jax.random.key(0), config)
    adapter = jax.tree.map(lambda x: x + 0.05, lora.init_adapter(jax.random.key(1), base, LORA))
    head = {'kernel': jnp.asarray(random.normal(size=config.hidden_size), jnp.float32), 'bias': jnp.float32(0.3)}
    rollouts = (random.integers(3, config.vocab_size, (B, P)), np.arange(P) >= [[0], [2], [4], [1]],
                random.integers(3, config.vocab_size, (B, R)), np.arange(R) < [[R], [4], [9], [R]])
    return decoder.Decoder(config, LORA.scale), base, {'adapter': adapter, 'head': head}, rollouts


def loss_of(model, base, rollouts):
    """A loss in which log-probs, entropy and values all have a say; and the evaluation."""
    def loss(learned):
        found = policy.evaluate(model, {'params': base, 'lora': learned['adapter']}, *rollouts, temperature=0.7,
                                value_head=learned['head'])
        weight = jnp.where(rollouts[3], jnp.sin(jnp.arange(R) + 1.0), 0)
        return ((found.log_probs + 0.3 * found.entropy + found.values**2) * weight).mean(), found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def at_once(monkeypatch, positions, config):
    monkeypatch.setattr(policy, 'LOGITS', B * config.vocab_size * positions)


@pytest.mark.parametrize('tied', [False, True], ids=['untied', 'tied'])
def test_chunks_of_positions_give_the_whole_ones_numbers_and_gradient(tied, monkeypatch):
    model, base, learned, rollouts = case(dataclasses.replace(CONFIG, tie_word_embeddings=tied))
    whole = loss_of(model, base, rollouts)(learned)
    at_once(monkeypatch, 7, CONFIG)
    assert policy.positions_at_once(B, CONFIG.vocab_size, R) == 6  # four chunks: 6, 6, 6, 5
    chunked = loss_of(model, base, rollouts)(learned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), chunked, whole)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole[1])) > 0.01


def test_a_small_vocabulary_is_read_out_in_one_piece(monkeypatch):
    assert policy.positions_at_once(32, 2048, 48) == 48
    assert policy.positions_at_once(64, 128_256, 128) == 8 and policy.positions_at_once(4096, 128_256, 128) == 1
    model, base, learned, rollouts = case(CONFIG)
    monkeypatch.setattr(policy, 'head_product', lambda *args: pytest.fail('cut into pieces'))
    loss_of(model, base, rollouts).lower(learned)


def test_memory_is_that_of_a_chunk_not_of_the_response(monkeypatch):
    """As XLA plans it, forward and backward: whole logits of all positions are nowhere in it."""
    model, base, learned, rollouts = case(CONFIG)

    def planned():
        program = loss_of(model, base, rollouts).lower(learned).compile()
        return program.memory_analysis().temp_size_in_bytes, f'f32[{B},{R},2048]' in program.as_text()

    whole, has_all = planned()
    at_once(monkeypatch, 2, CONFIG)
    chunked, still_has_all = planned()
    assert has_all and not still_has_all
    assert chunked < whole / 4, (chunked, whole)


def test_on_a_mesh_it_is_the_same(monkeypatch):
    model, base, learned, rollouts = case(CONFIG)
    expected = loss_of(model, base, rollouts)(learned)
    mesh = meshes.make_mesh({'data': 1, 'fsdp': 2, 'tensor': 2}, jax.devices()[:4])
    shapes = decoder.abstract_params(CONFIG)
    placed = sharding.place_params(base, shapes, mesh)
    learned = sharding.place_learner(learned, shapes, mesh)
    monkeypatch.setattr(policy, 'LOGITS', 2 * 1024 * 6)  # of the two rows and half the words on a device: 6 positions
    on_mesh = decoder.Decoder(dataclasses.replace(CONFIG, mesh=mesh), LORA.scale)
    program = loss_of(on_mesh, placed, sharding.place_batch(rollouts, mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
                 jax.device_get(program(learned)), jax.device_get(expected))
    text = program.lower(learned).compile().as_text()
    assert 'f32[2,6,1024]' in text and not re.search(r'f32\[\d,\d+,2048\]', text)  # nobody has the logits of all words
