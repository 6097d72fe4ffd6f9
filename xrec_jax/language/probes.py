"""What a language model of stories can do, in worlds that it has never seen.

  `response_loss`   held-out nats per response token, of reasons and of answers
  `probe_reasons`   it writes reasons: does it copy the target's title, and name a shared attribute?
  `past_accuracy`   it looks up whether something was liked or disliked
  `answer_auc`      it answers Yes or No to given reasons, and to its own
"""

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.language import choices, decoder, generate, stepping, stories, tokenizers, tuning
from xrec_jax.language.decoder import Decoder
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.metrics import attributes, ctr


def tell_many(seed: int, count: int, num_history: int) -> list[stories.Story]:
    """Held-out stories: no training pool draws from this stream."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**33]))
    return [stories.tell(rng, num_history) for _ in range(count)]


def response_loss(model: Decoder, params: dict, tokenizer, held_out: list[stories.Story]) -> dict[str, float]:
    """Nats per response token of reasons and of Yes/No answers."""
    pairs = {'reason': [(story.explain_prompt, story.reason) for story in held_out],
             'answer': [(story.click_prompt, story.answer) for story in held_out]}
    return {f'{kind}_loss': loss for kind, loss in losses(model, params, tokenizer, pairs).items()}


def losses(model: Decoder, params: dict, tokenizer, pairs: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    """Nats per response token of each list of (prompt, response)."""
    loss = jax.jit(lambda params, batch: tuning.language_loss(model, {'params': params}, batch, 0.0)[0])
    result = {}
    for kind, texts in pairs.items():
        sums, counts = 0.0, 0
        for batch in _batches(tokenizer, texts):
            count = int(batch['response'].sum())
            sums, counts = sums + float(loss(params, batch)) * count, counts + count
        result[kind] = sums / counts
    return result


def past_accuracy(model: Decoder, params: dict, tokenizer, held_out: list[stories.Story]) -> float:
    """How often "liked" or "disliked" is right in careful reasons, given the text up to it."""
    pairs = [(story.explain_prompt, story.reason) for story in held_out if story.careful]
    past = jnp.array(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(' liked disliked')))

    @jax.jit
    def right(params, batch):
        """Of [B, S - 1] tokens: which are to be judged, and which of the two words is preferred."""
        hidden, _ = model.apply({'params': params}, batch['tokens'][:, :-1],
                                decoder.positions_of(batch['mask'][:, :-1]), batch['mask'][:, :-1])
        two = jnp.take(model.apply({'params': params}, hidden, method='logits'), past, axis=-1)
        targets = batch['tokens'][:, 1:]
        judged = batch['response'][:, 1:] & jnp.isin(targets, past)
        return judged, judged & (past[jnp.argmax(two, axis=-1)] == targets)

    counts = [[int(x.sum()) for x in right(params, batch)] for batch in _batches(tokenizer, pairs)]
    judged, correct = np.sum(counts, axis=0)
    return float(correct / judged)


def _batches(tokenizer, pairs: list[tuple[str, str]]):
    """Pairs (prompt, response) as batches of `stories.pool`'s form, all of one width."""
    prompts = tokenizers.encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    responses = tokenizers.encode_responses(tokenizer, [response for _, response in pairs])
    whole = [prompt + response for prompt, response in zip(prompts, responses)]
    width = -(-max(map(len, whole)) // 32) * 32
    for start in range(0, len(whole), 64):
        tokens, mask = tokenizers.pad(whole[start:start + 64], width, 'right')
        lengths = np.array([len(prompt) for prompt in prompts[start:start + 64]])
        yield {'tokens': tokens, 'mask': mask, 'response': mask & (np.arange(width) >= lengths[:, None])}


def write_reasons(model: Decoder, params: dict, tokenizer, held_out: list[stories.Story], key: jax.Array,
                  sampling: SamplingConfig) -> list[str]:
    """One reason for each story, drawn from the model."""
    ids = tokenizers.encode_prompts(tokenizer, [story.explain_prompt for story in held_out])
    tokens, mask = tokenizers.pad(ids, -(-max(map(len, ids)) // 32) * 32, 'left')
    texts, variables = [], stepping.prepared(model, {'params': params}, len(tokens[:64]))
    for start in range(0, len(ids), 64):
        responses = generate.generate(
            model, variables, jnp.asarray(tokens[start:start + 64]), jnp.asarray(mask[start:start + 64]),
            jax.random.fold_in(key, start), sampling=sampling, stop_ids=tokenizer.eos_token_id)
        texts += tokenizers.decode_responses(tokenizer, np.asarray(responses.tokens), np.asarray(responses.lengths))
    return texts


def probe_reasons(held_out: list[stories.Story], texts: list[str]) -> dict[str, float]:
    """Shares of the reasons that copy the target's title, that name an attribute, and of those that
    name one, how often it is one of the target's and one for which the history speaks."""
    known = [text.replace(story.title, '') for story, text in zip(held_out, texts)]
    seen = [story.history_attributes + story.target_attributes for story in held_out]
    any_named, _ = attributes.names_any(known, seen)
    of_target, _ = attributes.names_any(known, [story.target_attributes for story in held_out])
    shared, speaks = attributes.names_any(known, [story.shared for story in held_out])
    return {
        'copies_title': float(np.mean([story.title in text for story, text in zip(held_out, texts)])),
        'names_attribute': _share(any_named),
        'attribute_is_the_targets': _share(of_target[any_named]),
        'attribute_is_shared': _share(shared[any_named & speaks]),
        'names_shared_attribute': _share(shared[speaks]),
    }


def _share(which: np.ndarray) -> float:
    return float(which.mean()) if which.size else float('nan')


def answer_auc(model: Decoder, params: dict, tokenizer, held_out: list[stories.Story], reasons: list[str]) -> float:
    """AUC of p(Yes) after the `reasons` against what the user did."""
    asked = [stories.render('expctr/click', domain=story.domain, reason=reason, target=story.title)
             for story, reason in zip(held_out, reasons)]
    ids = tokenizers.encode_prompts(tokenizer, asked)
    tokens, mask = tokenizers.pad(ids, -(-max(map(len, ids)) // 32) * 32, 'left')
    answers = [[(token,) for token in tokenizers.first_tokens(tokenizer, word)] for word in ('Yes', 'No')]
    scores = []
    for start in range(0, len(ids), 64):
        log_probs = np.asarray(choices.score(
            model, {'params': params}, tokens[start:start + 64], mask[start:start + 64], answers), np.float64)
        scores.append(log_probs[:, 0] - log_probs[:, 1])
    return ctr.auc(np.array([story.label for story in held_out]), np.concatenate(scores))
