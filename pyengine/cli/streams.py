"""Standard output and error that may be closed, full or a pipe that nobody reads."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Closed(io.TextIOBase):
    """What Python leaves as None where the stream was closed before the process began (`>&-`)."""

    def write(self, text: str) -> int:
        if text:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return 0


class _Watched:
    """A stream that remembers why it could not be written; `fault` is None until then."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        with self._remembered():
            return int(self._stream.write(text))

    def flush(self) -> None:
        with self._remembered():
            self._stream.flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            self.fault = e
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block both streams are objects, and print any text in their encoding.

    Closed descriptors are opened on /dev/null first: else the next file that is opened would be
    standard output to whatever writes there by its number.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    before = sys.stdout, sys.stderr
    sys.stdout = _Watched(_Closed() if sys.stdout is None else sys.stdout)
    nowhere = open(os.devnull, "w", encoding="utf-8") if sys.stderr is None else None  # noqa: SIM115
    sys.stderr = nowhere or sys.stderr
    for stream in (sys.stdout, sys.stderr):
        _escape_what_cannot_be_encoded(stream)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        if nowhere is not None:
            nowhere.close()


def _escape_what_cannot_be_encoded(stream: Any) -> None:
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def output_fault() -> OSError | None:
    """Why standard output did not take what was printed; None where it did."""
    try:
        sys.stdout.flush()
    except OSError as e:
        return e
    fault: OSError | None = getattr(sys.stdout, "fault", None)
    return fault


def discard(stream: Any) -> None:
    """Sends what a stream still holds nowhere, so that Python's own last flush does not fail."""
    with suppress(OSError, ValueError, AttributeError):  # it may have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_error(line: str) -> None:
    """A line on standard error, or nowhere if that cannot be written either."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)
