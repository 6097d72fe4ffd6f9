"""The device mesh: three axes, whose sizes a config gives.

  data     batches are split, parameters copied
  fsdp     batches are split, and parameters too (gathered where they are used)
  tensor   matrices are split by heads, MLP width and vocabulary

Over several TPU slices `dcn_data` says how many: the sizes above are then those of one slice, and axis `data` runs over
the slices first. Only sums of gradients cross the slow network between them.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh
import numpy as np

from xrec_jax.errors import UserError, nearest

AXES = ('data', 'fsdp', 'tensor')
SLICES = 'dcn_data'


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all); one axis may be -1 and takes what the others leave (of its slice).

    Raises UserError for an unknown axis, or where the sizes do not fill the devices.
    """
    devices = jax.devices() if devices is None else devices
    for name in sizes:
        if name not in (*AXES, SLICES):
            raise UserError(f'mesh: unknown axis "{name}".{nearest(name, (*AXES, SLICES))}')
    shape = [sizes.get(name, 1) for name in AXES]
    given = f'mesh: data={shape[0]}, fsdp={shape[1]}, tensor={shape[2]}'
    slices = _slices(devices)
    if (wanted := sizes.get(SLICES, 1)) > 1:
        if wanted != len(slices) or len({len(part) for part in slices}) > 1:
            raise UserError(f'{given}, {SLICES}={wanted}: there are {len(slices)} slices, of '
                            f'{", ".join(str(len(part)) for part in slices)} device(s).')
        parts = [make_mesh({name: size for name, size in sizes.items() if name != SLICES}, part).devices
                 for part in slices]
        return Mesh(np.concatenate(parts, axis=0), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
        raise UserError(f'{given}: sizes are positive, and at most one is -1 (what the others leave).')
    rest, left_over = divmod(len(devices), math.prod(size for size in shape if size != -1))
    shape = [rest if size == -1 else size for size in shape]
    if left_over or math.prod(shape) != len(devices):
        raise UserError(f'{given} does not fill {len(devices)} device(s).')
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices by TPU slice; where there is no such thing, all in one."""
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, 'slice_index', 0), []).append(device)
    return [slices[index] for index in sorted(slices)]
