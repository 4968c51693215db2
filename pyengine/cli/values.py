"""Values of options: how they are read, what refuses them, and what a shell's completion offers."""

import glob
import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperCommand

from ..pipelines import argument_kinds, arguments
from ..pipelines.shipped_names import shipped_names

MODELS = shipped_names()
#: Held equal to their lists in pyengine.pipelines by a test too: these must cost no import of it.
DTYPES = ("float32", "float16", "bfloat16")
TIERS = ("int8", "fp8")
#: Held equal to pyengine.preprocess.KINDS by a test.
CONTROL_KINDS = ("canny", "gray", "invert", "tile")
#: Held equal to pyengine.adapters.PRESETS by a test.
PRESETS = ("lcm", "tcd", "hyper-sd", "hyper-sd-unified", "lightning", "turbo")
DEVICES = ("auto", "cpu", "cuda", "cuda:0")


class Command(TyperCommand):
    """A command whose help names no class of Python's beside its argument."""

    def get_help(self, ctx: Any) -> str:
        return re.sub(
            r"(?m)^(  [A-Z]+(?:\.{3})?)( <[\w\[\]]+>)",
            lambda m: m[1] + " " * len(m[2]),
            super().get_help(ctx),
        )


def whole(low: int | None = None) -> Callable[[str], int]:
    """Reads a whole number of at least `low`; the upper bounds are the API's to check."""
    expected = "a whole number" + ("" if low is None else f" from {low}")

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or (low is not None and number < low):
            raise _refused(expected, text)
        return number

    return read


def real(above: float | None = None) -> Callable[[str], float]:
    """Reads a number, larger than `above`."""
    expected = "a number" + ("" if above is None else f" above {above:g}")

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number) or (above is not None and number <= above):
            raise _refused(expected, text)
        return number

    return read


def _refused(expected: str, text: object) -> typer.BadParameter:
    from ..weights.text import show  # with torch: not for a --help

    given = text if isinstance(text, int | float) else show(text)
    return typer.BadParameter(f"expected {expected}, given {given}")


def one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """What completion offers for an option that takes one of `names`."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Names of models that ship, then folders and .safetensors files."""
    paths = glob.glob(glob.escape(os.path.expanduser(incomplete)) + "*")
    usable = [
        p + "/" if os.path.isdir(p) else p
        for p in sorted(paths)
        if os.path.isdir(p) or p.endswith(".safetensors")
    ]
    return [*one_of(MODELS)(incomplete), *usable]


# --- options of calls -----------------------------------------------------------------------------


def call_option(row: argument_kinds.Argument) -> inspect.Parameter:
    """The parameter of a command that gives an argument of the call; None stands for not given."""
    kind = row.kind
    assert row.option is not None
    assert not isinstance(kind, argument_kinds.Data | argument_kinds.Value)
    known: dict[str, Any] = {"metavar": kind.metavar, "help": row.help}
    if row.shown is not None:
        known["show_default"] = row.shown
    if isinstance(kind, argument_kinds.Whole | argument_kinds.Real):
        known["parser"] = whole() if isinstance(kind, argument_kinds.Whole) else real()
    elif names := getattr(kind, "names", ()):
        known["autocompletion"] = one_of(names)
    value = Path if isinstance(kind, argument_kinds.Picture) else kind.type
    return inspect.Parameter(
        row.option,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[value | None, Option(**known)],
    )


def with_call_options(after: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Gives a command, which takes **call, the options of the table of arguments, after one of its
    own.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
        place = [p.name for p in own].index(after) + 1
        options = [call_option(row) for row in arguments.OPTIONS]
        parameters = [*own[:place], *options, *own[place:]]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
            parameters=parameters
        )
        command.__annotations__ |= {p.name: p.annotation for p in options}
        return command

    return decorate


# --- options of several commands ------------------------------------------------------------------

MODEL = "Folder, .safetensors file, Hub id, or a model that ships: emoji, emoji-ar."
Model = Annotated[
    str | None,
    Option(
        "--model", "-m", metavar="MODEL", autocompletion=models, show_default="emoji", help=MODEL
    ),
]
Models = Annotated[
    list[str] | None,
    Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=models,
        show_default="emoji",
        help=f"{MODEL} Again: a cascade's next stage.",
    ),
]
Device = Annotated[
    str,
    Option(metavar="DEVICE", autocompletion=one_of(DEVICES), help="auto, cpu, cuda or cuda:N."),
]
#: The same, None where it is not given.
ChosenDevice = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        autocompletion=one_of(DEVICES),
        show_default="auto",
        help="auto, cpu, cuda or cuda:N.",
    ),
]
Dtype = Annotated[
    str | None,
    Option(
        metavar="DTYPE",
        autocompletion=one_of(DTYPES),
        show_default="float32",
        help="float32, float16 (fp16) or bfloat16 (bf16).",
    ),
]
Preset = Annotated[
    str | None,
    Option(
        metavar="NAME",
        autocompletion=one_of(PRESETS),
        show_default="none",
        help="The few-step model that it is, whose sampler, steps and guidance are used: "
        + ", ".join(PRESETS)
        + ".",
    ),
]
Variant = Annotated[str | None, Option(metavar="NAME", help="Weights of a variant, such as fp16.")]
IgnoredKeys = Annotated[
    list[str] | None,
    Option(
        "--ignore-config-key",
        metavar="KEY",
        show_default="none",
        help="A key of the model's configs that may stay unread; can be repeated.",
    ),
]
Json = Annotated[bool, Option("--json", help="Print the result as JSON, and nothing else.")]
