"""Mixtral: sparse experts in place of LLaMA's feed-forward network."""

from xrec_jax.errors import UserError
from xrec_jax.language.families import llama
from xrec_jax.language.families.source import Source

ARCHITECTURES = ('MixtralForCausalLM',)
EXPERTS = llama.LAYER + 'block_sparse_moe.'


def fields(hf: dict) -> dict:
    experts, per_token = hf.get('num_local_experts', 8), hf.get('num_experts_per_tok', 2)
    if not 1 <= per_token <= experts:
        raise UserError(f'config.json: num_experts_per_tok={per_token} of num_local_experts={experts} is impossible.')
    shape = llama.shape(hf, kv_heads=8, rope_theta=1e6, rms_norm_eps=1e-5, max_position_embeddings=131072)
    return shape | {
        'sliding_window': hf.get('sliding_window'), 'num_experts': experts, 'experts_per_token': per_token}


def to_hf(config) -> dict:
    return llama.shape_to_hf(config) | {
        'sliding_window': config.sliding_window,
        'num_local_experts': config.num_experts,
        'num_experts_per_tok': config.experts_per_token,
    }


def tensors(config) -> dict[tuple[str, ...], Source]:
    sources = llama.attention_tensors(config)
    sources['layers', 'mlp', 'router', 'kernel'] = Source(EXPERTS + 'gate.weight', transposed=True)
    for ours, theirs in (('gate', 'w1'), ('up', 'w3'), ('down', 'w2')):
        sources['layers', 'mlp', 'experts', ours] = Source(
            EXPERTS + 'experts.{expert}.' + f'{theirs}.weight', transposed=True)
    return sources
