"""Texts from any OpenAI-compatible HTTP endpoint, through the `openai` client: OpenAI's own, vLLM, Ollama, …

1. `Endpoint`: model, parameters, limits and prices, from the config; base URL and key come from the environment
   (OPENAI_BASE_URL, OPENAI_API_KEY) and are written nowhere, the key not even into an error
2. `ask`: prompts → answers in their order. Each is on disk (`answer_file`) before it counts, and what is there is not
   asked again: the key of an answer is the hash of model, messages and parameters
3. `_Asker`: one request: its turn (`pacing`), retries, what an error means

Busy servers (429), their faults (5xx), timeouts, broken connections and malformed answers are tried again, with waits
that double or that the server names. What one prompt alone is to blame for (a filter, a prompt too long) is an answer
too. All else ends the run; what was answered is kept.
"""

import concurrent.futures
import dataclasses
import email.utils
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xrec_jax.errors import UserError, nearest
from xrec_jax.language.answer_file import Answer, AnswerFile, request_key
from xrec_jax.language.pacing import Pace

BASE_URL = 'https://api.openai.com/v1'  # where OPENAI_BASE_URL says nothing
LONGEST_WAIT_S = 120.0
_OWN = ('model', 'messages', 'stream', 'n')  # not for a config to set: one whole answer a prompt
_FILTERS = ('content_filter', 'content_policy_violation')


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What to ask, and how. Limits of 0 are none.

    `parameters` go into the request as they are: `temperature`, `max_tokens` (newer OpenAI models want
    `max_completion_tokens`), `seed`, `top_p`, … `prices` are those of a million tokens of prompt and of completion.
    """

    model: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {'temperature': 0.0, 'max_tokens': 256})
    role: str = ''  # a system message
    concurrency: int = 8  # requests under way at once
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout_s: float = 60.0
    retries: int = 6  # of one request, after its first try
    backoff_s: float = 1.0  # the first wait, half of it by chance; each later one is twice the one before
    prices: tuple[float, float] | None = None

    def __post_init__(self):
        if not self.model:
            raise UserError('endpoint.model is empty; name a model that the endpoint has')
        for name in _OWN:
            if name in self.parameters:
                raise UserError(f'endpoint.parameters.{name} cannot be set: one whole answer is asked of each prompt')
        for name, low in (('concurrency', 1), ('retries', 0), ('requests_per_minute', 0), ('tokens_per_minute', 0)):
            if getattr(self, name) < low:
                raise UserError(f'endpoint.{name}={getattr(self, name)} should be {low} or more')

    def messages(self, prompt: str) -> list[dict[str, str]]:
        told = [{'role': 'system', 'content': self.role}] if self.role else []
        return [*told, {'role': 'user', 'content': prompt}]

    def key(self, prompt: str) -> str:
        return request_key(self.model, self.messages(prompt), self.parameters)

    def cost(self, answers: Sequence[Answer]) -> float | None:
        """The price of `answers`, in the currency of `prices`; None where prices or token counts are not known."""
        if self.prices is None or any(answer.prompt_tokens is None for answer in answers):
            return None
        prompt, completion = self.prices
        return sum(answer.prompt_tokens * prompt + (answer.completion_tokens or 0) * completion
                   for answer in answers) / 1e6


def endpoint(settings: Mapping[str, Any]) -> Endpoint:
    """`Endpoint` from a config group; UserError for a key that is none of its."""
    known = [field.name for field in dataclasses.fields(Endpoint)]
    for name in settings:
        if name not in known:
            raise UserError(f'an endpoint has no setting "{name}".{nearest(name, known)}')
    return Endpoint(**settings)


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers in the order of the prompts, and what it took to get them (`summary`, plain values for JSON)."""

    rows: list[Answer]
    summary: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows]


