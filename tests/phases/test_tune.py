"""`tune`: what it leaves behind, that it resumes to the same bits, what it holds out, what it refuses."""

import json
import types

import jax
import numpy as np
import pytest

from configs import tune as tune_configs
from tests.phases.small import save_language_model, small_config
from xrec_jax.errors import UserError
from xrec_jax.language import chat, packing, peft, tokenizers, tuning
from xrec_jax.language.prompts import Prompt
from xrec_jax.language.packing import Example
from xrec_jax.parallel import mesh as meshes
from xrec_jax.phases import schedule, task as tasks, tune_data, tune_forms
from xrec_jax.runs.metrics_writer import read_metrics, repeatable
from xrec_jax.runs.workdir import open_workdir

ANSWERS = ('the customer likes it', 'the customer will not like the film', 'yes')


def write_lines(path, count, seed):
    random = np.random.default_rng(seed)
    rows = [{'instruction': f'Say {number % 3}, whatever {"the customer may think " * random.integers(1, 4)}',
             'input': f'a film, number {number}' if number % 2 else {}, 'output': ANSWERS[number % 3]}
            for number in range(count)]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


@pytest.fixture(scope='module')
def material(tmp_path_factory):
    """A model and two files."""
    directory = tmp_path_factory.mktemp('material')
    return {'model': str(save_language_model(directory / 'model')),
            'a': write_lines(directory / 'a.jsonl', 30, 0), 'b': write_lines(directory / 'b.jsonl', 9, 1)}


def config_of(material):
    config = tune_configs.get_config(material['a'])
    config.language.model = material['model']
    config.language.lora_targets = ('q_proj', 'v_proj', 'gate_proj', 'down_proj')
    config.tune.update({'template': 'tune/plain', 'max_length': 48, 'row_length': 96, 'epochs': 3, 'batch_size': 8,
                        'microbatch_size': 2, 'log_every': 2, 'checkpoint_every': 2})
    config.mesh.data = 2
    config.mesh.fsdp = 2
    config.mesh.tensor = 2
    config.tune.microbatch_size = 4
    config.tune.data.valid_share = 0.2
    config.tune.optimizer.learning_rate = 1e-2
    return config


def run(config, workdir):
    task = tasks.make_task(config, workdir)
    schedule.check_schedule(task)
    open_workdir(str(workdir), config)
    return schedule.run_schedule(task)


@pytest.fixture(scope='module')
def unbroken(material, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'unbroken'
    return workdir, run(config_of(material), workdir)


def metrics(workdir):
    return [repeatable(row) for row in read_metrics(workdir / 'metrics.jsonl')]


def test_it_learns_logs_and_keeps_the_best_adapter(unbroken, material):
    workdir, state = unbroken
    rows = read_metrics(workdir / 'metrics.jsonl', '01-tune-policy')
    assert [row['step'] for row in rows] == [2, 3, 4, 6, 8, 9]  # 3 steps an epoch: 24 of 30 examples, 8 a step
    ends = [row for row in rows if 'epoch' in row]
    assert [row['epoch'] for row in ends] == [1, 2, 3]
    assert ends[-1]['loss'] < ends[0]['loss'] and ends[-1]['valid_loss'] < ends[0]['valid_loss']
    for row in rows:
        assert {'loss', 'response_loss', 'response_accuracy', 'grad_norm', 'tokens_per_second', 'seconds',
                'compiles'} <= row.keys()
        assert 0 < row['padding'] < 1
    adapter = state.adapters['policy']
    assert state.adapter is adapter and state.reference is adapter and state.value_head is None
    # What PEFT would read is the same adapter.
    task = tasks.make_task(config_of(material), workdir)
    settings, exported = peft.load_adapter(workdir / 'adapters' / '01-tune-policy', task.language.model.config)
    assert settings.rank == 8 and settings.dropout == 0.05
    jax.tree.map(np.testing.assert_array_equal, exported, adapter)


def test_every_epoch_sees_every_example_and_nothing_is_compiled_after_the_first_step(material, tmp_path, monkeypatch):
    make, pack, packed = meshes.make_mesh, packing.pack, []
    monkeypatch.setattr(meshes, 'make_mesh', lambda sizes: make({}, jax.devices()[:1]))

    def noted(examples, index, *args):
        batch = pack(examples, index, *args)
        packed.append((index, packing.padding_share(batch)))
        return batch

    monkeypatch.setattr(packing, 'pack', noted)
    config = config_of(material)
    config.tune.update({'epochs': 2, 'log_every': 1})
    config.tune.data.valid_share = 0.0
    run(config, tmp_path / 'run')
    rows = read_metrics(tmp_path / 'run' / 'metrics.jsonl')
    first, *others = [row['compiles'] for row in rows]
    assert first > 0 and others == [0] * 7
    orders = [np.concatenate([index for index, _ in packed[at:at + 4]]) for at in (0, 4)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(25)) and orders[0].tolist() != orders[1].tolist()
    assert [row['padding'] for row in rows] == pytest.approx([padding for _, padding in packed])  # each of its own step


def test_one_device_learns_what_eight_do(unbroken, material, tmp_path, monkeypatch):
    make = meshes.make_mesh
    monkeypatch.setattr(meshes, 'make_mesh', lambda sizes: make({}, jax.devices()[:1]))
    state = run(config_of(material), tmp_path / 'run')
    for ours, theirs in zip(metrics(tmp_path / 'run'), metrics(unbroken[0]), strict=True):
        assert ours.pop('phase') == theirs.pop('phase') and ours == pytest.approx(theirs, rel=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), state.adapter, unbroken[1].adapter)


