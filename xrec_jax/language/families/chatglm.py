"""ChatGLM2 and ChatGLM3: half of each head is rotated, in neighbouring pairs; few kv heads.

The layout is that of `modeling_chatglm.py` beside the published weights: q, k and v in one matrix,
gate and up in another. GLM-4-9b's first release has the same `model_type` and layout.
"""

from xrec_jax.errors import UserError
from xrec_jax.language.families.reading import check_only, check_present
from xrec_jax.language.families.source import Source
from xrec_jax.language.rotary import RopeScaling

ARCHITECTURES = ('ChatGLMModel', 'ChatGLMForConditionalGeneration')
LAYER = 'transformer.encoder.layers.{layer}.'


def fields(hf: dict) -> dict:
    if hf.get('multi_query_attention') is None:
        raise UserError('config.json: a "chatglm" without multi_query_attention is a first ChatGLM-6B, which is not '
                        'supported; ChatGLM2 and ChatGLM3 are.')
    check_present(hf, 'padded_vocab_size', 'hidden_size', 'ffn_hidden_size', 'num_layers', 'num_attention_heads',
                  'kv_channels', 'multi_query_group_num')
    check_only(hf, multi_query_attention=True, rmsnorm=True, post_layer_norm=True, original_rope=True,
               add_bias_linear=False, apply_residual_connection_post_layernorm=False, fp32_residual_connection=False,
               pre_seq_len=None, quantization_bit=0)
    return {
        'vocab_size': hf['padded_vocab_size'],
        'hidden_size': hf['hidden_size'],
        'intermediate_size': hf['ffn_hidden_size'],
        'num_layers': hf['num_layers'],
        'num_heads': hf['num_attention_heads'],
        'num_kv_heads': hf['multi_query_group_num'],
        'head_dim': hf['kv_channels'],
        'max_position_embeddings': hf.get('seq_length', 2048),
        'rms_norm_eps': hf.get('layernorm_epsilon', 1e-5),
        'tie_word_embeddings': hf.get('tie_word_embeddings', False),
        'qkv_bias': hf.get('add_qkv_bias', False),
        'rotary_dim': hf['kv_channels'] // 2,
        'rotary_interleaved': True,
    } | _rope(hf)


def _rope(hf: dict) -> dict:
    """ChatGLM2's long version divides positions by `rope_ratio`, later models multiply the base by it."""
    ratio = hf.get('rope_ratio', 1)
    if ratio == 1:
        return {}
    name = f'{hf.get("_name_or_path", "")} {hf.get("auto_map", "")}'.lower()
    if 'chatglm2' in name:
        return {'rope_scaling': RopeScaling('linear', float(ratio))}
    if 'chatglm3' in name or 'glm-4' in name:
        return {'rope_theta': 10000.0 * ratio}
    raise UserError(f'config.json: rope_ratio={ratio} divides positions in ChatGLM2, but multiplies the base in '
                    'ChatGLM3 and GLM-4; write which this is into "_name_or_path": chatglm2, chatglm3 or glm-4.')


def to_hf(config) -> dict:
    scaling = config.rope_scaling
    return {
        '_name_or_path': 'chatglm2' if scaling else 'chatglm3',
        'rope_ratio': scaling.factor if scaling else config.rope_theta / 10000.0,
        'vocab_size': config.vocab_size,
        'padded_vocab_size': config.vocab_size,
        'hidden_size': config.hidden_size,
        'ffn_hidden_size': config.intermediate_size,
        'num_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'multi_query_attention': True,
        'multi_query_group_num': config.num_kv_heads,
        'kv_channels': config.head_dim,
        'seq_length': config.max_position_embeddings,
        'layernorm_epsilon': config.rms_norm_eps,
        'tie_word_embeddings': config.tie_word_embeddings,
        'add_qkv_bias': config.qkv_bias,
        'add_bias_linear': False,
        'apply_residual_connection_post_layernorm': False,
        'fp32_residual_connection': False,
        'original_rope': True,
        'post_layer_norm': True,
        'rmsnorm': True,
    }


def tensors(config) -> dict[tuple[str, ...], Source]:
    sources = {
        ('embed_tokens',): Source('transformer.embedding.word_embeddings.weight'),
        ('norm', 'scale'): Source('transformer.encoder.final_layernorm.weight'),
    }
    if not config.tie_word_embeddings:
        sources[('lm_head',)] = Source('transformer.output_layer.weight', transposed=True)
    for name in ('input_layernorm', 'post_attention_layernorm'):
        sources['layers', name, 'scale'] = Source(f'{LAYER}{name}.weight')
    widths = {'q_proj': config.num_heads, 'k_proj': config.num_kv_heads, 'v_proj': config.num_kv_heads}
    widths = {name: heads * config.head_dim for name, heads in widths.items()}
    whole, start = sum(widths.values()), 0
    for name, width in widths.items():
        path, stored = ('layers', 'self_attn', name), LAYER + 'self_attention.query_key_value.'
        sources[*path, 'kernel'] = Source(stored + 'weight', transposed=True, start=start, whole=whole)
        if config.qkv_bias:
            sources[*path, 'bias'] = Source(stored + 'bias', start=start, whole=whole)
        start += width
    sources['layers', 'self_attn', 'o_proj', 'kernel'] = Source(LAYER + 'self_attention.dense.weight', transposed=True)
    inner = config.intermediate_size
    for n, name in enumerate(('gate_proj', 'up_proj')):
        sources['layers', 'mlp', name, 'kernel'] = Source(
            LAYER + 'mlp.dense_h_to_4h.weight', transposed=True, start=n * inner, whole=2 * inner)
    sources['layers', 'mlp', 'down_proj', 'kernel'] = Source(LAYER + 'mlp.dense_4h_to_h.weight', transposed=True)
    return sources
