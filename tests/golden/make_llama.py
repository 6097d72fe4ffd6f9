"""Makes the golden LLaMA checkpoints and outputs under tests/golden/llama/ (needs PyTorch; tests do not).

Each folder is a tiny random LLaMA in Hugging Face's directory format, as `save_pretrained` of
transformers writes it, with `expected.npz`: what transformers' own `LlamaForCausalLM` computes from
that folder in float32 with eager attention.

    name         attention             extras                                  stored as
    mha_untied   4 heads, 4 kv heads   own lm_head                             float32
    gqa_tied     4 heads, 2 kv heads   tied embeddings, rope_theta 500000      float32
    llama31      4 heads, 2 kv heads   rope_type llama3 (factor 8, low 1,      bfloat16
                                       high 4, original length 32), head_dim
                                       16 != 32 / 4, tied, config.json in the
                                       older spelling (rope_scaling)
    bias         4 heads, 2 kv heads   attention_bias (q, k, v and o), untied  bfloat16

The three rotary bands of Llama 3.1 (kept, blended, divided) each hold at least one frequency, and the
sequences run past the original length. Norm weights and biases are random too, so that leaving one
out shows. bfloat16 folders are read back and computed in float32.

`expected.npz` holds (B = 3, P = 24 prompt tokens, R = 12 new tokens, V = 96):
    input_ids       int32 [B, P]     left-padded, 24, 17 and 5 real tokens; pads are id 95 on purpose
    attention_mask  int32 [B, P]
    position_ids    int32 [B, P]     cumsum(mask) - mask: 0 at pads and at the first real token
    logits          float32 [B, P, V]  zeroed at pads
    generated       int32 [B, R]     greedy continuation, no stop token, every step recomputed in full
    margin          float32 [B, R]   best logit minus second best at each step

Made with torch 2.13.0 (CPU), transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6, Python 3.11:

    python -m venv /tmp/torch-venv
    /tmp/torch-venv/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
    /tmp/torch-venv/bin/python tests/golden/make_llama.py
"""

import json
import pathlib
import shutil

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent / 'llama'
VOCAB, PROMPT, NEW = 96, 24, 12
LENGTHS = (24, 17, 5)
BASE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=128, initializer_range=0.2, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2)
LLAMA31 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=32)
CASES = {
    'mha_untied': (dict(num_key_value_heads=4, tie_word_embeddings=False,
                        rope_parameters=dict(rope_type='default', rope_theta=10000.0)),
                   torch.float32),
    'gqa_tied': (dict(num_key_value_heads=2, tie_word_embeddings=True,
                      rope_parameters=dict(rope_type='default', rope_theta=500000.0)),
                 torch.float32),
    'llama31': (dict(num_key_value_heads=2, tie_word_embeddings=True, head_dim=16,
                     rope_parameters=dict(LLAMA31, rope_theta=10000.0)), torch.bfloat16),
    'bias': (dict(num_key_value_heads=2, tie_word_embeddings=False, attention_bias=True,
                  rope_parameters=dict(rope_type='default', rope_theta=10000.0)),
             torch.bfloat16),
}


def save_checkpoint(folder: pathlib.Path, overrides: dict, dtype: torch.dtype, seed: int) -> None:
    """Writes a random checkpoint; norms and biases are random too."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**BASE, **overrides}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith('norm.weight'):
                value.copy_(1 + 0.3 * torch.randn_like(value))
            elif name.endswith('bias'):
                value.copy_(0.5 * torch.randn_like(value))
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)
    (folder / 'model.safetensors').chmod(0o644)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    if folder.name == 'llama31':  # the spelling of the published checkpoints
        path = folder / 'config.json'
        config = json.loads(path.read_text())
        rope = config.pop('rope_parameters')
        config['rope_theta'] = rope.pop('rope_theta')
        config['rope_scaling'] = rope
        config['torch_dtype'] = config.pop('dtype')
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')


def forward(model, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ids, mask [B, S] -> (logits [B, S, V], position ids [B, S])."""
    positions = (mask.cumsum(1) - mask) * mask
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.logits, positions


@torch.no_grad()
def expected(folder: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
    """Runs transformers on the saved folder in float32."""
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager').eval()
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, VOCAB - 1, size=(len(LENGTHS), PROMPT))
    mask = (np.arange(PROMPT)[None] >= PROMPT - np.array(LENGTHS)[:, None]).astype(np.int64)
    ids = torch.tensor(np.where(mask, ids, VOCAB - 1))
    mask = torch.tensor(mask)
    logits, positions = forward(model, ids, mask)
    all_ids, all_mask, margins = ids, mask, []
    for _ in range(NEW):
        last = forward(model, all_ids, all_mask)[0][:, -1]
        top = last.topk(2, dim=-1)
        margins.append(top.values[:, 0] - top.values[:, 1])
        all_ids = torch.cat([all_ids, top.indices[:, :1]], 1)
        all_mask = torch.cat([all_mask, torch.ones_like(top.indices[:, :1])], 1)
    # HF's own generate, which makes its own positions and uses its cache, must agree.
    by_generate = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW,
                                 min_new_tokens=NEW, do_sample=False, pad_token_id=VOCAB - 1,
                                 eos_token_id=None)
    assert (by_generate == all_ids).all(), folder.name
    # A row alone, without padding, must agree too.
    alone = model(input_ids=ids[2:, -LENGTHS[2]:], use_cache=False).logits
    assert torch.allclose(alone[0], logits[2, -LENGTHS[2]:], atol=1e-4), folder.name
    return dict(
        input_ids=ids.numpy().astype(np.int32),
        attention_mask=mask.numpy().astype(np.int32),
        position_ids=positions.numpy().astype(np.int32),
        logits=(logits * mask[..., None]).numpy().astype(np.float32),
        generated=all_ids[:, PROMPT:].numpy().astype(np.int32),
        margin=torch.stack(margins, 1).numpy().astype(np.float32))


def main() -> None:
    for seed, (name, (overrides, dtype)) in enumerate(CASES.items()):
        folder = HERE / name
        save_checkpoint(folder, overrides, dtype, seed)
        arrays = expected(folder, seed)
        np.savez_compressed(folder / 'expected.npz', **arrays)
        real = arrays['logits'][arrays['attention_mask'] > 0]
        size = sum(p.stat().st_size for p in folder.iterdir())
        print(f'{name}: {size / 1e3:.0f} kB, logit std {real.std():.2f}, '
              f'smallest greedy margin {arrays["margin"].min():.4f}, '
              f'distinct new tokens {len(np.unique(arrays["generated"]))}')


if __name__ == '__main__':
    main()