class Stop(Exception):
    """What stops a run here."""


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(unbroken, material, tmp_path, monkeypatch):
    workdir, state = unbroken
    calls, real = [0], tuning.tune_step

    def stopping(*args):
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise Stop
        return real(*args)

    monkeypatch.setattr(tuning, 'tune_step', stopping)
    for _ in range(20):
        try:
            resumed = run(config_of(material), tmp_path / 'run')
            break
        except Stop:
            pass
    assert calls[0] >= 12  # it was stopped, and stopped again
    assert metrics(tmp_path / 'run') == metrics(workdir)
    jax.tree.map(np.testing.assert_array_equal, resumed.adapters, state.adapters)


def test_a_finished_run_is_only_read_again(unbroken, material, monkeypatch):
    workdir, state = unbroken
    before = (workdir / 'metrics.jsonl').read_bytes()
    monkeypatch.setattr(tuning, 'tune_step', lambda *args: pytest.fail('trained again'))
    again = run(config_of(material), workdir)
    assert (workdir / 'metrics.jsonl').read_bytes() == before
    jax.tree.map(np.testing.assert_array_equal, again.adapters, state.adapters)


def test_it_stops_where_the_held_out_loss_rises_and_returns_the_best(material, tmp_path, monkeypatch):
    config = config_of(material)
    config.tune.update({'epochs': 8, 'patience': 2})
    config.tune.data.update({'valid': (material['b'],), 'valid_share': 0.0})
    config.tune.optimizer.update({'learning_rate': 1.0, 'schedule': 'constant', 'warmup_share': 0.0})
    real = tuning.evaluate
    figures = iter([3.0, 2.0, 2.5, 2.1])  # of the held-out loss

    def told(*args):
        sums = real(*args)
        return sums.replace(loss=sums.weight * next(figures))

    with monkeypatch.context() as patch:
        patch.setattr(tuning, 'evaluate', told)
        state = run(config, tmp_path / 'run')
    ends = [row for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl') if 'epoch' in row]
    assert [row['valid_loss'] for row in ends] == pytest.approx([3.0, 2.0, 2.5, 2.1])  # two after the best
    task = tasks.make_task(config, tmp_path / 'run')
    _, valid = tune_data.read(task, schedule.parse(config)[0][2])
    held_out = packing.encode(task.language.tokenizer, valid, 48)
    batch = packing.pack(held_out, np.arange(len(held_out)), len(held_out), 4, 96)
    sums = real(task.language.model, task.language.params, state.adapter, batch, 0.0)
    assert sums.metrics()['response_loss'] == pytest.approx(ends[1]['valid_response_loss'], rel=1e-4)
    assert ends[1]['valid_response_loss'] != pytest.approx(ends[3]['valid_response_loss'], rel=1e-3)


def test_adapters_have_names_and_go_on_from_where_they_were(material, tmp_path):
    config = config_of(material)
    config.tune.update({'epochs': 1, 'batch_size': 32, 'microbatch_size': 4})
    config.tune.data.valid_share = 0.0
    config.schedule = ('tune(first)', 'tune(judge)', 'tune(more)', 'tune(anew)')
    config.first = {'adapter_name': 'policy'}
    config.judge = {'adapter_name': 'judge', 'data': {'train': (material['b'],)}}
    config.more = {'adapter_name': 'policy'}
    config.anew = {'adapter_name': 'policy', 'fresh': True}
    state = run(config, tmp_path / 'run')
    assert set(state.adapters) == {'policy', 'judge'} and state.reference is state.adapters['policy']
    first, judge, more, anew = (
        next(row for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl') if row['phase'].endswith(name))
        for name in ('first', 'judge', 'more', 'anew'))
    assert more['loss'] < first['loss'] - 0.01  # the first step is taken from what the first phase learned
    assert anew['loss'] == pytest.approx(first['loss'], abs=0.01) and judge['loss'] != first['loss']


def test_alignment_starts_from_the_tuned_policy_and_measures_its_distance_from_it(material, tmp_path):
    config = small_config(material['model'])
    config.schedule = ('tune(instructions)', 'align(lc)')
    config.tune = config_of(material).tune
    config.tune.update({'batch_size': 8, 'epochs': 1})
    config.instructions = {}
    config.lc.iterations = 1
    config.mesh = {'data': 4, 'fsdp': 1, 'tensor': 2}
    config.tune.optimizer.learning_rate = 0.1
    state = run(config, tmp_path / 'run')
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.reference)) > 0.05
    row, = read_metrics(tmp_path / 'run' / 'metrics.jsonl', '02-align-lc')
    assert row['kl_k3'] < 1e-6 and row['first_ratio_error'] < 1e-5
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, state.adapters['policy'], state.reference)


