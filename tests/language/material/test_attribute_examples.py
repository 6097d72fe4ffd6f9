"""Attribute examples: labels that are no JSON, keys that are not those of the prompt."""

import collections
import json
import pathlib

import pytest

from xrec_jax.data.domains import GAMES
from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.json_answers import parse_answer
from xrec_jax.language.material import attribute_examples

SHARED = pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'llmxrec' / 'attributes_train.jsonl'
PROMPT = instructions.attributes(instructions.Recommendation(
    GAMES, (instructions.Item('Doom', ('Action',), {'price': 'Free'}),), instructions.Item('Rust', ('Indie',))),
    'price')


def written(tmp_path, *outputs: str) -> pathlib.Path:
    path = tmp_path / 'attributes.jsonl'
    path.write_text(''.join(json.dumps({'instruction': PROMPT, 'input': {}, 'output': output}) + '\n'
                            for output in outputs))
    return path


def test_labels_are_written_as_the_prompt_asks(tmp_path):
    free, paid, unknown = attribute_examples.read_attribute_examples(
        written(tmp_path, '{"price_acc": Free}', '{"price_acc": 19.99}', '{"price_acc": nan}'))
    assert (free.instruction, free.task, free.values) == (PROMPT, 'price', {'price': 'Free'})
    assert attribute_examples.label(free) == '{"Game price": "Free to Play"}'
    assert attribute_examples.label(paid) == '{"Game price": 19.99}'
    assert [one.usable for one in (free, paid, unknown)] == [True, True, False]


@pytest.mark.parametrize('output', ['free', '{"mood": "good"}', '{"user age": 3, "popularity": 2}'])
def test_an_output_of_no_one_task_is_refused_with_its_place(tmp_path, output):
    path = written(tmp_path, '{"price": 3}', output)
    with pytest.raises(UserError) as refused:
        attribute_examples.read_attribute_examples(path)
    assert str(refused.value).startswith(f'{path}, line 2, key output: should be a JSON object')


@pytest.mark.skipif(not SHARED.is_file(), reason='needs ../shared/data/llmxrec')
def test_published_examples():
    examples = attribute_examples.read_attribute_examples(SHARED)
    assert collections.Counter(example.task for example in examples) == {
        'price': 302, 'customer': 300, 'popularity': 300}
    assert sum(not example.usable for example in examples) == 1
    assert len({example.instruction for example in examples}) == 873
    prices = [json.loads(attribute_examples.label(one))['Game price'] for one in examples if one.task == 'price']
    assert prices.count('Free to Play') == 222
    for example in examples[:3]:  # profiles: published as asked
        assert parse_answer(attribute_examples.label(example)) == {
            f'user {name}': value for name, value in example.values.items()}
