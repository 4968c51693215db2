"""Kinds of an op's arguments, by its schema: what is no tensor, or none that a kernel can read.

The ops' own checks compare shapes, dtypes and devices of tensors. A look at every value before them
would take 2 to 6 us a call, 5% of a picture by the emoji model: our kernels' calls are looked at
when something has gone wrong with them, and for what would go wrong in silence.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ._check import given, tensor, wrong


@dataclass(frozen=True, slots=True)
class _Argument:
    """kind: in torch's schema language. written: whether the op writes into it. count: of a list's
    items, where the schema tells it.
    """

    name: str
    kind: str
    optional: bool
    written: bool
    count: int | None


class Kinds:
    """names: of the arguments, in the schema's order. flags: (place, name) of those that are bools,
    which alone a kernel would read from anything.
    """

    def __init__(self, overload: Any):
        self._arguments = [_argument(argument) for argument in overload._schema.arguments]
        self._by_name = {argument.name: argument for argument in self._arguments}
        self.names = list(self._by_name)
        self.flags = [(i, a.name) for i, a in enumerate(self._arguments) if a.kind == "bool"]

    def check(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises RequestError for a value of another kind than the schema says."""
        named = ((self._by_name[name], value) for name, value in kwargs.items())
        for argument, value in (*zip(self._arguments, args, strict=False), *named):
            if value is not None or not argument.optional:
                _check_value(op, argument, value)


def are_flags(
    flags: list[tuple[int, str]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether the arguments at those places, as far as they are given, are True or False."""
    for place, name in flags:
        value = args[place] if place < len(args) else kwargs.get(name, False)
        if value is not True and value is not False:
            return False
    return True


def _argument(argument: Any) -> _Argument:
    kind = str(argument.type)
    optional = kind.startswith("Optional[")
    kind = kind[len("Optional[") : -1] if optional else kind
    written = argument.alias_info is not None and argument.alias_info.is_write
    return _Argument(argument.name, kind, optional, written, argument.N)


def _check_value(op: str, argument: _Argument, value: Any) -> None:
    if argument.kind == "Tensor":
        tensor(op, argument.name, value)
        if argument.written and value.is_neg():
            raise wrong(op, argument.name, "a tensor to write to", "a view that negates numbers")
        return
    expected, holds = _NUMBERS[argument.kind]
    if not holds(value):
        if argument.count is not None:
            expected = f"{argument.count} {expected}"
        raise wrong(op, argument.name, expected, given(value))


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)  # NumPy's numbers too, and the symbolic ones of torch.compile
    except (TypeError, RuntimeError):
        return False
    return True


def _is_real(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return False
    if isinstance(value, float | torch.SymFloat) or _is_whole(value):
        return True
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _are_whole(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_whole, value))


#: kind -> (what an error calls it, whether a value is of it).
_NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_real),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("a name", lambda value: isinstance(value, str)),
    "List[int]": ("whole numbers", _are_whole),
}
