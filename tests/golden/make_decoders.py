"""Makes the golden decoders and their outputs under tests/golden/{llama,decoders}/ (needs PyTorch; tests do not).

Each folder is a tiny random model in Hugging Face's directory format, as `save_pretrained` of
transformers writes it, with `expected.npz`: what transformers' own model computes from that folder
in float32 with eager attention.

    llama/       attention             extras                                  stored as
    mha_untied   4 heads, 4 kv heads   own lm_head                             float32
    gqa_tied     4 heads, 2 kv heads   tied embeddings, rope_theta 500000      float32
    llama31      4 heads, 2 kv heads   rope_type llama3 (factor 8, low 1,      bfloat16
                                       high 4, original length 32), head_dim
                                       16 != 32 / 4, tied, config.json in the
                                       older spelling (rope_scaling)
    bias         4 heads, 2 kv heads   attention_bias (q, k, v and o), untied  bfloat16

    decoders/    all have 4 heads, and 2 kv heads, but for GPT-2's 4
    mistral      a sliding window of 8 tokens: prompts are three times as long  bfloat16
    qwen2        biases on q, k and v; layer 0 sees all, layer 1 a window of 8  bfloat16
    mixtral      4 experts, 2 of them per token, as published (w1, w2, w3)      bfloat16
    gpt2         36 learned positions: prompt and response fill them exactly    bfloat16
    chatglm      ChatGLM3 with rope_ratio 2                                     float16

The three rotary bands of Llama 3.1 (kept, blended, divided) each hold at least one frequency, and the
sequences run past the original length. Norm weights and biases are random too, so that leaving one
out shows. Folders of 16 bits are read back and computed in float32.

transformers has no ChatGLM2 or 3. Its `GlmForCausalLM` has the same arithmetic (rotary positions of
half a head in neighbouring pairs, biases on q, k and v, SwiGLU), so the expected values are a GLM's,
whose weights are then written under ChatGLM's names; and `chatglm_logits` below, a slow second
forward in float64 after the published `modeling_chatglm.py`, reads that folder and must agree.

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
    /tmp/torch-venv/bin/python tests/golden/make_decoders.py [folder, as decoders/gpt2, …]
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
VOCAB, PROMPT, NEW = 96, 24, 12
LENGTHS = (24, 17, 5)
COMMON = dict(vocab_size=VOCAB, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
BASE = dict(
    COMMON, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=128, rms_norm_eps=1e-5)
GROUPED = dict(BASE, num_key_value_heads=2, tie_word_embeddings=False,
               rope_parameters=dict(rope_type='default', rope_theta=10000.0))
LLAMA31 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=32)
RATIO = 2  # ChatGLM's rope_ratio
CASES = {  # folder → model_type, config, dtype on disk
    'llama/mha_untied': ('llama', dict(
        BASE, num_key_value_heads=4, tie_word_embeddings=False,
        rope_parameters=dict(rope_type='default', rope_theta=10000.0)), torch.float32),
    'llama/gqa_tied': ('llama', dict(
        BASE, num_key_value_heads=2, tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=500000.0)), torch.float32),
    'llama/llama31': ('llama', dict(
        BASE, num_key_value_heads=2, tie_word_embeddings=True, head_dim=16,
        rope_parameters=dict(LLAMA31, rope_theta=10000.0)), torch.bfloat16),
    'llama/bias': ('llama', dict(GROUPED, attention_bias=True), torch.bfloat16),
    'decoders/mistral': ('mistral', dict(GROUPED, sliding_window=8), torch.bfloat16),
    'decoders/qwen2': ('qwen2', dict(
        GROUPED, tie_word_embeddings=True, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        torch.bfloat16),
    'decoders/mixtral': ('mixtral', dict(
        GROUPED, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2), torch.bfloat16),
    'decoders/gpt2': ('gpt2', dict(
        COMMON | {'initializer_range': 0.4}, n_embd=32, n_layer=2, n_head=4, n_positions=PROMPT + NEW),
        torch.bfloat16),
    'decoders/chatglm': ('glm', dict(
        GROUPED, head_dim=8, attention_bias=True, pad_token_id=0,
        rope_parameters=dict(rope_type='default', rope_theta=10000.0 * RATIO, partial_rotary_factor=0.5)),
        torch.float16),
}


def save_checkpoint(folder: pathlib.Path, model_type: str, config: dict, dtype: torch.dtype, seed: int) -> None:
    """Writes a random checkpoint; norms and biases are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith('norm.weight') or '.ln_' in name and name.endswith('weight'):
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
    model = AutoModelForCausalLM.from_pretrained(
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


def rename_to_chatglm(folder: pathlib.Path) -> None:
    """Turns a GLM's folder into ChatGLM3's names, keys and fused matrices."""
    hf = json.loads((folder / 'config.json').read_text())
    stored = safetensors.torch.load_file(folder / 'model.safetensors')
    renamed = {
        'transformer.embedding.word_embeddings.weight': stored['model.embed_tokens.weight'],
        'transformer.encoder.final_layernorm.weight': stored['model.norm.weight'],
        'transformer.output_layer.weight': stored['lm_head.weight'],
        'transformer.rotary_pos_emb.inv_freq': torch.ones(2),  # the published files hold it; nobody reads it
    }
    for layer in range(hf['num_hidden_layers']):
        old, new = f'model.layers.{layer}.', f'transformer.encoder.layers.{layer}.'
        for kind in ('weight', 'bias'):
            renamed[f'{new}self_attention.query_key_value.{kind}'] = torch.cat(
                [stored[f'{old}self_attn.{matrix}_proj.{kind}'] for matrix in 'qkv'])
        renamed |= {
            f'{new}self_attention.dense.weight': stored[f'{old}self_attn.o_proj.weight'],
            f'{new}mlp.dense_h_to_4h.weight': stored[f'{old}mlp.gate_up_proj.weight'],
            f'{new}mlp.dense_4h_to_h.weight': stored[f'{old}mlp.down_proj.weight'],
            f'{new}input_layernorm.weight': stored[f'{old}input_layernorm.weight'],
            f'{new}post_attention_layernorm.weight': stored[f'{old}post_attention_layernorm.weight'],
        }
    safetensors.torch.save_file(renamed, folder / 'model.safetensors', metadata={'format': 'pt'})
    (folder / 'model.safetensors').chmod(0o644)
    config = {  # the keys of the published config.json
        '_name_or_path': 'THUDM/chatglm3-6b-32k', 'model_type': 'chatglm', 'architectures': ['ChatGLMModel'],
        'add_bias_linear': False, 'add_qkv_bias': True, 'apply_query_key_layer_scaling': True,
        'apply_residual_connection_post_layernorm': False, 'attention_dropout': 0.0,
        'attention_softmax_in_fp32': True, 'bias_dropout_fusion': True, 'ffn_hidden_size': hf['intermediate_size'],
        'fp32_residual_connection': False, 'hidden_dropout': 0.0, 'hidden_size': hf['hidden_size'],
        'kv_channels': hf['head_dim'], 'layernorm_epsilon': hf['rms_norm_eps'], 'multi_query_attention': True,
        'multi_query_group_num': hf['num_key_value_heads'], 'num_attention_heads': hf['num_attention_heads'],
        'num_layers': hf['num_hidden_layers'], 'original_rope': True, 'padded_vocab_size': VOCAB,
        'post_layer_norm': True, 'rmsnorm': True, 'rope_ratio': RATIO, 'seq_length': 128, 'use_cache': True,
        'tie_word_embeddings': False, 'torch_dtype': 'float16'}
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


def chatglm_logits(folder: pathlib.Path, ids: np.ndarray) -> np.ndarray:
    """Logits [S, V] of one sequence [S] without padding, in float64, after `modeling_chatglm.py`."""
    hf = json.loads((folder / 'config.json').read_text())
    stored = safetensors.torch.load_file(folder / 'model.safetensors')
    weights = {name: value.double().numpy() for name, value in stored.items()}
    heads, groups, width = hf['num_attention_heads'], hf['multi_query_group_num'], hf['kv_channels']
    exponents = np.arange(0, width // 2, 2) / (width // 2)
    angles = np.arange(len(ids))[:, None] * (10000.0 * hf['rope_ratio']) ** -exponents
    turn = np.exp(1j * angles)[:, None]  # [S, 1, pairs]

    def norm(x, name):
        scale = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + hf['layernorm_epsilon'])
        return x / scale * weights[f'transformer.encoder.{name}.weight']

    def rotated(x):  # [S, heads, width]: neighbours of the first half are real and imaginary parts
        turned = (x[..., :width // 2:2] + 1j * x[..., 1:width // 2:2]) * turn
        x = x.copy()
        x[..., :width // 2:2], x[..., 1:width // 2:2] = turned.real, turned.imag
        return x

    x = weights['transformer.embedding.word_embeddings.weight'][ids]
    for layer in range(hf['num_layers']):
        name = f'transformer.encoder.layers.{layer}.'
        mixed = norm(x, f'layers.{layer}.input_layernorm') @ weights[
            f'{name}self_attention.query_key_value.weight'].T + weights[f'{name}self_attention.query_key_value.bias']
        q, k, v = np.split(mixed, [heads * width, (heads + groups) * width], axis=-1)
        q = rotated(q.reshape(len(ids), heads, width))
        k = rotated(k.reshape(len(ids), groups, width))
        v = v.reshape(len(ids), groups, width)
        context = np.zeros_like(q)
        for head in range(heads):
            group = head // (heads // groups)
            scores = q[:, head] @ k[:, group].T / np.sqrt(width)
            scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
            share = np.exp(scores - scores.max(axis=-1, keepdims=True))
            context[:, head] = share / share.sum(axis=-1, keepdims=True) @ v[:, group]
        x = x + context.reshape(len(ids), -1) @ weights[f'{name}self_attention.dense.weight'].T
        wide = norm(x, f'layers.{layer}.post_attention_layernorm') @ weights[f'{name}mlp.dense_h_to_4h.weight'].T
        gate, up = np.split(wide, 2, axis=-1)
        x = x + gate / (1 + np.exp(-gate)) * up @ weights[f'{name}mlp.dense_4h_to_h.weight'].T
    return norm(x, 'final_layernorm') @ weights['transformer.output_layer.weight'].T


def main(names: list[str]) -> None:
    for seed, (name, (model_type, config, dtype)) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        folder = HERE / name
        save_checkpoint(folder, model_type, config, dtype, seed)
        arrays = expected(folder, seed)
        if name == 'decoders/chatglm':
            rename_to_chatglm(folder)
            difference = np.abs(chatglm_logits(folder, arrays['input_ids'][0]) - arrays['logits'][0]).max()
            assert difference < 1e-4, f'modeling_chatglm and GLM differ by {difference}'
        np.savez_compressed(folder / 'expected.npz', **arrays)
        real = arrays['logits'][arrays['attention_mask'] > 0]
        size = sum(p.stat().st_size for p in folder.iterdir())
        print(f'{name}: {size / 1e3:.0f} kB, logit std {real.std():.2f}, '
              f'smallest greedy margin {arrays["margin"].min():.4f}, '
              f'distinct new tokens {len(np.unique(arrays["generated"]))}')


if __name__ == '__main__':
    main(sys.argv[1:])
