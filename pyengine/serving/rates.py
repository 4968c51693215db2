"""How often a caller may come: a token bucket each."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from .errors import Refusal

#: Callers that are remembered; those that have not come for longest are forgotten, and full again.
CALLERS = 10_000


class Rates:
    """At most `rate` requests a minute of each caller, 0: any number; after a pause as many at
    once. Safe from any thread.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self._clock = rate, clock
        self._most = max(1.0, rate)
        #: (requests that are left, when) by caller.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, caller: str) -> None:
        """Counts a request. Raises Refusal (429) where the caller has none left."""
        if not self.rate:
            return
        with self._lock:
            now = self._clock()
            left, then = self._left.pop(caller, (self._most, now))
            left = min(self._most, left + (now - then) * self.rate / 60)
            allowed = left >= 1
            self._left[caller] = (left - 1 if allowed else left, now)
            if len(self._left) > CALLERS:
                self._left.popitem(last=False)
        if not allowed:
            text = f"expected at most {self.rate:g} requests a minute"
            later = (1 - left) * 60 / self.rate
            raise Refusal(429, text, code="rate_limit_exceeded", retry_after=later)
