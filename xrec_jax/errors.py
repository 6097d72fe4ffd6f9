"""The one exception that is written for the user.

Entry points print a `UserError` as it stands, without a traceback, and exit with status 2. Its
message says what was wrong, where (file, line, column or key), and what would be right.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input of any kind: a file, a row, a config key, a workdir."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the valid name closest to `name`, or the list of valid names."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    return f' Did you mean "{close[0]}"?' if close else f' Known: {", ".join(valid)}.'
