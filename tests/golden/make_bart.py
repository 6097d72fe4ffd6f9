"""Makes the golden BART checkpoints and scores under tests/golden/bart/ (needs PyTorch; tests do not).

    name    what                                                                        stored as
    cnn     BartForConditionalGeneration in the form of facebook/bart-large-cnn:        float32
            2 encoder and 3 decoder layers, 16 wide, 4 heads, 40 positions
    scaled  BartModel (names without prefix, no bias of the logits) with ReLU and       float32
            words times sqrt(d_model): 1 and 1 layers, 8 wide, 2 heads

Both are tiny and random (norms and biases too). `cnn` comes with a byte-level BPE tokenizer that puts <s> and </s>
around a text, as BART's does. Each `expected.npz` holds, for the pairs of texts `SOURCES`, `TARGETS` (N = 5; one
source is longer than the positions and is cut, one text is empty):
    source, source_mask  int32 [N, S]    token ids and mask, right-padded
    target, target_mask  int32 [N, T]
    log_probs            float32 [N, T]  of the target's tokens, given the source and those before; 0 at pads
    scores               float32 [N]     their mean over the target's tokens, <s> and </s> among them: what
                                         `BARTScorer.score` of Yuan et al. 2021 computes
and `cnn` also `sources`, `targets`, str [N].

Made with torch 2.13.0 (CPU), transformers 5.24.0, tokenizers 0.23.3, numpy 2.4.6, Python 3.11, in the virtual
environment of make_decoders.py:

    /tmp/torch-venv/bin/python tests/golden/make_bart.py
"""

import pathlib
import shutil

import numpy as np
import tokenizers
import torch
from tokenizers.processors import RobertaProcessing
from transformers import BartConfig, BartForConditionalGeneration, BartModel, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent / 'bart'
POSITIONS = 40
SPECIAL = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
SOURCES = ['The pop filter works well, and the price is right.', 'Too noisy.', '',
           'A good guitar stand; sturdy, cheap, and it folds flat for travel. ' * 4, 'Naïve café strings — 5 stars!']
TARGETS = ['The user likes cheap filters.', 'The pedal has little noise, which is what the user wants.',
           'A stand.', 'The stand is sturdy.', '']
SHARED = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
              max_position_embeddings=POSITIONS, init_std=0.3)
CASES = {
    'cnn': (BartForConditionalGeneration, dict(
        d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=24, decoder_ffn_dim=20)),
    'scaled': (BartModel, dict(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=12, decoder_ffn_dim=12, scale_embedding=True, activation_function='relu')),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(SOURCES + TARGETS, vocab_size=290, special_tokens=SPECIAL, show_progress=False)
    # <s> is put before a text and </s> behind it.
    bpe.post_processor = RobertaProcessing(('</s>', 2), ('<s>', 0))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token='<s>', eos_token='</s>', pad_token='<pad>',
                                   unk_token='<unk>', mask_token='<mask>', model_max_length=POSITIONS)


def save(name: str, vocab_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    kind, shape = CASES[name]
    model = kind(BartConfig(vocab_size=vocab_size, **SHARED, **shape))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if 'norm' in key and key.endswith('weight'):
                value.copy_(1 + 0.3 * torch.randn_like(value))
            elif key.endswith('bias'):
                value.copy_(0.3 * torch.randn_like(value))
        if name == 'cnn':
            model.final_logits_bias.copy_(0.5 * torch.randn_like(model.final_logits_bias))
    shutil.rmtree(HERE / name, ignore_errors=True)
    model.save_pretrained(HERE / name)
    (HERE / name / 'model.safetensors').chmod(0o644)
    (HERE / name / 'generation_config.json').unlink(missing_ok=True)


@torch.no_grad()
def run(name: str, tokenizer) -> dict[str, np.ndarray]:
    model = BartForConditionalGeneration.from_pretrained(HERE / name, attn_implementation='eager').eval()
    encode = lambda texts: tokenizer(texts, max_length=POSITIONS, truncation=True, padding=True, return_tensors='pt')
    source, target = encode(SOURCES), encode(TARGETS)
    logits = model(input_ids=source['input_ids'], attention_mask=source['attention_mask'],
                   labels=target['input_ids']).logits
    picked = torch.log_softmax(logits, -1).gather(-1, target['input_ids'][..., None])[..., 0]
    picked = picked * target['attention_mask']
    scores = picked.sum(1) / target['attention_mask'].sum(1)
    arrays = dict(source=source['input_ids'], source_mask=source['attention_mask'], target=target['input_ids'],
                  target_mask=target['attention_mask'])
    return {key: value.numpy().astype(np.int32) for key, value in arrays.items()} | {
        'log_probs': picked.numpy(), 'scores': scores.numpy()}


def main() -> None:
    tokenizer = make_tokenizer()
    for seed, name in enumerate(CASES):
        save(name, len(tokenizer), seed)
        arrays = run(name, tokenizer)
        if name == 'cnn':
            tokenizer.save_pretrained(HERE / name)
            arrays |= {'sources': np.array(SOURCES), 'targets': np.array(TARGETS)}
        np.savez_compressed(HERE / name / 'expected.npz', **arrays)
        print(name, 'lengths', arrays['source_mask'].sum(1), arrays['target_mask'].sum(1), 'scores', arrays['scores'])


if __name__ == '__main__':
    main()
