"""`tune`: instruction tuning, the conditional objective of LLMXRec eq. 2 and 3, on a LoRA adapter.

  `run`     the verb: `tune_on` what `tune_data.read` finds
  `tune_on` any (prompt, response) examples: judge's pairs, attributes, other systems' prompts

The adapter is `tune.adapter_name`: it goes on from where an earlier phase left it, or starts afresh. One called
'policy' is what `explain` writes with, and what `align` then starts from and measures its KL from.

A batch is so many examples, packed into rows (`language.packing`). After each epoch the held-out examples are
scored; the adapter of the best epoch is the result, and is also written as PEFT keeps adapters, to
`adapters/<phase>/`.
"""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language import decoder, lora, packing, peft, tuning
from xrec_jax.language.packing import Encoded
from xrec_jax.parallel import sharding
from xrec_jax.phases import tune_data
from xrec_jax.phases.task import Task
from xrec_jax.planning import utilisation
from xrec_jax.runs import files, preemption, progress
from xrec_jax.runs.checkpoints import Checkpoints
from xrec_jax.runs.compiles import num_compiles
from xrec_jax.runs.metrics_writer import read_metrics
from xrec_jax.runs.state import RunState
from xrec_jax.runs.summary import update_summary

Sources = Sequence[Sequence[tuple]]  # by source, `Example`s or (prompt, response)


