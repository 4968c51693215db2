"""What arguments of calls may be: the kinds that the table of arguments is written in."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int
    type: ClassVar[type] = int
    metavar: ClassVar[str] = "N"

    def check(self, name: str, value: Any) -> Any:
        from ..jobs import checks

        return checks.integer(name, value, self.low, self.high)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`."""

    low: float
    high: float
    type: ClassVar[type] = float
    metavar: ClassVar[str] = "X"

    def check(self, name: str, value: Any) -> Any:
        from ..jobs import checks

        return checks.real(name, value, self.low, self.high)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    names: tuple[str, ...]
    type: ClassVar[type] = str
    metavar: ClassVar[str] = "NAME"

    def check(self, name: str, value: Any) -> Any:
        from ..jobs import checks

        return checks.choice(name, value, self.names)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names)}


@dataclass(frozen=True)
class Words:
    """A text, which the pipeline checks; `names`: those that a shell's completion offers."""

    metavar: str = "PROMPT"
    names: tuple[str, ...] = ()
    type: ClassVar[type] = str

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True)
class Picture:
    """A picture, which the pipeline checks; on the command line a file."""

    metavar: ClassVar[str] = "FILE"


@dataclass(frozen=True)
class Loaded:
    """A model beside the pipeline's own, or its place; on the command line its place. No other
    program's request may name one: it would choose what is read here.
    """

    type: ClassVar[type] = str
    metavar: ClassVar[str] = "MODEL"
    names: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Weighted:
    """Loaded things by name with a weight each, a number or a mapping by part, which the pipeline
    checks; as a text "name:0.8,other", or JSON.
    """

    low: float
    high: float
    type: ClassVar[type] = str
    metavar: ClassVar[str] = "NAME:WEIGHT"
    names: ClassVar[tuple[str, ...]] = ()

    def schema(self) -> dict[str, Any]:
        weight = {"type": "number", "minimum": self.low, "maximum": self.high}
        either = {"anyOf": [weight, {"type": "object"}]}
        return {"type": "object", "additionalProperties": either}


@dataclass(frozen=True)
class Data:
    """A number, a text, or a list of numbers: what JSON can hold. The pipeline checks it."""


@dataclass(frozen=True)
class Value:
    """Anything else, of Python: tensors, functions. The pipeline checks it; no other program's
    request can hold one.
    """


Kind = Whole | Real | Choice | Words | Picture | Loaded | Weighted | Data | Value


@dataclass(frozen=True)
class Argument:
    """An argument of calls.

    kind: what it may be. own: whether pipelines check it themselves, since its bounds or its
    default are the model's, or since it may be a list. nothing: the value, besides None, that asks
    a pipeline without the argument for nothing. everywhere: every pipeline has it.
    option: its name on the command line, None where it is not there. help, shown: there, what it
    does, and the default as the help shows it. tokens: only models that draw tokens have it.
    usual: from what to what people set it, where that is less than it may be: a slider's ends.
    setting: its name in a picture's settings, None where no picture remembers it. asked: whether
    these hold what was asked for, None included; else they hold what the run came to.
    """

    name: str
    kind: Kind = Value()
    own: bool = False
    nothing: Any = None
    everywhere: bool = False
    option: str | None = None
    help: str = ""
    shown: str | None = None
    tokens: bool = False
    usual: tuple[float, float] | None = None
    setting: str | None = None
    asked: bool = False

    @property
    def simple(self) -> bool:
        """Whether `checked` checks it."""
        return isinstance(self.kind, Whole | Real | Choice) and not self.own
