"""Errors for the command line, with options in place of the API's arguments."""

import re
from collections.abc import Sequence
from typing import Any

from ..pipelines import arguments

#: Options by the arguments of calls that they give.
OPTIONS = {row.name: row.option or "" for row in arguments.OPTIONS} | {
    "num_images_per_prompt": "number"
}
_FIELDS = re.compile(r"([\w, -]{1,80}): ")


def in_options(text: str, arguments: Sequence[str]) -> str:
    """An error's text, with fields replaced by the options of the command in `arguments`.

    "num_inference_steps: expected ..." -> "--steps: expected ..."; what is no option stays.
    """
    known = _options(arguments)
    match = _FIELDS.match(text)
    begin = 0
    head = ""
    if match is not None:
        fields = [_option(field, known) for field in match[1].split(", ")]
        if all(fields):
            head, begin = ", ".join(map(str, fields)) + ": ", match.end()
    return head + re.sub(
        r"\b[a-z]+(?:_[a-z]+)+\b", lambda m: _option(m[0], known) or m[0], text[begin:]
    )


def refusal(error: Any) -> str:
    """typer's own refusal in the same form: "--steps: expected a whole number from 1, given 0"."""
    text = str(error.format_message()).rstrip(".")
    param, message = getattr(error, "param", None), getattr(error, "message", None)
    if param is None or not isinstance(message, str) or not message.startswith("expected "):
        return text
    names = [name for name in param.opts if name.startswith("--")] or [param.name]
    return f"{names[0]}: {message}"


def _option(field: str, known: set[str]) -> str | None:
    name = "--" + OPTIONS.get(field, field).replace("_", "-")
    return name if name in known else None


def _options(arguments: Sequence[str]) -> set[str]:
    """The long options of the command that the arguments begin with."""
    from typer.main import get_command

    from .app import app

    command: Any = get_command(app)
    for word in arguments:
        below = getattr(command, "commands", {})
        if word not in below:
            break
        command = below[word]
    return {name for param in command.params for name in param.opts if name.startswith("--")}
