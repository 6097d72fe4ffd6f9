"""The families of decoders: what each writes into `config.json`, and what it calls its tensors.

  `fields(hf)`        `config.json` → fields of `DecoderConfig`; refuses by name what is not supported
  `to_hf(config)`     and back
  `tensors(config)`   parameter path → `Source`: where a checkpoint keeps the values
  `unread(name)`      whether a checkpoint may hold this tensor although nothing reads it

`llama.py`, `mistral.py`, `qwen2.py`, `mixtral.py`, `gpt2.py` and `chatglm.py` hold one family each,
as three functions of these names, `reading.py` what they share, `source.py` the `Source`. All
families have one tree of parameters, with LLaMA's names, which `decoder.Decoder` computes with.
"""

import re

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.families import chatglm, gpt2, llama, mistral, mixtral, qwen2
from xrec_jax.language.families.reading import check_only
from xrec_jax.language.families.source import Source

FAMILIES = {'llama': llama, 'mistral': mistral, 'qwen2': qwen2, 'mixtral': mixtral, 'gpt2': gpt2, 'chatglm': chatglm}

# Buffers that older versions saved: rotary frequencies, GPT-2's causal mask; a tied head saved twice.
UNREAD = re.compile(r'(.*rotary_emb\.inv_freq|.*rotary_pos_emb\.inv_freq|(transformer\.)?h\.\d+\.attn\.(masked_)?bias'
                    r'|lm_head\.weight|transformer\.output_layer\.weight)')


def fields(hf: dict) -> dict:
    """Fields of `DecoderConfig` from Hugging Face's `config.json` (as a dict).

    Raises:
      UserError: an architecture or an option that is not supported, or a key that is missing, by name.
    """
    family = hf.get('model_type')
    if family not in FAMILIES:
        raise UserError(f'config.json: model_type "{family}" is not supported.{nearest(str(family), FAMILIES)}')
    known = FAMILIES[family].ARCHITECTURES
    architectures = hf.get('architectures') or known
    if not set(architectures) & set(known):
        raise UserError(f'config.json: architecture {", ".join(architectures)} is not supported; a "{family}" that '
                        f'writes is {known[0]}.')
    check_only(hf, quantization_config=None, is_encoder_decoder=False)
    found = FAMILIES[family].fields(hf)
    if found['num_heads'] % found['num_kv_heads']:
        raise UserError(f'config.json: {found["num_heads"]} attention heads cannot share {found["num_kv_heads"]} '
                        'key-value heads evenly.')
    return found | {'family': family}


def to_hf(config) -> dict:
    """The `config.json` that `fields` reads back, and that transformers reads."""
    family = FAMILIES[config.family]
    return {'architectures': [family.ARCHITECTURES[0]], 'model_type': config.family} | family.to_hf(config)


def tensors(config) -> dict[tuple[str, ...], Source]:
    """Where a checkpoint of `config.family` keeps each parameter of `decoder.abstract_params(config)`.

    A path that starts with 'layers' is stacked over layers, and one whose `Source.per_expert` holds
    over experts behind them.
    """
    return FAMILIES[config.family].tensors(config)


def unread(name: str) -> bool:
    """Whether a checkpoint may hold the tensor `name` although no parameter reads it."""
    return UNREAD.fullmatch(name) is not None