def test_prompts_are_held_out_with_all_their_examples():
    sources = [[Example(f'p{n % 7}', str(n)) for n in range(20)], [Example(f'p{n}', 'x') for n in range(5, 12)]]
    left, taken = tune_data.split(sources, 0.25, 3)
    assert len(left) == 2 and sum(map(len, left)) + len(taken) == 27
    assert len({example.prompt for example in taken}) == 3
    assert not {example.prompt for example in taken} & {example.prompt for source in left for example in source}
    assert tune_data.split(sources, 0.25, 3) == (left, taken) != tune_data.split(sources, 0.25, 4)


def test_the_part_that_may_be_cut_is_the_input_or_else_the_instruction(material, tmp_path):
    config = config_of(material)
    config.tune.template = 'tune/alpaca'
    task = tasks.make_task(config, tmp_path)
    (source,), _ = tune_data.read(task, schedule.parse(config)[0][2])
    with_input, without = next(row for row in source if 'number 1' in row.prompt), next(
        row for row in source if 'number' not in row.prompt)
    assert not with_input.whole
    assert with_input.prompt[with_input.cut_from:with_input.cut_to].startswith('a film, number 1')
    assert without.prompt[without.cut_from:without.cut_to].startswith('Say ')
    assert '### Instruction:\nSay ' in without.prompt and without.prompt.endswith('\n\n### Response:\n')
    assert '\n\n### Input:\na film, number 1' in with_input.prompt and '### Input' not in without.prompt


def test_prompts_go_through_the_chat_template_where_there_is_one(material):
    tokenizer = tokenizers.load_tokenizer(material['model'])
    tokenizer.chat_template = ("{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] "
                               "{{ message['content'] }}\n{% endfor %}[model] ")
    task = types.SimpleNamespace(language=types.SimpleNamespace(tokenizer=tokenizer))
    first, second, *_ = tune_forms.alpaca(task, material['a'], 'tune/plain', 64)
    assert first.prompt.startswith('<s>[user] Say 0, whatever') and first.prompt.endswith('think\n[model] ')
    assert second.prompt[second.cut_from:second.cut_to] == 'a film, number 1'
    encoded = packing.encode(tokenizer, [first], 512)
    said = first.prompt[len('<s>[user] '):-len('\n[model] ')]
    assert encoded.tokens[:encoded.prompt_lengths[0]].tolist() == chat.encode(tokenizer, [Prompt('', said)])[0]


@pytest.mark.parametrize('change, message', [
    (lambda c: c.tune.data.update(train=()), 'tune.data.train names no file'),
    (lambda c: c.tune.data.update(train=('no/such.jsonl',)), 'no/such.jsonl: no such file'),
    (lambda c: c.tune.data.update(valid=('b.jsonl',)), 'both valid files and valid_share=0.2'),
    (lambda c: c.tune.data.update(ratio=(1.0, 2.0)), 'for each of the 1 files'),
    (lambda c: c.tune.update(template='tune/alpacca'), 'Did you mean "tune/alpaca"'),
    (lambda c: c.tune.update(max_length=4096), 'exceeds the 512 positions'),
    (lambda c: c.tune.update(row_length=32), 'row_length=32 is less than tune.max_length=48'),
    (lambda c: c.tune.update(packing=False), 'should be tune.max_length=48 without packing'),
    (lambda c: c.tune.update(epochs=0), 'tune.epochs=0'),
    (lambda c: c.tune.update(together=0), 'tune.together=0'),
    (lambda c: c.tune.update(together=3), 'should be a multiple of tune.together=3'),
    (lambda c: c.tune.update(together=8, batch_size=8), 'source 1 are no groups of tune.together=8'),
    (lambda c: c.tune.update(microbatch_size=2), 'tune.microbatch_size=2 must be a multiple of 4'),
    (lambda c: c.tune.update(max_length=2), 'none of the .* examples of source 1 fits into tune.max_length=2'),
    (lambda c: c.tune.optimizer.update(schedule='cosin'), 'Did you mean "cosine"'),
    (lambda c: setattr(c.tune.optimizer, 'momentum', 0.9), 'tune.optimizer has no "momentum"'),
    (lambda c: c.language.update(quantize='int9'), 'language.quantize="int9"'),
    (lambda c: c.language.update(remat='some'), "language.remat='some'"),
    (lambda c: c.language.update(lora_targets=('query',)), '"query" is not a projection'),
])
def test_bad_settings_are_refused_before_anything_is_computed(change, message, material, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, 'tune_step', lambda *args: pytest.fail('trained'))
    config = config_of(material)
    with config.unlocked():
        change(config)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / 'run')


def test_a_bad_line_is_named(material, tmp_path):
    path = tmp_path / 'bad.jsonl'
    path.write_text('{"instruction": "Do.", "output": "Done."}\n{"instruction": "Do.", "output": " "}\n')
    config = config_of(material)
    config.tune.data.train = (str(path),)
    with pytest.raises(UserError, match='bad.jsonl, line 2, key output: is empty'):
        run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
