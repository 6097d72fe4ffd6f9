"""What is said of a run's rows of metrics: recompilations, traces, TensorBoard."""

import sys

import jax
import jax.numpy as jnp
import pytest

from xrec_jax.errors import UserError
from xrec_jax.planning import utilisation
from xrec_jax.language.config import DecoderConfig
from xrec_jax.runs import watch
from xrec_jax.runs.compiles import Recompilations
from xrec_jax.runs.metrics_writer import MetricsWriter

PHASES = ['01-fit-a', '02-align-b']


def test_a_program_that_is_compiled_again_is_told_with_what_changed():
    @jax.jit
    def grows(x, y):
        return x.sum() + y

    @jax.jit
    def comes_late(x):
        return x * 3

    look = Recompilations(warm_up=2, seconds=0)
    one, more = jnp.ones((8, 2)), jnp.ones((9, 2))
    assert not look('p', 1)
    grows(one, 1.0)
    assert not look('p', 2)
    grows(one, 2.0)  # from memory
    comes_late(one)  # new, not again
    assert not look('p', 3)
    grows(more, 1.0)
    (line,) = look('p', 4)
    assert line.startswith('p, step 4: ') and 'grows' in line
    assert line.endswith('argument float32[9,2], which was float32[8,2]')
    grows(jnp.ones((7, 2)), 1.0)
    assert not look('q', 1)  # another phase warms up first


def test_small_recompilations_are_no_news():
    look = Recompilations(warm_up=0, seconds=30)
    add = jax.jit(lambda x: x + 1)
    add(jnp.ones(3))
    look('p', 1)
    add(jnp.ones(4))
    assert not look('p', 2)


def test_observers_see_each_row(tmp_path, capsys):
    writer, seen = MetricsWriter(tmp_path), []
    writer.observers += [lambda *row: seen.append(row), watch.recompilations(warm_up=0, seconds=0)]
    again = jax.jit(lambda x: x - 1)
    again(jnp.ones(3))
    writer.write('p', 1, {'loss': jnp.float32(2)})
    again(jnp.ones(4))
    writer.write('p', 2, {'loss': 1})
    assert [(phase, step, row['loss']) for phase, step, row in seen] == [('p', 1, 2.0), ('p', 2, 1.0)]
    assert 'warning: p, step 2: ' in capsys.readouterr().out


def test_a_profile_covers_its_steps_alone(tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: traced.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: traced.append('stop'))
    profile = watch.Profile('02-align-b:3-4', tmp_path, PHASES)
    for phase, step in (('01-fit-a', 2), ('01-fit-a', 3), ('02-align-b', 1), ('02-align-b', 2), ('02-align-b', 3),
                        ('02-align-b', 4), ('02-align-b', 5)):
        profile(phase, step, {})
        traced.append(f'{phase[3]}{step}')
    assert traced == ['f2', 'f3', 'a1', 'start', 'a2', 'a3', 'stop', 'a4', 'a5']


def test_a_profile_is_written(tmp_path):
    profile = watch.Profile('01-fit-a:2-2', tmp_path, PHASES)
    profile('01-fit-a', 1, {})
    jnp.ones(4).sum().block_until_ready()
    profile('01-fit-a', 2, {})
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


@pytest.mark.parametrize('wanted, message', [('02-align-b', 'PHASE:FIRST-LAST'), ('01-fit-a:1-2', 'FIRST from 2 on'),
                                             ('01-fit-a:4-3', 'PHASE:FIRST-LAST'),
                                             ('x:2-3', 'no phase "x"; it has 01')])
def test_a_profile_that_cannot_be_is_refused(tmp_path, wanted, message):
    with pytest.raises(UserError, match=message):
        watch.Profile(wanted, tmp_path, PHASES)


def test_tensorboard_gets_the_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with pytest.raises(UserError, match='pip install tensorboardX'):
        watch.tensorboard(tmp_path)
    monkeypatch.undo()
    pytest.importorskip('tensorboardX', reason='optional: pip install tensorboardX')
    writer = MetricsWriter(tmp_path)
    writer.observers.append(watch.tensorboard(tmp_path))
    writer.write('fit', 1, {'loss': 0.5})
    (events,) = (tmp_path / 'tensorboard').iterdir()
    assert b'fit/loss' in events.read_bytes()


class Wandb:
    """What of the package `wandb` is used."""

    def __init__(self):
        self.began, self.rows, self.axes = [], [], []

    def init(self, **settings):
        self.began.append(settings)
        return self

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)


def test_weights_and_biases_gets_the_rows_and_a_run_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(UserError, match='pip install wandb'):
        watch.weights_and_biases('p', tmp_path, {})
    monkeypatch.setitem(sys.modules, 'wandb', fake := Wandb())
    for first in (1, 3):  # the second is the same command again
        writer = MetricsWriter(tmp_path)
        writer.observers.append(watch.weights_and_biases('project', tmp_path, {'seed': 0}))
        assert len(fake.began) == first // 2  # nothing is sent before there is something
        for step in (first, first + 1):
            writer.write('fit', step, {'loss': jnp.float32(step)})
    assert [(row['fit/step'], row['fit/loss']) for row in fake.rows] == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert fake.axes == [('fit/*', 'fit/step')] * 2
    one, two = fake.began
    assert one == two and one['project'] == 'project' and one['resume'] == 'allow' and one['config'] == {'seed': 0}
    assert one['name'] == tmp_path.name and one['dir'] == str(tmp_path) and len(one['id']) == 12


def test_utilisation_counts_four_parameters_a_tuned_token():
    config = DecoderConfig(vocab_size=64, hidden_size=16, intermediate_size=48, num_layers=2, num_heads=8,
                           num_kv_heads=2, head_dim=4, max_position_embeddings=64, tie_word_embeddings=False)
    # By hand: q, o 16·32 each; k, v 16·8 each; three of 16·48; two norms of 16; the last norm, the output matrix.
    met = 2 * (2 * 16 * 32 + 2 * 16 * 8 + 3 * 16 * 48 + 2 * 16) + 16 + 16 * 64
    assert utilisation.tune_flops(config, 10) == 4 * met * 10
    assert utilisation.align_flops(config, 10, epochs=2) == 14 * met * 10
    figures = utilisation.metrics(2e12 * jax.device_count(), 2.0)
    assert figures['tflops_per_device'] == 1.0 and 'mfu' not in figures  # a CPU has no peak in the table
