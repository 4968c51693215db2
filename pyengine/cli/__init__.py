"""The command line. Nothing here imports torch before a command needs it."""

import contextlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PyengineError

#: Exit statuses: a request that cannot be carried out, and Ctrl-C as shells have it.
REFUSED, STOPPED = 2, 130
#: Set to see where an unexpected error came from.
DEBUG = "PYENGINE_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; errors are one sentence on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
        return complain(str(e), REFUSED)
    except KeyboardInterrupt:
        return complain("stopped", STOPPED)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        if os.environ.get(DEBUG):
            raise
        return complain(f"unexpected {type(e).__name__}: {e} (a bug; {DEBUG}=1 shows where)", 1)


def run(arguments: Sequence[str]) -> int:
    from .app import app

    try:
        status = app(args=list(arguments), prog_name="pyengine", standalone_mode=False)
    except Exception as e:
        # typer's own refusals, whichever click they come from: usage errors, files, aborts.
        if type(e).__name__ == "Abort":
            return complain("stopped", STOPPED)
        if not hasattr(e, "format_message"):
            raise
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message(), file=sys.stderr)
            return REFUSED
        context = getattr(e, "ctx", None)
        command = context.command_path if context is not None else "pyengine"
        return complain(f"{e.format_message().rstrip('.')}; see `{command} --help`", REFUSED)
    if status == STOPPED:  # typer turns KeyboardInterrupt into this
        return complain("stopped", STOPPED)
    return status if isinstance(status, int) else 0


def complain(text: str, status: int) -> int:
    """One line on standard error; control characters of whoever wrote the text are not shown."""
    line = "".join(c if c.isprintable() else " " for c in text)
    print(f"pyengine: {line}", file=sys.stderr)
    return status


def warn(text: str) -> None:
    complain(f"warning: {text}", 0)
