"""When the next request may go: so many requests and tokens a minute, spaced evenly, for many threads."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Gives requests their turns. Limits are for a minute; 0 is none. `clock` gives seconds."""

    def __init__(self, requests: int = 0, tokens: int = 0, clock: Callable[[], float] = time.monotonic):
        self._request_s = 60 / requests if requests else 0.0
        self._token_s = 60 / tokens if tokens else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next_request = self._next_token = self._held_until = 0.0

    def turn(self, tokens: int) -> float:
        """Takes the next turn, for a request of about `tokens`; returns the seconds until then."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next_request, self._next_token, self._held_until)
            if self._request_s:
                self._next_request = start + self._request_s
            if self._token_s:
                self._next_token = start + tokens * self._token_s
            return start - now

    def correct(self, tokens: int) -> None:
        """A request took `tokens` more than it was taken for (or fewer, below 0)."""
        with self._lock:
            self._next_token += tokens * self._token_s

    def hold(self, seconds: float) -> None:
        """Nobody goes for so long: the endpoint said that it has enough."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def held(self) -> float:
        """Seconds until a `hold` is over, for those who had their turn before it."""
        with self._lock:
            return max(0.0, self._held_until - self._clock())
