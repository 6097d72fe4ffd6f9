"""The prompts of a run: cut to the context, and through the model's own chat template."""

import dataclasses

import numpy as np
import pytest

from tests.phases.small import save_language_model, small_config
from xrec_jax.phases import schedule, task as tasks, writing
from xrec_jax.runs.workdir import open_workdir


@pytest.fixture(scope='module')
def language_model(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp('model'))


def make_task(tmp_path, language_model, **generate):
    config = small_config(language_model)
    config.generate.update(generate)
    return tasks.make_task(config, open_workdir(str(tmp_path / 'run'), config))


def test_prompts_lose_their_oldest_items_to_the_context(language_model, tmp_path, capsys):
    whole = make_task(tmp_path / 'whole', language_model)
    lengths = whole.explain_prompts('train')[1].sum(axis=1)
    limit = int(np.median(lengths))
    positions = whole.language.model.config.max_position_embeddings
    short = make_task(tmp_path / 'short', language_model, max_length=positions - limit)
    tokens, mask = short.explain_prompts('train')
    assert tokens.shape[1] <= limit and mask.sum(axis=1).max() <= limit
    lost = mask.sum(axis=1) < lengths
    np.testing.assert_array_equal(lost, lengths > limit)
    assert short.shortened['train']['prompts'] == lost.sum() > 0
    assert short.shortened['train']['items'] >= lost.sum()
    assert whole.shortened['train'] == {'prompts': 0, 'items': 0}
    examples, before, after = short.examples['train'], whole.prompt_texts('train'), short.prompt_texts('train')
    for row in np.flatnonzero(lost):
        items = [short.titles[item] for item in examples.history[row] if item >= 0]
        shown = [f' {title} - ' in after[row].split('Considering')[0] for title in items]
        assert shown == sorted(shown) and not all(shown)  # what is left is the newest
        assert f'consider {short.item_texts[examples.item[row]]}' in after[row]
    assert [before[row] == after[row] for row in range(len(lost))] == (~lost).tolist()
    schedule.say_shortened(short)
    assert (f'train: {lost.sum()} of {len(lost)} prompts were too long for the context and lost their oldest history '
            f'items, {short.shortened["train"]["items"]} in all') in capsys.readouterr().out


def test_explanations_and_questions_go_through_the_chat_template(language_model, tmp_path):
    plain = make_task(tmp_path / 'plain', language_model)
    tokenizer = tasks.load_language(plain.config.language, plain.mesh).tokenizer
    tokenizer.chat_template = ("{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n"
                               '{% endfor %}[assistant] ')
    chatting = dataclasses.replace(plain, language=dataclasses.replace(plain.language, tokenizer=tokenizer))
    tokens, mask = chatting.explain_prompts('test')
    text = tokenizer.decode(tokens[0][mask[0]])
    assert text.count('<s>') == 1 and text.startswith('<s>[system] You are a helpful') and text.endswith('[assistant] ')
    assert '[user] A customer has provided' in text
    assert plain.language.tokenizer.chat_template is None
    rows = np.arange(8)  # one a device
    scores = [writing.llm_scores(task, task.examples['test'].item[rows], ['It is good.'] * 8) for task in (plain, chatting)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4


def test_a_models_own_stop_tokens_end_its_explanations(language_model, tmp_path):
    task = make_task(tmp_path / 'one', language_model)
    assert task.language.stop_ids == (task.language.tokenizer.eos_token_id,)
    path = language_model / 'generation_config.json'
    path.write_text('{"eos_token_id": [7, 9]}')
    try:
        several = make_task(tmp_path / 'several', language_model)
    finally:
        path.unlink()
    assert several.language.stop_ids == tuple(sorted({task.language.tokenizer.eos_token_id, 7, 9}))