def ask(endpoint: Endpoint, prompts: Sequence[str], path: str | os.PathLike,
        progress: Callable[..., None] = lambda count=1, note='': None) -> Answers:
    """Asks for what `path` has no answer to yet, and returns the answers to all `prompts`.

    Equal prompts are asked once and share the answer.

    Args:
      path: the file of answers; made where it is not there.
      progress: called with the number of prompts answered since the last call and a note, as `advance` of
        `runs.progress.bar`; first of all with the number of those that were answered before.

    Raises:
      UserError: no key, a key or model that the endpoint refuses, an endpoint that stays silent; the message says
        how many answers are kept. Ctrl-C keeps them too.
    """
    start = time.monotonic()
    keys = [endpoint.key(prompt) for prompt in prompts]
    times: dict[str, int] = {}
    for key in keys:
        times[key] = times.get(key, 0) + 1
    with AnswerFile(path) as kept:
        wanted = {key: prompt for key, prompt in zip(keys, prompts) if key not in kept}
        before, retries = len(times) - len(wanted), 0
        progress(sum(count for key, count in times.items() if key in kept), note='')
        if wanted:  # else neither key nor network is needed
            retries = _ask_all(endpoint, wanted, kept, lambda key, note: progress(times[key], note=note))
        rows = [kept[key] for key in keys]
        each = [kept[key] for key in times]
        new = [kept[key] for key in wanted]
    counted = [row for row in each if row.prompt_tokens is not None]
    return Answers(rows, {
        'model': endpoint.model, 'prompts': len(prompts), 'asked': len(wanted), 'kept_from_before': before,
        'retries': retries, 'refused': sum(row.finish == 'refused' for row in rows),
        'too_long': sum(row.finish == 'too_long' for row in rows),
        'cut': sum(row.finish == 'length' for row in rows), 'empty': sum(not row.text.strip() for row in rows),
        'prompt_tokens': sum(row.prompt_tokens for row in counted),
        'completion_tokens': sum(row.completion_tokens or 0 for row in counted),
        'answers_without_token_count': len(each) - len(counted),
        'cost': endpoint.cost(each), 'cost_of_this_run': endpoint.cost(new),
        'seconds': round(time.monotonic() - start, 3)})


def _ask_all(endpoint: Endpoint, wanted: Mapping[str, str], kept: AnswerFile, told: Callable[[str, str], None]) -> int:
    """Asks for all of `wanted` (key → prompt), in threads; each answer goes to `kept` from its thread.

    Returns how many tries were repeated.
    """
    asker = _Asker(endpoint, Address.of_environment())

    failures: list[BaseException] = []  # the first one is the cause, those after it may be its doing

    def work(key: str, prompt: str) -> str:
        try:
            kept.add(key, asker.answer(prompt))
        except BaseException as error:
            failures.append(error)
            asker.stop.set()  # at once: nobody begins another request
            raise
        return key

    spent = 0
    try:
        with asker.client, concurrent.futures.ThreadPoolExecutor(endpoint.concurrency) as pool:
            try:
                futures = [pool.submit(work, key, prompt) for key, prompt in wanted.items()]
                for future in concurrent.futures.as_completed(futures):
                    key = future.result()
                    spent += sum(count or 0 for count in kept[key][2:])
                    told(key, f'{spent:,} tokens, {asker.retries} retries')
            except BaseException as error:  # Ctrl-C too: what is under way is finished and kept, the rest not begun
                asker.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise failures[0] if failures and isinstance(error, Exception) else error
    except UserError as error:
        left = sum(key not in kept for key in wanted)
        raise UserError(f'{error} {len(wanted) - left} of {len(wanted)} answers came and are kept in {kept.path}; '
                        f'the same command asks for the other {left}.') from error
    return asker.retries


