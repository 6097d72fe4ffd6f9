"""Answers of an endpoint kept on disk: JSON lines, appended one by one, so that a killed run loses none.

A line is an answer: `key` (the hash of what was asked), `text`, `finish`, tokens. A last line that a killed run left
half-written is cut off when the file is opened again. One process at a time may append.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xrec_jax.errors import UserError

FINISHES = (
    'stop',
    'length',  # cut at max_tokens
    'refused',  # by the model or by a filter before it; the text is empty, or what the model said instead
    'too_long',  # the prompt did not fit the model's context; the text is empty
)


class Answer(NamedTuple):
    """Tokens are None where the endpoint did not count them."""

    text: str
    finish: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def request_key(model: str, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any]) -> str:
    """The hash of what is asked; the order of the parameters makes no difference."""
    asked = json.dumps([model, list(messages), dict(parameters)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(asked.encode()).hexdigest()


class AnswerFile:
    """The answers in `path` by key; `with AnswerFile(path) as kept: … kept.add(key, answer)`.

    Opening raises UserError for a file that something else writes to now, or that is no file of answers.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> 'AnswerFile':
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, 'a+b')
        try:
            self._claim()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, key: str, answer: Answer) -> None:
        """Keeps one answer, on the disk before it returns; from any thread."""
        line = json.dumps({'key': key, **answer._asdict()}, ensure_ascii=True) + '\n'
        with self._lock:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._answers[key] = answer

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'{self.path}: another run is asking and writes its answers here; wait for it, or give '
                            'this one a file of its own') from None
        except OSError:  # a file system without locks
            pass

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0  # bytes of whole lines
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b'\n'):
                break
            whole += len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key = row.pop('key')
                self._answers[key] = Answer(**row)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(f'{self.path}, line {number}: is no answer of an endpoint (a JSON object with '
                                f'{", ".join(("key", *Answer._fields))}); take the line out, or give another file'
                                ) from None
        self._file.truncate(whole)
