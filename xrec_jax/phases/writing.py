"""Writing explanations and asking the frozen model what it makes of them: used by several phases.

  `prompt_batch`     the prompts of some examples, of one kind, and `soft_prefix`, the consumers' virtual tokens
  `write`            prompts → responses on the device
  `write_queue`      any number of prompts → responses on the host
  `texts_of`         responses → texts
  `figures`          what a row of metrics says of texts that were written
  `llm_scores`       texts → ExpCTR eq. 8, by the base model without an adapter
  `encode`           texts → ExpCTR eq. 11
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from xrec_jax.language import chat, choices, generate, prompts, slots, soft_prompt, tokenizers
from xrec_jax.language.sampling import SamplingConfig
from xrec_jax.parallel import distributed, sharding
from xrec_jax.phases import contrast
from xrec_jax.phases.task import Task
from xrec_jax.planning import utilisation
from xrec_jax.rl import rewards
from xrec_jax.runs.state import RunState


def sampling_config(task: Task, **changes) -> SamplingConfig:
    """`config.generate`, with some settings of it changed."""
    return SamplingConfig(**task.config.generate.to_dict() | changes)


def prompt_batch(task: Task, state: RunState, split: str, rows: np.ndarray, kinds: Sequence[str] = ('reason',)
                 ) -> tuple[jax.Array, jax.Array]:
    """Tokens and mask [K · B, P] of the prompts of some examples, those of the first kind first, on the mesh."""
    of_kind = task.explain_prompts if task.explains_examples else contrast.contrast_of(task, state).tokens
    here, count = distributed.rows_here(task.mesh, len(kinds) * len(rows)), len(rows)
    batches = [[array[rows[here[here // count == n] - n * count]]
                for array in (of_kind(split) if kind == 'reason' else of_kind(split, kind))]
               for n, kind in enumerate(kinds)]
    return distributed.place_rows(tuple(np.concatenate(arrays) for arrays in zip(*batches)), task.mesh)


def soft_prefix(task: Task, state: RunState, users: np.ndarray) -> jax.Array | None:
    """Consumers [B], rows of the users table, as virtual tokens [B, K, D]; None before an `align` has learned how."""
    if state.soft_prompt is None:
        return None
    consumers = state.soft_prompt['consumers'][users]
    return sharding.place_batch(soft_prompt.project(state.soft_prompt['projection'], consumers), task.mesh)


def write(task: Task, adapter: dict | None, batch: tuple[jax.Array, jax.Array], key: jax.Array,
          prefix: jax.Array | None = None, sampling: SamplingConfig | None = None) -> generate.Responses:
    """One explanation for each prompt, drawn from the base model or from it with an adapter and soft prompts.

    `key` is one of all, or [B], one of each; `sampling` that of the config where it is not given.
    """
    language = task.language
    return generate.generate(language.model, language.variables(adapter), *batch, key, prefix_embeddings=prefix,
                             sampling=sampling or sampling_config(task), stop_ids=language.stop_ids)


def write_queue(task: Task, adapter: dict | None, prompts: Sequence[Sequence[int]], key: jax.Array, num_slots: int,
                sampling: SamplingConfig, advance: Callable[[int], object] = lambda count: None, width: int = 0
                ) -> generate.Responses:
    """One response to each of any number of prompts (token ids), `num_slots` at a time (`language.slots`).

    Prompts are padded to `width` tokens, or to the longest of them, rounded up to 32.
    """
    language, shards = task.language, sharding.batch_shards(task.mesh)
    tokens, mask = tokenizers.pad(prompts, max(width, -(-max(map(len, prompts)) // 32) * 32), 'left')
    responses, _ = slots.generate_queue(
        language.model, language.variables(adapter), tokens, mask, key, sampling=sampling, stop_ids=language.stop_ids,
        num_slots=num_slots, prefill_size=-(-max(1, num_slots // 4) // shards) * shards, advance=advance)
    return responses


def texts_of(task: Task, responses: generate.Responses) -> list[str]:
    """The responses as texts, line breaks as blanks; of a batch on the mesh, those of this process."""
    tokens, lengths = distributed.part_here((responses.tokens, responses.lengths), task.mesh)
    texts = tokenizers.decode_responses(task.language.tokenizer, tokens, lengths)
    return [' '.join(text.split()) for text in texts]


def figures(task: Task, num_prompt_tokens: int, lengths: np.ndarray, truncated: np.ndarray, seconds: float
            ) -> dict[str, float]:
    """Of the responses of all processes, with lengths [N], that took `seconds`."""
    num_tokens = lengths.sum()
    return {'response_length': lengths.mean(), 'truncation_rate': truncated.mean(),
            'tokens_per_second': num_tokens / seconds,
            **utilisation.metrics(utilisation.write_flops(task.language.model.config, num_prompt_tokens + num_tokens),
                                  seconds)}


def llm_scores(task: Task, items: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """s of ExpCTR eq. 8 [B]: does the frozen model, after the reason alone, expect a like?

    `items`, rows of the items table, `texts` and what comes back are those of this process.
    """
    settings = task.config.lc_score
    asked = [prompts.render_roles(task.config.prompt.click, domain=task.dataset.domain, reason=text,
                                  target=task.titles[item])
             for item, text in zip(items, texts)]
    ids = chat.encode(task.language.tokenizer, asked)
    width = distributed.largest(max(_click_width(task), -(-max(map(len, ids)) // 32) * 32))
    batch = distributed.place_rows(tokenizers.pad(ids, width, 'left'), task.mesh)
    answers = [[(token,) for token in tokens] for tokens in (task.language.yes, task.language.no)]
    log_probs = choices.score(task.language.model, task.language.variables(None), *batch, answers)
    scores = rewards.lc_score(log_probs[:, 0], log_probs[:, 1], settings.temperature, settings.form)
    return distributed.part_here(scores, task.mesh)


def _click_width(task: Task) -> int:
    """Tokens of the longest question that is to be expected, rounded up to 32: one static shape."""
    longest = max(task.titles, key=len)
    empty = prompts.render_roles(task.config.prompt.click, domain=task.dataset.domain, reason='', target=longest)
    length = len(chat.encode(task.language.tokenizer, [empty])[0]) + task.config.generate.max_length
    return -(-length // 32) * 32


def encode(task: Task, texts: Sequence[str]) -> np.ndarray:
    """Sentence vectors float32 [N, d] (ExpCTR eq. 11)."""
    _compile_encoder(task)
    return task.encoder.encode(texts)


@functools.cache
def _compile_encoder(task: Task) -> None:
    """Meets all lengths that are to be expected at once, so that nothing compiles when a long text comes late.

    An encoder may need half as many tokens again as the writer, and [CLS] and [SEP].
    """
    task.encoder.compile(max(64, task.config.generate.max_length * 3 // 2 + 2))
