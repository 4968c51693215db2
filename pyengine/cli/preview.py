"""Previews of unfinished pictures of token models: in a file, or in a terminal with graphics."""

import base64
import io
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import images as pictures
from ..errors import RequestError
from ..weights.text import show
from . import files

#: Seconds between two previews, and lines of the terminal for one.
PAUSE, LINES = 0.2, 12
#: Bytes of base64 in one command of kitty's protocol.
CHUNK = 4096


def check(path: Path | None) -> None:
    if path is not None and path.suffix.lower() != ".png":
        raise RequestError(f"preview: expected a .png file, given {show(str(path))}")
    if path is not None:
        files.check_writable(path, "preview")


def protocol(environment: Mapping[str, str], terminal: bool) -> str | None:
    """The terminal's graphics protocol: "kitty", "iterm" or None."""
    if not terminal or "TMUX" in environment:
        return None
    program, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or kind == "xterm-kitty" or program == "ghostty":
        return "kitty"
    return "iterm" if program in ("iTerm.app", "WezTerm") else None


def escape(image: Any, how: str) -> str:
    """The escape sequence that shows a PIL picture over LINES lines without moving the cursor."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    if how == "iterm":
        return f"\x1b7\x1b]1337;File=inline=1;height={LINES}:{data}\x07\x1b8"
    parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    commands = []
    for i, part in enumerate(parts):
        # The same picture and placement number: the new one takes the old one's place.
        keys = f"a=T,f=100,i=71,p=1,q=2,C=1,r={LINES}," if i == 0 else ""
        commands.append(f"\x1b_G{keys}m={int(i + 1 < len(parts))};{part}\x1b\\")
    return "".join(commands)


class Preview:
    """A callback_on_step_end that shows the tokens sampled so far.

    path: the file that it writes, or None; how: `protocol`'s answer. rows: of tokens in a picture.
    """

    def __init__(self, path: Path | None, how: str | None, grid: tuple[int, int]):
        self.path, self.how, self.grid = path, how, grid
        self.last, self.begun = float("-inf"), False

    def __call__(self, pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> None:
        if time.monotonic() - self.last < PAUSE:
            return
        self.show(pipe.preview(tensors["tokens"].view(-1, *self.grid)))
        self.last = time.monotonic()

    def show(self, images: list[Any]) -> None:
        image = images[0] if len(images) == 1 else pictures.grid(images)
        if self.path is not None:
            pictures.save_atomically(image, self.path)
        if self.how is not None:
            if not self.begun:
                sys.stdout.write("\n" * LINES + f"\x1b[{LINES}A")
            sys.stdout.write(escape(image, self.how))
            sys.stdout.flush()
        self.begun = True

    def finish(self, images: list[Any]) -> None:
        """Shows the finished pictures and moves the cursor below them."""
        self.show(images)
        if self.how is not None:
            sys.stdout.write(f"\x1b[{LINES}B\r")
            sys.stdout.flush()


def begin(path: Path | None, pipe: Any, as_json: bool) -> Preview | None:
    """A preview where a file is given or the terminal has graphics, else None."""
    can = hasattr(pipe, "preview")
    if path is not None and not can:
        raise RequestError("preview: this model does not draw one token after another")
    how = None if as_json or not can else protocol(os.environ, sys.stdout.isatty())
    return Preview(path, how, pipe.grid) if path is not None or how is not None else None
