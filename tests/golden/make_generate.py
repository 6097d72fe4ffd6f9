"""Makes tests/golden/generate.npz: what transformers' decoding makes of its options (needs PyTorch; tests do not).

Greedy continuations, with repetition penalty, minimal length and a stop token, of two checkpoints of
golden/llama/ (made by make_decoders.py), and distributions after the cuts:

    settings        float64 [S, 3]   repetition_penalty, min_new_tokens, eos_token_id
    input_ids       int32 [3, 8]     prompts, no padding
    NAME_PENALTY    int32 [3, 16]    what `generate` adds to them; 0 behind the stop token
    cuts            float64 [C, 5]   temperature, top_k, top_p, min_p, repetition_penalty
    logits          float32 [12]     of one row
    seen            int32 [4]        the tokens so far
    probs           float32 [C, 12]  what `generate` would sample from

Made with torch 2.13.0 (CPU), transformers 5.23.0, numpy 2.4.6, Python 3.11, as make_decoders.py says:

    /tmp/torch-venv/bin/python tests/golden/make_generate.py
"""

import pathlib

import numpy as np
import torch
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

HERE = pathlib.Path(__file__).parent
SETTINGS = [(1.0, 1, 37), (1.3, 6, 44), (2.0, 1, 33), (0.7, 3, 63)]
CUTS = [(1.0, 3, 1.0, 0.0, 1.0), (0.7, 0, 0.8, 0.0, 1.0), (1.5, 0, 1.0, 0.15, 1.0), (1.0, 0, 1.0, 0.0, 1.4),
        (0.8, 6, 0.9, 0.05, 1.2), (1.3, 5, 0.6, 0.3, 0.8)]


def main():
    random = np.random.default_rng(0)
    ids = random.integers(3, 96, (3, 8)).astype(np.int32)
    arrays = {'settings': np.array(SETTINGS), 'input_ids': ids, 'cuts': np.array(CUTS)}
    for name in ('gqa_tied', 'mha_untied'):
        model = LlamaForCausalLM.from_pretrained(HERE / 'llama' / name, dtype=torch.float32).eval()
        for penalty, least, stop in SETTINGS:
            # Given as a whole, so that nothing comes from the folder.
            config = GenerationConfig(do_sample=False, max_new_tokens=16, min_new_tokens=least, eos_token_id=stop,
                                      pad_token_id=0, repetition_penalty=penalty)
            whole = model.generate(torch.tensor(ids, dtype=torch.long), generation_config=config).numpy()[:, 8:]
            arrays[f'{name}_{penalty}'] = np.pad(whole, ((0, 0), (0, 16 - whole.shape[1]))).astype(np.int32)
    logits, seen = random.normal(0, 1.5, 12).astype(np.float32), np.array([1, 4, 4, 9], np.int32)
    arrays |= {'logits': logits, 'seen': seen}
    rows = []
    for temperature, top_k, top_p, min_p, penalty in CUTS:
        steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
        steps.append(TemperatureLogitsWarper(temperature))
        if top_k:
            steps.append(TopKLogitsWarper(int(top_k)))
        if top_p < 1:
            steps.append(TopPLogitsWarper(top_p))
        if min_p:
            steps.append(MinPLogitsWarper(min_p))
        scores = steps(torch.tensor(seen, dtype=torch.long)[None], torch.tensor(logits)[None])
        rows.append(torch.softmax(scores, dim=-1)[0].numpy())
    arrays['probs'] = np.stack(rows)
    np.savez_compressed(HERE / 'generate.npz', **arrays)
    for name, value in arrays.items():
        print(name, value.dtype, value.shape)
        if name.startswith(('gqa', 'mha')):
            print(value)


if __name__ == '__main__':
    main()
