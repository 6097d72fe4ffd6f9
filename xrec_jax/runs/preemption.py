"""Being told to stop: SIGTERM ends a run at the next boundary between steps, with all that was done saved.

A spot host that is taken away, a maintenance event, the end of a SLURM job's time, `docker stop`: all send SIGTERM and
wait for a while. `listen` notes it; the loops of the phases ask `requested` after each step, save, and `leave`.
"""

import signal

from xrec_jax.parallel import distributed
from xrec_jax.runs import heartbeat

_asked = False


class Stopped(Exception):
    """The run was told to stop and has saved; says where, as 'after 03-align-lc, step 4'."""


def listen() -> None:
    """From now on SIGTERM is only noted. A second one changes nothing: it may be the same, sent twice."""

    def note(signum, frame):
        del signum, frame
        global _asked
        _asked = True

    signal.signal(signal.SIGTERM, note)


def requested() -> bool:
    """Whether any process was told to stop; all of them ask together, after the same step."""
    heartbeat.arrived()
    return distributed.any_of(_asked)


def leave(phase: str, step: int) -> None:
    """Ends the run, whose state is saved."""
    raise Stopped(f'after {phase}, step {step}')
