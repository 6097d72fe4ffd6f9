"""Reading `config.json`: what has to be there, what may be there, and rotary positions in both spellings."""

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.rotary import RopeScaling


def check_present(hf: dict, *keys: str) -> None:
    """Raises UserError for keys that are missing."""
    if missing := [key for key in keys if hf.get(key) is None]:
        raise UserError(f'config.json: {", ".join(missing)} missing; is it the file of a whole model?')


def check_only(hf: dict, **supported) -> None:
    """Raises UserError for a key that is there with another value than the supported one."""
    for key, value in supported.items():
        if hf.get(key, value) != value:
            raise UserError(f'config.json: {key}={hf[key]!r} is not supported, only {value!r}.')


def choice(hf: dict, key: str, default: str, known: dict[str, str]) -> str:
    """What `known` calls the value of a key."""
    value = hf.get(key, default)
    if value not in known:
        raise UserError(f'config.json: {key}={value!r} is not supported.{nearest(str(value), known)}')
    return known[value]


def rope(hf: dict, default_theta: float = 10000.0) -> dict:
    """Fields `rope_theta` and `rope_scaling`: transformers 5 writes rope_parameters, earlier versions two keys."""
    found = dict(hf.get('rope_parameters') or hf.get('rope_scaling') or {})
    theta = found.get('rope_theta') or hf.get('rope_theta') or default_theta
    check_only(found | {key: hf[key] for key in hf if key == 'partial_rotary_factor'}, partial_rotary_factor=1.0)
    return {'rope_theta': float(theta), 'rope_scaling': _scaling(found)}


def _scaling(found: dict) -> RopeScaling | None:
    kind = found.get('rope_type', found.get('type', 'default'))
    if kind == 'default':
        return None
    numbers = {'linear': ('factor',), 'llama3': (
        'factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')}
    if kind not in numbers:
        raise UserError(f'config.json: rope_type "{kind}" is not supported.{nearest(str(kind), ("default", *numbers))}')
    check_present(found, *numbers[kind])
    *factors, last = [float(found[key]) for key in numbers[kind]]
    return RopeScaling(kind, *factors, int(last)) if kind == 'llama3' else RopeScaling(kind, last)


def rope_to_hf(config) -> dict:
    """Both spellings of a config's rotary positions."""
    parameters = {'rope_type': 'default', 'rope_theta': config.rope_theta}
    if scaling := config.rope_scaling:
        parameters |= {'rope_type': scaling.kind, 'factor': scaling.factor}
        if scaling.kind == 'llama3':
            names = ('low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
            parameters |= {name: getattr(scaling, name) for name in names}
    return {'rope_theta': config.rope_theta, 'rope_parameters': parameters}