# ----------------------------------------------------------------------------------- one request


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the endpoint is. The key shows in no `repr`."""

    url: str
    secret: str = dataclasses.field(repr=False)

    @classmethod
    def of_environment(cls) -> 'Address':
        """OPENAI_BASE_URL and OPENAI_API_KEY; UserError where there is no key, or one that cannot be sent."""
        url = os.environ.get('OPENAI_BASE_URL', '').strip() or BASE_URL
        secret = os.environ.get('OPENAI_API_KEY', '').strip()
        if urllib.parse.urlsplit(url).scheme not in ('http', 'https'):
            raise UserError('OPENAI_BASE_URL should begin with http:// or https://, as http://localhost:8000/v1')
        if not secret:
            raise UserError('OPENAI_API_KEY is not set: export the key of the endpoint (OPENAI_BASE_URL, else OpenAI). '
                            'For a server of your own that asks for none, set it to any word.')
        if not (secret.isascii() and secret.isprintable()):
            raise UserError('OPENAI_API_KEY has a character that no key has (a line end, a letter beyond ASCII): '
                            'copy it again')
        return cls(url, secret)

    @property
    def place(self) -> str:
        """The address without what it may hold of user and password."""
        parts = urllib.parse.urlsplit(self.url)
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition('@')[2], parts.path, '', ''))

    def clean(self, text: str) -> str:
        """`text` without the key: servers repeat it in what they say."""
        hidden = text.replace(self.secret, '***') if len(self.secret) > 7 else text  # "none", "EMPTY": no secrets
        return ' '.join(hidden.split())[:500]


class _Malformed(Exception):
    """An answer with status 200 that is none."""


class _Asker:
    """Asks one prompt at a time, from any thread. `stop` ends all waits; `retries` counts those of all prompts."""

    def __init__(self, endpoint: Endpoint, address: Address):
        self.endpoint, self.address = endpoint, address
        self.openai = _library()
        self.client = self.openai.OpenAI(api_key=address.secret, base_url=address.url, max_retries=0,
                                         timeout=endpoint.timeout_s)
        self.pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self.stop = threading.Event()
        self.retries = 0
        self._lock = threading.Lock()

    def answer(self, prompt: str) -> Answer:
        """The answer to one prompt; UserError where there is none to be had."""
        tries = self.endpoint.retries + 1
        for number in range(tries):
            guess = self._guess(prompt)
            self._wait(self.pace.turn(guess))
            while hold := self.pace.held():
                self._wait(hold)
            try:
                answer = self._once(prompt)
            except (self.openai.OpenAIError, _Malformed) as error:
                if answer := self._of_prompt(error):
                    return answer
                if not self._passing(error):
                    raise self._final(error) from error
                if number + 1 == tries:
                    raise UserError(f'{self.address.place}: no answer after {tries} tries; last {self._told(error)}.'
                                    ) from error
                with self._lock:
                    self.retries += 1
                self._wait(self._pause(error, number))
            else:
                if answer.prompt_tokens is not None:
                    self.pace.correct(answer.prompt_tokens + (answer.completion_tokens or 0) - guess)
                return answer
        raise AssertionError('unreachable')

    def _once(self, prompt: str) -> Answer:
        raw = self.client.chat.completions.with_raw_response.create(
            model=self.endpoint.model, messages=self.endpoint.messages(prompt),
            extra_body=dict(self.endpoint.parameters))
        try:
            body = json.loads(raw.text)
            choice, usage = body['choices'][0], body.get('usage') or {}
            message = choice['message']
            text, refusal = message.get('content') or '', message.get('refusal')
            counts = [None if usage.get(name) is None else int(usage[name])
                      for name in ('prompt_tokens', 'completion_tokens')]
            if not isinstance(text, str):
                raise TypeError('content is no text')
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Malformed(f'an answer that is no chat completion ({type(error).__name__})') from error
        finish = choice.get('finish_reason')
        if refusal or finish in _FILTERS:
            return Answer(text or str(refusal or ''), 'refused', *counts)
        return Answer(text, 'length' if finish == 'length' else 'stop', *counts)

    def _guess(self, prompt: str) -> int:
        """About how many tokens a request takes: four letters are one, and the answer is as long as it may be."""
        parameters = self.endpoint.parameters
        most = parameters.get('max_completion_tokens') or parameters.get('max_tokens') or 256
        return (len(prompt) + len(self.endpoint.role)) // 4 + int(most)

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise UserError('stopped, as another request has failed.')

    # ------------------------------------------------------------------------- what an error means

    def _of_prompt(self, error: Exception) -> Answer | None:
        """The answer that an error is, where this one prompt is to blame and others may go well."""
        if getattr(error, 'status_code', None) not in (400, 403, 413, 422):
            return None
        code, said = getattr(error, 'code', None) or '', str(error).lower()
        if code in _FILTERS:
            return Answer('', 'refused', 0, 0)  # nobody bills what was not answered
        too_long = code == 'context_length_exceeded' or 'maximum context length' in said
        return Answer('', 'too_long', 0, 0) if too_long else None

    def _passing(self, error: Exception) -> bool:
        """Whether trying again may help."""
        if isinstance(error, (_Malformed, self.openai.APIConnectionError)):  # timeouts are of the latter kind
            return True
        status = getattr(error, 'status_code', 0)
        if status == 429:
            return getattr(error, 'code', None) != 'insufficient_quota'
        return status in (408, 409) or status >= 500

    def _pause(self, error: Exception, number: int) -> float:
        """Seconds to wait before try `number` + 2: what the server says, else the next of the doubling waits."""
        said = _retry_after(getattr(getattr(error, 'response', None), 'headers', None) or {})
        if said is not None:
            said = min(said, LONGEST_WAIT_S)
            self.pace.hold(said)
            return said
        return min(self.endpoint.backoff_s * 2 ** number, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    def _final(self, error: Exception) -> UserError:
        place, status = self.address.place, getattr(error, 'status_code', None)
        if status == 401:
            return UserError(f'{place} does not take the key in OPENAI_API_KEY ({self._told(error)}).')
        if status == 403:
            return UserError(f'{place} forbids what was asked with the key in OPENAI_API_KEY ({self._told(error)}).')
        if status == 429:
            return UserError(f'{place}: the quota of the key in OPENAI_API_KEY is used up ({self._told(error)}).')
        if status == 404:
            return UserError(f'{place} has no model "{self.endpoint.model}", or the path in OPENAI_BASE_URL is not '
                             f'the right one ({self._told(error)}).{self._known_models()}')
        return UserError(f'{place} refuses the request ({self._told(error)}).')

    def _told(self, error: Exception) -> str:
        """An error in words, without the key."""
        status = getattr(error, 'status_code', None)
        said = self.address.clean(str(getattr(error, 'message', '') or error))
        if isinstance(error, self.openai.APITimeoutError):
            return f'error: none within {self.endpoint.timeout_s:g} s'
        cause = error.__cause__
        if isinstance(error, self.openai.APIConnectionError) and cause is not None:
            said = f'{said} {type(cause).__name__}: {self.address.clean(str(cause))}'
        return f'error: {"status " + str(status) + ", " if status else ""}{said.rstrip(".")}'

    def _known_models(self) -> str:
        """The nearest of the endpoint's models, where it lists them."""
        try:
            raw = self.client.models.with_raw_response.list()
            return nearest(self.endpoint.model, [str(model['id']) for model in json.loads(raw.text)['data']][:50])
        except (self.openai.OpenAIError, ValueError, LookupError, TypeError):
            return ''


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers of an answer: milliseconds, seconds, or a date."""
    for name, unit in (('retry-after-ms', 1000.0), ('retry-after', 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            pass
    return None


def _library():
    """The `openai` package; imported late, for it takes a second and few runs need it."""
    try:
        import openai
    except ImportError:
        raise UserError('the package "openai" is not installed, and asking an endpoint needs it: '
                        'pip install openai') from None
    return openai
