"""The language model as a recommender, without reasons: frozen (RecPIE, appendix D.3 and table 4), or tuned (TALLRec).

The model reads the user's history and the target, by the template `config.prompt.KEY`, and is asked for a "Yes" or a
"No". Its probability of a yes, of the two, is the score of a click, and of a rating the place on its scale.

  `scores`    what the frozen model says, or one with the adapter of `tune(NAME)`
  `examples`  what such a `tune` learns from: TALLRec (Bao et al. 2023, arXiv 2305.00447), section 3.1: the same prompts,
              answered "Yes." or "No." as the user liked the item or not. Items are shown by title and attributes
"""

import functools

import jax.nn
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import chat, choices, tokenizers
from xrec_jax.language.packing import Example
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import contrast
from xrec_jax.phases.settings import settings_of
from xrec_jax.phases.task import Task
from xrec_jax.runs.state import RunState

WIDTH = 64  # widths of batches are multiples of this
ANSWERS = {True: 'Yes.', False: 'No.'}  # by liked or not


def check(task: Task, key: str) -> None:
    """UserError without a language model or a template of that key."""
    if task.language is None:
        raise UserError(f'judge.scorers: "direct({key})" asks the language model, and the config has none.')
    if key not in task.config.get('prompt', {}):
        raise UserError(f'judge.scorers: "direct({key})": config.prompt has no "{key}".'
                        f'{nearest(key, task.config.get("prompt", {}))}')


def examples(task: Task, key: str, split: str, most: int) -> list[Example]:
    """Prompts of a split, with as much of their histories as `most` tokens hold, and the true answers."""
    tokenizer, rows = task.language.tokenizer, task.examples[split]
    room = most - max(map(len, tokenizers.encode_responses(tokenizer, list(ANSWERS.values()))))
    profiles = contrast.read_profiles(task, None)
    kept = _fitted(task, key, split, profiles, room).kept
    written = contrast.contrast_prompts(task, profiles, rows, key, np.arange(len(kept)), kept)
    whole = bool(tokenizer.chat_template)
    return [Example(text, ANSWERS[bool(label)], 0, 0, whole)
            for text, label in zip(chat.written(tokenizer, written), rows.label)]


def scores(task: Task, state: RunState, key: str, split: str, tuned: str = '') -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) of the examples of a split, float32 [N], by the frozen model or as `tune(tuned)` left it."""
    language, adapter = task.language, None
    profiles = contrast.read_profiles(task, None if tuned else state.profiles)
    if tuned:
        adapter = state.adapters[settings_of(task.config, 'tune', tuned).adapter_name]
    prompts = _fitted(task, key, split, profiles, language.model.config.max_position_embeddings - 1).ids
    answers = [[(token,) for token in tokens] for tokens in (language.yes, language.no)]
    ask = functools.partial(choices.score, language.model, language.variables(adapter))
    size = task.config.explain.batch_size
    widths = np.array([-(-len(prompt) // WIDTH) * WIDTH for prompt in prompts])
    order, found = np.argsort(widths, kind='stable'), np.zeros(len(prompts), np.float32)
    for width in np.unique(widths):  # together those that are about as long
        alike = order[widths[order] == width]
        for start in range(0, len(alike), size):
            chosen = alike[start:start + size]
            filled = np.resize(chosen, size)  # the last batch is filled up: one static shape
            batch = tokenizers.pad([prompts[row] for row in filled], int(width), 'left')
            log_probs = ask(*sharding.place_batch(batch, task.mesh), answers)
            found[chosen] = distributed.whole(jax.nn.sigmoid(log_probs[:, 0] - log_probs[:, 1]))[:len(chosen)]
    return found


def _fitted(task: Task, key: str, split: str, profiles: list[str], limit: int) -> chat.Fitted:
    """The prompts of a split, with as much of their histories as `limit` tokens hold."""
    rows = task.examples[split]
    return chat.fit(lambda index, kept: chat.encode(
        task.language.tokenizer, contrast.contrast_prompts(task, profiles, rows, key, index, kept)), rows.past.length, limit)
