"""LLaMA 2, 3, 3.1 and 3.2, and Vicuna; also what Mistral, Qwen2 and Mixtral share with them."""

from xrec_jax.language.families.reading import check_only, check_present, choice, rope, rope_to_hf
from xrec_jax.language.families.source import Source

ARCHITECTURES = ('LlamaForCausalLM', 'LLaMAForCausalLM')
LAYER = 'model.layers.{layer}.'
SILU = {'silu': 'silu', 'swish': 'silu'}


def fields(hf: dict) -> dict:
    """Fields of `DecoderConfig`."""
    check_only(hf, mlp_bias=False, sliding_window=None)
    return shape(hf) | {'attention_bias': hf.get('attention_bias', False)}


def to_hf(config) -> dict:
    return shape_to_hf(config) | {'attention_bias': config.attention_bias, 'mlp_bias': False}


def tensors(config) -> dict[tuple[str, ...], Source]:
    """Sources of a dense model of this line."""
    sources = attention_tensors(config)
    for name in ('gate_proj', 'up_proj', 'down_proj'):
        sources['layers', 'mlp', name, 'kernel'] = Source(f'{LAYER}mlp.{name}.weight', transposed=True)
    return sources


def shape(hf: dict, kv_heads: int | None = None, rope_theta: float = 10000.0, rms_norm_eps: float = 1e-6,
          max_position_embeddings: int = 2048) -> dict:
    """The fields that this line has in common; the defaults are those of a family's missing keys."""
    check_present(hf, 'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
    heads = hf['num_attention_heads']
    return {
        'vocab_size': hf['vocab_size'],
        'hidden_size': hf['hidden_size'],
        'intermediate_size': hf['intermediate_size'],
        'num_layers': hf['num_hidden_layers'],
        'num_heads': heads,
        'num_kv_heads': hf.get('num_key_value_heads', kv_heads) or heads,
        'head_dim': hf.get('head_dim') or hf['hidden_size'] // heads,
        'max_position_embeddings': hf.get('max_position_embeddings', max_position_embeddings),
        'rms_norm_eps': hf.get('rms_norm_eps', rms_norm_eps),
        'tie_word_embeddings': hf.get('tie_word_embeddings', False),
        'activation': choice(hf, 'hidden_act', 'silu', SILU),
    } | rope(hf, rope_theta)


def shape_to_hf(config) -> dict:
    """Keys of `config.json` that this line has in common."""
    return {
        'vocab_size': config.vocab_size,
        'hidden_size': config.hidden_size,
        'intermediate_size': config.intermediate_size,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'num_key_value_heads': config.num_kv_heads,
        'head_dim': config.head_dim,
        'max_position_embeddings': config.max_position_embeddings,
        'rms_norm_eps': config.rms_norm_eps,
        'tie_word_embeddings': config.tie_word_embeddings,
        'hidden_act': 'silu',
    } | rope_to_hf(config)


def attention_tensors(config) -> dict[tuple[str, ...], Source]:
    """Sources of all but the feed-forward networks."""
    sources = {('embed_tokens',): Source('model.embed_tokens.weight'), ('norm', 'scale'): Source('model.norm.weight')}
    if not config.tie_word_embeddings:
        sources[('lm_head',)] = Source('lm_head.weight', transposed=True)
    for name in ('input_layernorm', 'post_attention_layernorm'):
        sources['layers', name, 'scale'] = Source(f'{LAYER}{name}.weight')
    for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
        sources['layers', 'self_attn', name, 'kernel'] = Source(f'{LAYER}self_attn.{name}.weight', transposed=True)
        if config.attention_bias or config.qkv_bias and name != 'o_proj':
            sources['layers', 'self_attn', name, 'bias'] = Source(f'{LAYER}self_attn.{name}.bias')
    return sources
