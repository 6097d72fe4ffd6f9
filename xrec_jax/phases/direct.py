"""The language model as a recommender, without reasons and without training (RecPIE, appendix D.3 and table 4).

The frozen model reads the user's history and the target, by the template `config.prompt.KEY`, and is asked for a "Yes"
or a "No". Its probability of a yes, of the two, is the score of a click, and of a rating the place on its scale.
"""

import functools

import jax.nn
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import chat, choices, tokenizers
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import contrast
from xrec_jax.phases.task import Task
from xrec_jax.runs.state import RunState

WIDTH = 64  # widths of batches are multiples of this


def check(task: Task, key: str) -> None:
    """UserError without a language model or a template of that key."""
    if task.language is None:
        raise UserError(f'judge.scorers: "direct({key})" asks the language model, and the config has none.')
    if key not in task.config.get('prompt', {}):
        raise UserError(f'judge.scorers: "direct({key})": config.prompt has no "{key}".'
                        f'{nearest(key, task.config.get("prompt", {}))}')


def scores(task: Task, state: RunState, key: str, split: str) -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) of the examples of a split, float32 [N]."""
    language, profiles, examples = task.language, contrast.read_profiles(task, state.profiles), task.examples[split]

    def write(rows, kept):
        return chat.encode(language.tokenizer, contrast.contrast_prompts(task, profiles, examples, key, rows, kept))

    prompts = chat.fit(write, examples.past.length, language.model.config.max_position_embeddings - 1).ids
    answers = [[(token,) for token in tokens] for tokens in (language.yes, language.no)]
    ask = functools.partial(choices.score, language.model, language.variables(None))
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