def run(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """Tunes on the files of `settings.data`, from the newest checkpoint on; or takes the adapter of `settings.load`."""
    if settings.load:
        model = task.language.model.config
        adapter = sharding.place_learner(load(task, settings), decoder.abstract_params(model), task.mesh, model.units)
        progress.say(f'{phase}: the adapter in {settings.load}')
        return _with_adapter(state, settings.adapter_name, adapter)
    sources, valid = tune_data.read(task, settings)
    return tune_on(task, state, phase, index, settings, sources, valid, tune_data.read_test(task, settings))


def restored(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict) -> RunState:
    """The state after a phase that is done: its adapter is in `adapters/<phase>`, or where it was taken from."""
    settings = ml_collections.ConfigDict(settings)
    settings.load = settings.load or str(task.workdir / 'adapters' / phase)
    with progress.silence():
        return run(task, state, phase, index, settings)


def check(task: Task, settings: ml_collections.ConfigDict, earlier: Sequence[str]) -> None:
    """UserError for files that cannot be read, or settings that cannot work."""
    if settings.load:
        load(task, settings)
        return
    check_settings(task, settings)
    sources, _ = tune_data.read(task, settings)
    for at, source in enumerate(sources, 1):
        if len(source) % settings.together:
            raise UserError(f'tune({settings.name}): the {len(source):,} examples of source {at} are no groups of tune.'
                            f'together={settings.together}.')
    tune_data.read_test(task, settings)


def load(task: Task, settings: ml_collections.ConfigDict) -> dict:
    """The adapter in `settings.load`; UserError where it is none of `config.language`'s shape."""
    shape, adapter = peft.load_adapter(settings.load, task.language.model.config)
    own = task.language.lora
    differing = [f'lora_{name} {getattr(shape, name)} there, {getattr(own, name)} here'
                 for name in ('rank', 'scale') if getattr(shape, name) != getattr(own, name)]
    if set(shape.targets) != set(own.targets):
        differing.append(f'lora_targets {", ".join(shape.targets)} there, {", ".join(own.targets)} here')
    if differing:
        raise UserError(f'tune({settings.name}).load={settings.load}: has another shape than config.language says: '
                        f'{"; ".join(differing)}.')
    return adapter


def check_settings(task: Task, settings: ml_collections.ConfigDict) -> None:
    """UserError for sizes that do not fit each other or the model, a bad optimizer, a wrong ratio."""
    model = task.language.model.config
    for name in ('epochs', 'batch_size', 'microbatch_size', 'max_length', 'together', 'log_every', 'checkpoint_every'):
        if settings[name] < 1:
            raise UserError(f'tune.{name}={settings[name]}: should be at least 1.')
    if settings.batch_size % settings.together:
        raise UserError(f'tune.batch_size={settings.batch_size}: should be a multiple of tune.together='
                        f'{settings.together}, the examples that share a step.')
    if settings.max_length > model.max_position_embeddings:
        raise UserError(f'tune.max_length={settings.max_length} exceeds the {model.max_position_embeddings} positions '
                        'of the model.')
    if settings.row_length < settings.max_length:
        raise UserError(f'tune.row_length={settings.row_length} is less than tune.max_length={settings.max_length}: a '
                        'row holds at least one example.')
    if settings.row_length > model.max_position_embeddings and model.positions == 'learned':
        raise UserError(f'tune.row_length={settings.row_length} exceeds the {model.max_position_embeddings} learned '
                        'positions of the model.')
    if not settings.packing and settings.row_length != settings.max_length:
        raise UserError(f'tune.row_length={settings.row_length} should be tune.max_length={settings.max_length} '
                        'without packing.')
    if not 0 <= settings.prompt_weight <= 1:
        raise UserError(f'tune.prompt_weight={settings.prompt_weight}: should be from 0 to 1.')
    ratio = settings.data.ratio
    if len(ratio) and (len(ratio) != len(settings.data.train) or min(ratio) < 0 or sum(ratio) <= 0):
        raise UserError(f'tune.data.ratio={tuple(ratio)}: should have a share, 0 or more, for each of the '
                        f'{len(settings.data.train)} files of tune.data.train.')
    optimizer(settings, 1)
    sharding.check_batch('tune.microbatch_size', settings.microbatch_size, task.mesh)


def optimizer(settings: ml_collections.ConfigDict, steps: int) -> tuning.Optimizer:
    """`settings.optimizer`; UserError for a key that it does not have."""
    given = settings.optimizer.to_dict()
    known = [name for name in tuning.Optimizer.__dataclass_fields__ if name != 'steps']
    for key in given:
        if key not in known:
            raise UserError(f'tune.optimizer has no "{key}".{nearest(key, known)}')
    return tuning.Optimizer(steps=steps, **given)


def tune_on(task: Task, state: RunState, phase: str, index: int, settings: ml_collections.ConfigDict,
            sources: Sources, valid: Sequence[tuple], test: Sequence[tuple] = ()) -> RunState:
    """Tunes `settings.adapter_name` on examples of some sources, mixed by `settings.data.ratio`.

    Args:
      sources: of each source, its examples: (prompt, response), or `packing.Example`s that say what may be cut.
      valid: held-out examples; none: the last adapter is the result, and nothing stops early.
      test: examples that decide nothing; their loss before and after is printed and put into `summary.json`.

    Raises UserError where nothing fits into `settings.max_length`, or the loss is no longer finite; what was saved
    before is sound.
    """
    tokenizer = task.language.tokenizer
    encode = functools.partial(packing.encode, tokenizer, max_length=settings.max_length)
    parts = [encode(examples=source, together=settings.together) for source in sources]
    held_out, unseen = encode(examples=valid), encode(examples=test)
    ratio = tuple(settings.data.ratio)
    for at, part in enumerate(parts):
        if not len(part) and (not ratio or ratio[at]):
            raise UserError(f'{phase}: none of the {len(sources[at])} examples of source {at + 1} fits into '
                            f'tune.max_length={settings.max_length}.')
    run = _Run(task, phase, index, settings, packing.joined(parts), [len(part) for part in parts], held_out)
    progress.say(run.told())
    key = jax.random.fold_in(jax.random.key(task.seed), index)
    adapter = None if settings.fresh else state.adapters.get(settings.adapter_name)
    if adapter is None:
        adapter = lora.init_adapter(key, task.language.params, task.language.lora)
    before, adapter = adapter, run.train(adapter, key)
    if len(unseen):
        say_test(task, phase, run, before, adapter, unseen)
    with files.folder(task.workdir / 'adapters' / phase) as folder:
        peft.save_adapter(folder, task.language.model.config, adapter, task.language.lora)
    progress.say(summary(task, phase))
    rates = [row['tokens_per_second'] for row in read_metrics(task.metrics.path, phase)]
    update_summary(task.workdir, {f'{phase}-tokens_per_second': float(np.mean(rates))})
    return _with_adapter(state, settings.adapter_name, adapter)


def _with_adapter(state: RunState, name: str, adapter: dict) -> RunState:
    state = state.replace(adapters=state.adapters | {name: adapter})
    if name == 'policy':  # the value head was of another policy
        state = state.replace(reference=adapter, value_head=None)
    return state


class _Run:
    """What stays the same in all steps of one phase."""

    def __init__(self, task: Task, phase: str, index: int, settings: ml_collections.ConfigDict, train: Encoded,
                 sizes: list[int], valid: Encoded):
        self.task, self.phase, self.index, self.settings = task, phase, index, settings
        self.train_set, self.sizes, self.valid = train, sizes, valid
        self.steps_per_epoch = -(-len(train) // settings.batch_size)
        self.steps = self.steps_per_epoch * settings.epochs
        self.optimizer = optimizer(settings, self.steps)
        self.epoch = functools.lru_cache(maxsize=1)(self._epoch)

    def told(self) -> str:
        """The line that is printed at the start."""
        lost = ''.join(f', {count:,} {what}' for count, what in (
            (self.train_set.num_cut, 'cut from the left'), (self.train_set.num_dropped, 'dropped as too long'),
            (self.valid.num_cut, 'held-out cut'), (self.valid.num_dropped, 'held-out dropped')) if count)
        return (f'{self.phase}: {len(self.train_set):,} examples ({" + ".join(f"{size:,}" for size in self.sizes)}) of '
                f'{self.train_set.lengths.mean():.0f} tokens, {len(self.valid):,} held out{lost}; '
                f'{self.steps:,} steps')

    def _epoch(self, number: int) -> np.ndarray:
        return packing.epoch(self.sizes, tuple(self.settings.data.ratio), (self.task.seed, self.index), number,
                             self.settings.together)

    def pack(self, examples: Encoded, index: np.ndarray) -> packing.Packed:
        """A batch on the mesh."""
        settings = self.settings
        batch = packing.pack(examples, index, settings.batch_size, settings.microbatch_size, settings.row_length,
                             settings.packing)
        rows = jax.sharding.NamedSharding(self.task.mesh, jax.sharding.PartitionSpec(None, *sharding.BATCH))
        whole = jax.sharding.NamedSharding(self.task.mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(lambda x: sharding.put(x, rows if np.ndim(x) else whole), batch)

    def train(self, adapter: dict, key: jax.Array) -> dict:
        """All epochs, from the newest checkpoint on; the best adapter."""
        task, settings = self.task, self.settings
        model = task.language.model.config
        learner = sharding.place_learner({
            'now': tuning.init_learner(adapter, self.optimizer),
            'best': adapter, 'best_loss': np.float32(np.inf), 'best_epoch': np.int32(0),
        }, decoder.abstract_params(model), task.mesh, model.units)
        with Checkpoints(task.workdir / 'checkpoints' / self.phase) as checkpoints:
            done, learner = checkpoints.restore(learner)
            if self.finished(learner, done):
                return learner['best']
            task.metrics.rewind(self.phase, done)
            with progress.bar(self.phase, self.steps, done) as advance:
                watch = _Window()
                for step in range(done + 1, self.steps + 1):
                    now, tokens = self.step(learner['now'], key, step)
                    learner, row = learner | {'now': now}, {}
                    watch.add(tokens)
                    ends = step % self.steps_per_epoch == 0
                    if ends or step % settings.log_every == 0:
                        row = self.log(now, step) | watch.read()
                        row |= utilisation.metrics(utilisation.tune_flops(model, row['tokens_per_second']), 1.0)
                        totals = sharding.replicate(tuning.Totals.zeros(), task.mesh)
                        learner |= {'now': now.replace(totals=totals)}
                    if ends:
                        with watch.outside():
                            more, learner = self.validate(learner, step // self.steps_per_epoch)
                        row |= more
                    if row:
                        task.metrics.write(self.phase, step, row)
                    finished = self.finished(learner, step)
                    stop = preemption.requested()
                    if stop or ends or step % settings.checkpoint_every == 0:
                        checkpoints.save(step, learner)
                    if stop:
                        preemption.leave(self.phase, step)
                    advance(note=f'loss {row["loss"]:.3f}' if row else '')
                    if finished:
                        break
        return learner['best']

    def finished(self, learner: dict, step: int) -> bool:
        """After the last step, or the epoch by which `patience` ran out."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        patience = self.settings.patience
        waited = epoch - int(learner['best_epoch']) if patience and len(self.valid) and not rest else 0
        return step >= self.steps or 0 < patience <= waited

    def step(self, learner: tuning.Learner, key: jax.Array, step: int) -> tuple[tuning.Learner, int]:
        """One optimizer step: the learner after it, and how many tokens the batch has."""
        epoch, at = divmod(step - 1, self.steps_per_epoch)
        size = self.settings.batch_size
        index = self.epoch(epoch)[at * size:(at + 1) * size]
        learner = tuning.tune_step(
            self.task.language.model, self.optimizer, self.task.language.params, learner,
            self.pack(self.train_set, index), self.settings.prompt_weight, key, np.int32(step))
        return learner, int(self.train_set.lengths[index].sum())

    def log(self, learner: tuning.Learner, step: int) -> dict[str, float]:
        """Means since the last row. UserError for a loss that is no number."""
        row = learner.totals.metrics()
        if not np.isfinite(row['loss']):
            raise UserError(f'The loss of {self.phase} is {row["loss"]} at step {step}: lower '
                            f'tune.optimizer.learning_rate (now {self.optimizer.learning_rate:g}).')
        return row

    def validate(self, learner: dict, epoch: int) -> tuple[dict[str, float], dict]:
        """Figures of the held-out examples, and the learner with the adapter kept if it is the best yet."""
        if not len(self.valid):
            return {'epoch': epoch}, learner | {'best': learner['now'].adapter, 'best_epoch': np.int32(epoch)}
        row = {f'valid_{name}': value for name, value in self.figures(learner['now'].adapter, self.valid).items()}
        if row['valid_loss'] < float(learner['best_loss']):
            learner = learner | {'best': learner['now'].adapter, 'best_loss': np.float32(row['valid_loss']),
                                 'best_epoch': np.int32(epoch)}
        return row | {'epoch': epoch}, learner


    def figures(self, adapter: dict, examples: Encoded) -> dict[str, float]:
        """Loss and the like of an adapter on some examples."""
        size = self.settings.batch_size
        parts = [tuning.evaluate(self.task.language.model, self.task.language.params, adapter,
                                 self.pack(examples, np.arange(start, min(start + size, len(examples)))),
                                 self.settings.prompt_weight) for start in range(0, len(examples), size)]
        return jax.tree.map(lambda *values: sum(values), *jax.device_get(parts)).metrics()


def say_test(task: Task, phase: str, run: _Run, before: dict, after: dict, examples: Encoded) -> None:
    """Prints the loss on test examples before and after tuning, and puts it into `summary.json`."""
    first, last = (run.figures(adapter, examples)['loss'] for adapter in (before, after))
    progress.say(f'{phase}: loss on {len(examples):,} test examples {first:.3f} → {last:.3f} nats a token '
                 f'({last / first - 1:+.1%})')
    update_summary(task.workdir, {phase: {'test_examples': len(examples), 'test_loss_before': first, 'test_loss': last}})


class _Window:
    """Figures of this process since the last row: they differ from run to run."""

    def __init__(self):
        self._start, self._tokens, self._compiles = time.perf_counter(), 0, num_compiles()

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Whose seconds do not count; what it compiles does."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        seconds, compiles = time.perf_counter() - self._start, num_compiles() - self._compiles
        row = {'tokens_per_second': self._tokens / seconds, 'seconds': seconds, 'compiles': compiles}
        self.__init__()
        return row


def summary(task: Task, phase: str) -> str:
    """The line that is printed at the end."""
    rows = [row for row in read_metrics(task.metrics.path, phase) if 'epoch' in row]
    first, last = rows[0], rows[-1]
    line = (f'{phase}: {last["epoch"]:.0f} epoch{"s" * (last["epoch"] != 1)}; loss {first["loss"]:.3f} in the first, '
            f'{last["loss"]:.3f} in the last; {np.mean([row["tokens_per_second"] for row in rows]):.0f} tokens/s, '
            f'{last["padding"]:.0%} padding')
    if 'valid_loss' in last:
        best = min(rows, key=lambda row: row['valid_loss'])
        line += (f'; held out: loss {best["valid_loss"]:.3f} in epoch {best["epoch"]:.0f}, the best, '
                 f'{best["valid_response_accuracy"]:.1%} of response tokens right')
    return line
