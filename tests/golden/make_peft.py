"""Makes the golden adapters under tests/golden/peft/ (needs PyTorch and peft; tests do not).

Each folder is a random adapter as `save_pretrained` of peft writes it, for one of the golden base
models, with `expected.npz`: the logits of base and adapter together, in float32, for the `input_ids`
of the base model's own expected.npz (`position_ids` and `attention_mask` too).

    folder   base             rank, alpha         on
    llama    llama/gqa_tied   2, 6                q_proj, v_proj, down_proj
    rslora   llama/gqa_tied   4, 6, by √r         'all-linear' (peft then lists every module of every layer)
    gpt2     decoders/gpt2    2, 8                c_attn (q, k and v in one), attn.c_proj, c_fc

Made with peft 0.21.2 on torch 2.13.0 (CPU), transformers 5.23.0, Python 3.11:

    /tmp/torch-venv/bin/pip install peft==0.21.2   # on top of what make_decoders.py says
    /tmp/torch-venv/bin/python tests/golden/make_peft.py
"""

import pathlib
import shutil

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).parent
HERE = GOLDEN / 'peft'
CASES = {
    'llama': ('llama/gqa_tied', dict(r=2, lora_alpha=6, lora_dropout=0.05,
                                     target_modules=['q_proj', 'v_proj', 'down_proj'])),
    'rslora': ('llama/gqa_tied', dict(r=4, lora_alpha=6, use_rslora=True, target_modules='all-linear')),
    'gpt2': ('decoders/gpt2', dict(r=2, lora_alpha=8, fan_in_fan_out=True,
                                   target_modules=['c_attn', 'attn.c_proj', 'c_fc'])),
}


def base_model(name: str):
    return AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32, attn_implementation='eager').eval()


@torch.no_grad()
def logits(model, name: str) -> np.ndarray:
    """[B, P, V], zeroed at pads."""
    expected = np.load(GOLDEN / name / 'expected.npz')
    inputs = {key: torch.tensor(expected[key]).long() for key in ('input_ids', 'attention_mask', 'position_ids')}
    return (model(**inputs, use_cache=False).logits * inputs['attention_mask'][..., None]).numpy().astype(np.float32)


def main() -> None:
    for seed, (folder, (name, options)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = get_peft_model(base_model(name), LoraConfig(task_type='CAUSAL_LM', **options)).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                if 'lora_' in key:  # B starts at zero, which would hide it
                    value.copy_(0.3 * torch.randn_like(value))
        model.base_model.peft_config['default'].base_model_name_or_path = name  # not where it lay on this machine
        shutil.rmtree(HERE / folder, ignore_errors=True)
        model.save_pretrained(HERE / folder)
        (HERE / folder / 'README.md').unlink()
        (HERE / folder / 'adapter_model.safetensors').chmod(0o644)
        result = logits(PeftModel.from_pretrained(base_model(name), HERE / folder).eval(), name)
        change = np.abs(result - logits(base_model(name), name)).max()
        np.savez_compressed(HERE / folder / 'expected.npz', logits=result)
        print(f'{folder}: logit std {result.std():.2f}, largest change by the adapter {change:.2f}')


if __name__ == '__main__':
    main()
