"""The command line. Nothing here imports torch before a command needs it."""

import contextlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import CheckpointError, PyengineError
from . import streams

#: Exit statuses: something failed, a request that cannot be carried out, Ctrl-C as shells have it.
FAILED, REFUSED, STOPPED = 1, 2, 130
#: Set to see where an unexpected error came from.
DEBUG = "PYENGINE_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; errors are one sentence on standard error.

    0: done, also where the reader of our output, `head` say, has gone. 1: an unexpected error,
    findings of `doctor`, or standard output that cannot be written. 2: refused. 130: stopped.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with streams.guarded():
        try:
            status = _main(arguments)
        except OSError as e:
            if streams.output_fault() is None and not isinstance(e, BrokenPipeError):
                return _unexpected(e)
            status = 0
        return _flushed(status)


def _main(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # typer alone would take longer than this
        print(f"pyengine {__version__}")
        return 0
    try:
        if not arguments and "_PYENGINE_COMPLETE" not in os.environ:  # the shell's completion
            with contextlib.redirect_stdout(sys.stderr):
                run(["--help"])
            return REFUSED
        return run(arguments)
    except PyengineError as e:
        if isinstance(e, CheckpointError):  # begins with a file, not with an argument
            return complain(str(e), REFUSED)
        from .naming import in_options

        return complain(in_options(str(e), arguments), REFUSED)
    except KeyboardInterrupt:
        return complain("stopped", STOPPED)
    except OSError:
        raise  # standard output's, perhaps
    except Exception as e:
        return _unexpected(e)


def _unexpected(error: Exception) -> int:
    if os.environ.get(DEBUG):
        raise error
    kind = type(error).__name__
    return complain(f"unexpected {kind}: {error} (a bug; {DEBUG}=1 shows where)", FAILED)


def _flushed(status: int) -> int:
    """The exit status, once all that was printed has arrived."""
    fault = streams.output_fault()
    if fault is None:
        return status
    streams.discard(sys.stdout)
    if isinstance(fault, BrokenPipeError):
        return status
    why = fault.strerror or str(fault)
    return complain(f"standard output cannot be written: {why}", status or FAILED)


def run(arguments: Sequence[str]) -> int:
    from .app import app

    try:
        status = app(args=list(arguments), prog_name="pyengine", standalone_mode=False)
    except SystemExit as e:  # typer's way to leave where the reader of standard output has gone
        return e.code if isinstance(e.code, int) and streams.output_fault() is None else 0
    except Exception as e:
        # typer's own refusals, whichever click they come from: usage errors, files, aborts.
        if type(e).__name__ == "Abort":
            return complain("stopped", STOPPED)
        if not hasattr(e, "format_message"):
            raise
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message(), file=sys.stderr)
            return REFUSED
        from .naming import refusal

        context = getattr(e, "ctx", None)
        command = context.command_path if context is not None else "pyengine"
        return complain(f"{refusal(e)}; see `{command} --help`", REFUSED)
    if status == STOPPED:  # typer turns KeyboardInterrupt into this
        return complain("stopped", STOPPED)
    return status if isinstance(status, int) else 0


def complain(text: str, status: int) -> int:
    """One line on standard error; control characters of whoever wrote the text are not shown."""
    line = "".join(c if c.isprintable() else " " for c in text)
    streams.say_error(f"pyengine: {line}")
    return status


def warn(text: str) -> None:
    complain(f"warning: {text}", 0)
