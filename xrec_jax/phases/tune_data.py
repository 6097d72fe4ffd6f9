"""What `tune` learns from: `tune.data`, read into (prompt, response) examples by source, and held-out ones.

  read       the examples of training and validation
  read_test  those that decide nothing
  split      a share of the examples, held out
"""

import functools
import os
from collections.abc import Sequence

import ml_collections
import numpy as np

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.packing import Example
from xrec_jax.phases import direct, judge_pairs, tune_forms
from xrec_jax.phases.task import Task


def read(task: Task, settings: ml_collections.ConfigDict) -> tuple[list[list[Example]], list[Example]]:
    """The examples of each file of `data.train`, and those of `data.valid` or of the share `data.valid_share`.

    What the lines of a file are, `data.forms` says, one for each file (`tune_forms`); form 'pairs' reads the judge's
    pairs of `config.judge_pairs` instead, form 'verdicts' the examples of the run's own data, in the prompts of
    config.prompt.`template`. Files are read and prompts written once. Raises UserError with file, line and key for a bad
    line.
    """
    data = settings.data
    if len(data.forms) == 1 and data.forms[0] in WITHOUT_FILES:
        return WITHOUT_FILES[data.forms[0]](task, settings.template, settings.max_length)
    return _read(task, _paths(data, 'train'), tuple(data.forms), _paths(data, 'valid'), data.valid_share,
                 settings.template, settings.max_length)


def read_test(task: Task, settings: ml_collections.ConfigDict) -> list[Example]:
    """The examples of the files of `data.test`, in the form of the first training file."""
    form = settings.data.forms[0]
    return [] if form in WITHOUT_FILES else [
        example for file in _paths(settings.data, 'test')
        for example in tune_forms.FORMS[form](task, file, settings.template, settings.max_length)]


def _paths(data: ml_collections.ConfigDict, key: str) -> tuple[str, ...]:
    return tuple(os.path.join(data.folder, file) for file in data[key])


@functools.cache
def _pairs(task: Task, template: str, most: int) -> tuple[list[list[Example]], list[Example]]:
    del template
    training, validation = judge_pairs.tuning_pairs(task)
    return [tune_forms.pairs(task, training, most)], tune_forms.pairs(task, validation, most)


@functools.cache
def _verdicts(task: Task, key: str, most: int) -> tuple[list[list[Example]], list[Example]]:
    direct.check(task, key)
    training, validation = (direct.examples(task, key, split, most) for split in ('train', 'valid'))
    return [training], validation


WITHOUT_FILES = {'pairs': _pairs, 'verdicts': _verdicts}  # forms of `data.forms` that the run's own material has


@functools.cache
def _read(task: Task, train: tuple[str, ...], forms: tuple[str, ...], valid: tuple[str, ...], share: float,
          template: str, most: int) -> tuple[list[list[Example]], list[Example]]:
    if not train:
        raise UserError('tune.data.train names no file; give JSON lines with "instruction", "input" and "output".')
    if valid and share:
        raise UserError(f'tune.data has both valid files and valid_share={share}; use one of them.')
    if not 0 <= share < 1:
        raise UserError(f'tune.data.valid_share={share}: should be at least 0 and less than 1.')
    forms = forms * len(train) if len(forms) == 1 else forms
    if len(forms) != len(train):
        raise UserError(f'tune.data.forms={forms}: should be one, or one for each of the {len(train)} files.')
    for form in forms:
        if form not in tune_forms.FORMS:
            raise UserError(f'tune.data.forms: "{form}" is no form of a file.{nearest(form, tune_forms.FORMS)}')
    sources = [tune_forms.FORMS[form](task, file, template, most) for form, file in zip(forms, train)]
    held_out = [example for file in valid for example in tune_forms.FORMS[forms[0]](task, file, template, most)]
    if share:
        sources, held_out = split(sources, share, task.seed)
    return sources, held_out


def split(sources: Sequence[Sequence[Example]], share: float, seed: int) -> tuple[list[list[Example]], list[Example]]:
    """Takes `share` of the examples out of all sources: (what is left, what was taken).

    Examples with the same prompt stay together, so that no held-out prompt has been trained on.
    """
    texts = sorted({example.prompt for source in sources for example in source})
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, len(texts)]))).permutation(len(texts))
    taken = {texts[at] for at in order[:round(share * len(texts))]}
    left = [[example for example in source if example.prompt not in taken] for source in sources]
    return left, [example for source in sources for example in source if example.prompt in taken]
