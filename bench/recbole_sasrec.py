"""RecBole's SASRec made fast on a CPU without changing what it computes: `bench/recbole_peer.py --fast`.

RecBole trains on rows of 50 positions, of which it reads the last item's only. `install(model)` replaces its
`calculate_loss` and `forward` by functions of the same parameters:

  - the last layer computes keys and values of all positions, but query, attention and feed-forward network of
    the position that is read;
  - a batch is taken in parts small enough for the cache, rows sorted by length and cut to the longest of their
    part: positions behind the last item (RecBole pads on the right) are masked for all that is read. The parts'
    gradients add up to the batch's;
  - dropout draws a random byte a decision, eight from one 64-bit number, in place of a float. Its rate is met to
    1/256; 0.5, RecBole's default, exactly;
  - query, key and value are one product, and a part is one compiled graph (`torch.compile`).

With dropout off, scores, loss and gradients are RecBole's (`bench/recbole_peer.py --check_fast`); with dropout on,
its masks have the same law and other bits.
"""

import copy
import functools
import math
import types
from collections.abc import Callable

import torch
from torch.nn import functional

ROWS = 64  # of a part
STEP = 10  # lengths are cut to multiples of it, as each is compiled


def install(model, rows: int = ROWS, compile: Callable = functools.partial(torch.compile, dynamic=False)) -> None:
    """Gives RecBole's SASRec `model` the fast functions, in place. Raises ValueError where they would differ."""
    rate = model.hidden_dropout_prob
    found = {'loss_type': model.loss_type, 'hidden_act': model.hidden_act, 'attn_dropout_prob': model.attn_dropout_prob}
    if found != (needed := {'loss_type': 'CE', 'hidden_act': 'gelu', 'attn_dropout_prob': rate}):
        raise ValueError(f'--fast computes SASRec with {needed}, not with {found}')

    def loss_sum(embedded, lengths, targets, bits):
        logits = last_states(model, embedded, lengths, rate, bits) @ model.item_embedding.weight.T
        return functional.cross_entropy(logits, targets, reduction='sum')

    compiled = compile(loss_sum)

    def calculate_loss(self, interaction):
        """Leaves the gradients where `backward` of what it returns would."""
        items, lengths, targets = (interaction[x] for x in (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID))
        total = 0.
        for part in torch.argsort(lengths).split(rows):
            longest = shown(lengths[part])
            bits = random_bytes(decisions(self, len(part), longest))
            one = compiled if len(part) == rows else loss_sum
            loss = one(self.item_embedding(items[part, :longest]), lengths[part], targets[part], bits) / len(items)
            loss.backward()
            total += loss.item()
        return torch.tensor(total, requires_grad=True)

    def forward(self, items, lengths):
        order = torch.argsort(lengths)
        parts = [last_states(self, self.item_embedding(items[part, :shown(lengths[part])]), lengths[part])
                 for part in order.split(rows)]
        return torch.cat(parts)[torch.argsort(order)]

    model.calculate_loss = types.MethodType(calculate_loss, model)
    model.forward = types.MethodType(forward, model)


