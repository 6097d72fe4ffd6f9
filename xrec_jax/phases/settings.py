"""The settings of a phase: those of its verb, with its own in their place."""

import ml_collections

from xrec_jax.errors import UserError, nearest


def settings_of(config: ml_collections.ConfigDict, verb: str, name: str) -> ml_collections.ConfigDict:
    """`config.<verb>`, overlaid by `config.<name>` where there is one; `name` is its name."""
    settings = ml_collections.ConfigDict(config.get(verb, {}))
    settings = _overlaid(settings, config.get(name, {}), f'config.{name}', f'config.{verb}')
    settings.name = name
    return settings


def _overlaid(settings: ml_collections.ConfigDict, own: ml_collections.ConfigDict, where: str, above: str
              ) -> ml_collections.ConfigDict:
    """`settings` with those of `own` in their place, group by group; a group with a name, as `model`, as a whole. An
    empty group of `settings` takes any keys: what it holds is refused, or not, where it is read."""
    result = settings.to_dict()
    for key, value in own.items():
        if key not in settings:
            raise UserError(f'schedule: "{key}" of {where} is no setting of {above}.{nearest(key, settings.keys())}')
        group = isinstance(value, ml_collections.ConfigDict) and 'name' not in value and len(settings[key])
        result[key] = _overlaid(settings[key], value, f'{where}.{key}', f'{above}.{key}') if group else value
    return ml_collections.ConfigDict(result)
