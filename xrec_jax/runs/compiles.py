"""What has been compiled in this process: after the first steps of a phase there should be no more.

JAX tells of each program by a log record (its name and the shapes of its arguments) and then by an event (the seconds
that it took); both are noted here.
"""

import dataclasses
import logging

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'
_LOGGER = 'jax._src.interpreters.pxla'


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program."""

    name: str
    shapes: tuple[str, ...]  # of its arguments, as float32[8,2]
    seconds: float


_compiled: list[Compiled] = []
_last = ('', ())  # name and shapes of the program under way


class _Note(logging.Filter):
    """Notes the records of programs, which nobody would see at their level, and lets pass what is above it."""

    def filter(self, record: logging.LogRecord) -> bool:
        global _last
        if str(record.msg).startswith('Compiling %s') and len(record.args) > 1:
            name, shapes = record.args[:2]
            _last = (str(name), tuple(aval.str_short() if hasattr(aval, 'str_short') else str(aval) for aval in shapes))
        return record.levelno > logging.DEBUG


def _listen(event: str, duration: float, **unused) -> None:
    global _last
    if event == _EVENT:
        _compiled.append(Compiled(*_last, duration))
        _last = ('', ())


logging.getLogger(_LOGGER).addFilter(_Note())
logging.getLogger(_LOGGER).setLevel(logging.DEBUG)
jax.monitoring.register_event_duration_secs_listener(_listen)


def num_compiles() -> int:
    return len(_compiled)


class Recompilations:
    """Looks, row after row of metrics, for programs that are compiled again when a phase has warmed up.

    A program that is new in its phase is none, nor is one that takes less than `seconds`.
    """

    def __init__(self, warm_up: int = 2, seconds: float = 0.2):
        self.warm_up, self.seconds = warm_up, seconds
        self._phase, self._rows, self._seen = None, 0, num_compiles()
        self._known: dict[str, list[tuple[str, ...]]] = {}

    def __call__(self, phase: str, step: int) -> list[str]:
        """What is to be said after `step`."""
        new, self._seen = _compiled[self._seen:], num_compiles()
        if phase != self._phase:
            self._phase, self._rows, self._known = phase, 0, {}
        self._rows += 1
        lines = []
        for program in new:
            known = self._known.setdefault(program.name, [])
            if self._rows > self.warm_up and known and program.seconds >= self.seconds:
                lines.append(f'{phase}, step {step}: {program.name} was compiled again ({program.seconds:.1f} s); '
                             + _changed(known, program.shapes))
            known.append(program.shapes)
        return lines


def _changed(known: list[tuple[str, ...]], shapes: tuple[str, ...]) -> str:
    """How `shapes` differ from those that are nearest to them."""
    nearest = min(known, key=lambda old: (len(old) != len(shapes), sum(a != b for a, b in zip(old, shapes))))
    if len(nearest) != len(shapes):
        return f'it has {len(shapes)} arguments, and had {len(nearest)}'
    changed = [f'{b}, which was {a}' for a, b in zip(nearest, shapes) if a != b]
    if not changed:
        return 'the shapes are the same, so a static argument or a sharding is another'
    return 'argument ' + '; '.join(changed[:4]) + (f' and {len(changed) - 4} more' if len(changed) > 4 else '')
