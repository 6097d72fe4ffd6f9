"""Qwen2 and Qwen2.5: LLaMA with biases on q, k and v, and a sliding window in the upper layers, if any."""

from xrec_jax.errors import UserError
from xrec_jax.language.families import llama
from xrec_jax.language.families.reading import check_only

ARCHITECTURES = ('Qwen2ForCausalLM',)
tensors = llama.tensors


def fields(hf: dict) -> dict:
    check_only(hf, use_mrope=False)
    shape = llama.shape(hf, kv_heads=32, max_position_embeddings=32768)
    layers = shape['num_layers']
    window = hf.get('sliding_window', 4096) if hf.get('use_sliding_window') else None
    first = hf.get('max_window_layers', 28) if window else layers
    kinds = hf.get('layer_types')
    if kinds is not None:  # transformers 5 writes them; then they say where the window begins
        first = kinds.index('sliding_attention') if 'sliding_attention' in kinds else layers
        ordered = kinds == ['full_attention'] * first + ['sliding_attention'] * (layers - first)
        if not ordered or first < layers and window is None:
            raise UserError(f'config.json: layer_types={kinds!r} is not supported with use_sliding_window='
                            f'{hf.get("use_sliding_window", False)!r}: full_attention below, sliding_attention above.')
    window, first = (window, first) if first < layers else (None, 0)
    return shape | {'qkv_bias': True, 'sliding_window': window, 'first_window_layer': first}


def to_hf(config) -> dict:
    window = config.sliding_window
    return llama.shape_to_hf(config) | {
        'use_sliding_window': window is not None,
        'sliding_window': window,
        'max_window_layers': config.num_layers if window is None else config.first_window_layer,
    }
