"""From the settings `fit.model` to a Flax module, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import ml_collections

from xrec_jax.errors import UserError, nearest


def settings_of(model: type[nn.Module]) -> list[str]:
    """The names of a module's own fields."""
    return [field.name for field in dataclasses.fields(model) if field.name not in ('parent', 'name')]


def make(models: Mapping[str, type[nn.Module]], settings: ml_collections.ConfigDict, **given: Any) -> nn.Module:
    """`models[settings.model.name]` with the rest of `settings.model`, and those of `given` that it has.

    UserError for a name or a setting that there is not, or that is among `given` (the data decide on those).
    """
    own = settings.model.to_dict()
    name = own.pop('name')
    if name not in models:
        raise UserError(f'fit.model.name: "{name}" is no model for fit.task={settings.task}.{nearest(name, models)}')
    known = settings_of(models[name])
    for key in own:
        if key not in known or key in given:
            raise UserError(f'fit({settings.name}): model "{name}" has no setting "{key}".'
                            f'{nearest(key, [k for k in known if k not in given])}')
    return models[name](**{key: value for key, value in given.items() if key in known}, **own)
