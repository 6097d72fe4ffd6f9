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
