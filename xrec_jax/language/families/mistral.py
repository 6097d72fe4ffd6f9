"""Mistral: LLaMA with a sliding window, in its first version."""

from xrec_jax.errors import UserError
from xrec_jax.language.families import llama

ARCHITECTURES = ('MistralForCausalLM',)
tensors = llama.tensors


def fields(hf: dict) -> dict:
    window = hf.get('sliding_window', 4096)
    kind = 'full_attention' if window is None else 'sliding_attention'
    if set(hf.get('layer_types') or ()) - {kind}:
        raise UserError(f'config.json: layer_types={hf["layer_types"]!r} is not supported with '
                        f'sliding_window={window!r}; in a Mistral all layers are alike.')
    return llama.shape(hf, kv_heads=8, max_position_embeddings=131072) | {'sliding_window': window}


def to_hf(config) -> dict:
    return llama.shape_to_hf(config) | {'sliding_window': config.sliding_window}
