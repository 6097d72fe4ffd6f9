"""`summary.json`: the figures of a run, added to by the phases that measure something."""

import json
from typing import Any

from xrec_jax.runs import files


def update_summary(workdir: files.Path, figures: dict[str, Any]) -> files.Path:
    """Puts `figures` beside what the file already has; its path."""
    path = workdir / 'summary.json'
    known = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps(known | figures, indent=1, allow_nan=True) + '\n'
    files.write_whole(path, lambda partial: partial.write_text(text))
    return path


def add_seconds(workdir: files.Path, phase: str, seconds: float) -> None:
    """Adds to `seconds` of a phase: of all processes that worked on it, so that a resumed run tells its whole time."""
    path = workdir / 'summary.json'
    known = json.loads(path.read_text()).get('seconds', {}) if path.exists() else {}
    update_summary(workdir, {'seconds': known | {phase: round(known.get(phase, 0) + seconds, 2)}})