def shown(lengths) -> int:
    """Positions that rows of such lengths [B] need."""
    return -(-int(lengths.max()) // STEP) * STEP


def last_states(model, embedded, lengths, rate: float = 0., bits=None):
    """The state of each row's last item [B, D]; `embedded` [B, S, D] is padded on the right, `lengths` [B] are > 0.

    `bits` are bytes, as many as `decisions` says, for dropout of `rate`; None for no dropout.
    """
    size = embedded.shape[1]
    drop = Dropout(rate, bits)
    x = drop(norm(model.LayerNorm, embedded + model.position_embedding.weight[:size]))
    *layers, last = model.trm_encoder.layer
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    for layer in layers:
        x = feed_forward(layer, attend(layer, x, x, causal, drop), drop)
    rows = torch.arange(len(lengths))
    known = (torch.arange(size) < lengths[:, None])[:, None, None]  # [B, heads, query, key]
    return feed_forward(last, attend(last, x[rows, lengths - 1][:, None], x, known, drop), drop)[:, 0]


def attend(layer, queries, x, mask, drop):
    """Of `queries` [B, Q, D] to `x` [B, S, D], added to the queries and normalised."""
    own = layer.multi_head_attention
    split = lambda y: y.unflatten(-1, (own.num_attention_heads, own.attention_head_size)).transpose(1, 2)
    if queries is x:
        weight, bias = (torch.cat([getattr(y, name) for y in (own.query, own.key, own.value)])
                        for name in ('weight', 'bias'))
        query, key, value = map(split, functional.linear(x, weight, bias).chunk(3, -1))
    else:
        query, key, value = split(own.query(queries)), split(own.key(x)), split(own.value(x))
    scores = query @ key.transpose(-1, -2) / own.sqrt_attention_head_size
    weights = drop(scores.masked_fill(~mask, -math.inf).softmax(-1))
    found = own.dense((weights @ value).transpose(1, 2).flatten(-2))
    return norm(own.LayerNorm, drop(found) + queries)


def feed_forward(layer, x, drop):
    own = layer.feed_forward
    return norm(own.LayerNorm, drop(own.dense_2(functional.gelu(own.dense_1(x)))) + x)


def norm(layer, x):
    """Layer normalisation from plain means: compiled, a third of the time of torch's own."""
    x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + layer.eps).rsqrt() * layer.weight + layer.bias


class Dropout:
    """Zeroes entries at `rate` by bytes that it uses up one after another; None leaves all as they are."""

    def __init__(self, rate: float, bits):
        self.threshold, self.bits, self.used = round(rate * 256), bits, 0

    def __call__(self, x):
        if self.bits is None or not self.threshold:
            return x
        bits = self.bits[self.used:self.used + x.numel()].view(x.shape)
        self.used += x.numel()
        return torch.where(bits >= self.threshold, x * (256 / (256 - self.threshold)), 0.)


def decisions(model, rows: int, size: int) -> int:
    """Decisions of dropout in `last_states` for `rows` of `size` positions."""
    heads, dim, layers = model.n_heads, model.hidden_size, model.n_layers
    embedded, full, last = size * dim, size * (heads * size + 2 * dim), heads * size + 2 * dim
    return rows * (embedded + (layers - 1) * full + last)


def random_bytes(number: int):
    """Uniform over 0 … 255, uint8 [number]."""
    return torch.empty(-(-number // 8), dtype=torch.int64).random_(-2 ** 63, None).view(torch.uint8)[:number]


def difference(model, interaction, rows: int = 300) -> dict[str, float]:
    """With dropout off, on some rows of a batch: the largest absolute differences, beside what they are of.

    Weights are three times as large as they start, so that attention has something to choose.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    model.hidden_dropout_prob = model.attn_dropout_prob = 0.
    for parameter in model.parameters():
        parameter.data *= 3. if parameter.ndim > 1 else 1.
    fast = copy.deepcopy(model)
    install(fast)
    few = {name: interaction[name][:rows] for name in (model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.POS_ITEM_ID)}
    found = {}
    losses = [one.calculate_loss(few) for one in (model, fast)]
    for loss in losses:
        loss.backward()
    found['loss'], found['loss_difference'] = losses[0].item(), abs(losses[0].item() - losses[1].item())
    pairs = [(one.grad, other.grad) for one, other in zip(model.parameters(), fast.parameters(), strict=True)]
    found['gradient'] = max(one.abs().max().item() for one, _ in pairs)
    found['gradient_difference'] = max((one - other).abs().max().item() for one, other in pairs)
    found['gradient_relative'] = max(((one - other).norm() / one.norm()).item() for one, other in pairs
                                     if one.norm() > 1e-6)  # keys' bias: softmax does not see it
    with torch.no_grad():
        scores = [one.eval().full_sort_predict(few) for one in (model, fast)]
    found['score'] = scores[0].abs().max().item()
    found['score_difference'] = (scores[0] - scores[1]).abs().max().item()
    return found
