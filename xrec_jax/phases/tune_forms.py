"""What the files of `tune.data` hold, by `tune.data.forms`: how a line becomes a prompt and a response.

  alpaca        instruction, input and output, by `tune.template`
  instructions  LLMXRec's instructions and the explanations that people wrote, in the frame of `config.prompt`
  attributes    LLMXRec's attribute prediction, answered in JSON, in the same frame
  pairs         the judge's questions, each pair in both orders (`judge_pairs`), answered "1" or "2"
  verdicts      no file: the run's own training examples, answered "Yes." or "No." (`direct`: TALLRec)

LLMXRec's prompts that are too long lose the oldest of their history, never the item that is explained.
"""

from collections.abc import Callable, Sequence

from xrec_jax.data.instructions import read_instructions
from xrec_jax.language import chat, instructions, prompts
from xrec_jax.language.material import attribute_examples
from xrec_jax.language.material.judge_pairs import Pair
from xrec_jax.language.packing import Example
from xrec_jax.language.tokenizers import encode_responses
from xrec_jax.phases import judge_pairs, requests
from xrec_jax.phases.task import Task


def alpaca(task: Task, file: str, template: str, most: int) -> list[Example]:
    """Where one is too long, its `input` is cut from the left, or the instruction where there is none.

    Where the tokenizer has a chat template, the prompt is what a user says in it.
    """
    del most
    tokenizer, rows = task.language.tokenizer, read_instructions(file)
    asked = chat.framed(tokenizer, [
        prompts.render(template, instruction=row.instruction, input=row.input) for row in rows])
    result = []
    for row, prompt in zip(rows, asked):
        loose = (row.input or row.instruction).strip()
        start = max(0, prompt.rfind(loose))
        result.append(Example(prompt, row.output, start, start + len(loose), whole=bool(tokenizer.chat_template)))
    return result


def explanations(task: Task, file: str, template: str, most: int) -> list[Example]:
    """As they stand in the file, or with `prompt.as_recorded` False written anew with `prompt.parts`."""
    del template
    rows = read_instructions(file)
    asked = [row.instruction + (f'\n{row.input}' if row.input else '') for row in rows]
    known = [instructions.parse(text) for text in asked]
    write, longest = requests.writer(task, known, asked)
    return _fitted(task, write, longest, [row.output for row in rows], most)


def attributes(task: Task, file: str, template: str, most: int) -> list[Example]:
    del template
    rows = [row for row in attribute_examples.read_attribute_examples(file) if row.usable]
    known = [instructions.parse(row.instruction) for row in rows]

    def write(n: int, length: int) -> str:
        whole = length == len(known[n].history)
        text = rows[n].instruction if whole else instructions.attributes(known[n], rows[n].task, length)
        return instructions.chat(text, task.config.prompt.frame)

    return _fitted(task, write, [len(one.history) for one in known],
                   [attribute_examples.label(row) for row in rows], most)


def _fitted(task: Task, write: Callable[[int, int], str], history: Sequence[int], responses: list[str], most: int
            ) -> list[Example]:
    """Examples of at most `most` tokens, with as much of the history as fits."""
    tokenizer = task.language.tokenizer
    longest = max(map(len, encode_responses(tokenizer, responses)))
    lengths = requests.fitted(tokenizer, write, history, most - longest, strict=False).kept
    return _examples(write, lengths, responses)


def pairs(task: Task, chosen: Sequence[Pair], most: int) -> list[Example]:
    """The judge's prompts of labelled pairs, and "1" or "2"."""
    asked = judge_pairs.questions(chosen)
    write, longest = judge_pairs.writer(task, asked)
    responses = [str(pair.label) for pair in chosen]
    room = most - max(map(len, encode_responses(task.language.tokenizer, responses)))
    lengths = requests.fitted(task.language.tokenizer, write, longest, room, strict=False).kept
    return _examples(write, lengths, responses)


def _examples(write: Callable[[int, int], str], lengths: Sequence[int], responses: list[str]) -> list[Example]:
    """What is too long without any history stays too long: `packing` drops and counts it."""
    return [Example(write(n, max(length, 0)), response, 0, 0)
            for n, (length, response) in enumerate(zip(map(int, lengths), responses))]


FORMS: dict[str, Callable[[Task, str, str, int], list[Example]]] = {
    'alpaca': alpaca, 'instructions': explanations, 'attributes': attributes}
