"""Bytes of strangers that may be held at once: refused before memory is taken for them."""

import threading

from .errors import Refusal


class Budget:
    """So many bytes; safe from any thread."""

    def __init__(self, limit: int):
        self.limit, self._taken = limit, 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, count: int) -> None:
        """Raises Refusal (429) where they are not there."""
        with self._lock:
            if self._taken + count > self.limit:
                raise Refusal(
                    429,
                    "the server holds as many bytes of other requests as it may",
                    code="busy",
                    retry_after=1.0,
                )
            self._taken += count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._taken -= count
