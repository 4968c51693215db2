"""Kinds of an op's arguments, by its schema, checked before anything of a value is asked.

The ops' own checks compare shapes, dtypes and devices; they may take a tensor for a tensor.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ._check import given, tensor, wrong

_PLAIN = (Tensor, Parameter)
#: The kind of a tensor that an op writes into.
_WRITTEN = "written Tensor"


def of(overload: Any) -> "Kinds":
    """The kinds of a torch operator's arguments."""
    arguments = []
    for argument in overload._schema.arguments:
        kind, optional = _kind(str(argument.type))
        if argument.alias_info is not None and argument.alias_info.is_write:
            kind = _WRITTEN
        arguments.append((argument.name, kind, optional))
    return Kinds(arguments)


class Kinds:
    """names: of the arguments, in the schema's order."""

    def __init__(self, arguments: list[tuple[str, str, bool]]):
        self.names = [name for name, _, _ in arguments]
        self._arguments = arguments
        self._by_name = {argument[0]: argument for argument in arguments}

    def check(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Raises RequestError for a value of another kind than the schema says.

        Returns whether every tensor is one that kernels may read by its address: tensors of other
        classes, and views that stand for negated numbers, go through torch's dispatcher.
        """
        plain = True
        for (name, kind, optional), value in zip(self._arguments, args, strict=False):
            plain &= _fits(op, name, kind, optional, value)
        for name, value in kwargs.items():
            plain &= _fits(op, *self._by_name[name], value)
        return plain


def _kind(schema: str) -> tuple[str, bool]:
    """("Tensor", True) for "Optional[Tensor]"."""
    optional = schema.startswith("Optional[")
    return (schema[len("Optional[") : -1] if optional else schema), optional


def _fits(op: str, name: str, kind: str, optional: bool, value: Any) -> bool:
    if value is None and optional:
        return True
    if kind == _WRITTEN and isinstance(value, Tensor) and value.is_neg():
        raise wrong(op, name, "a tensor to write to", "a view that negates its numbers")
    if kind in ("Tensor", _WRITTEN):
        known = type(value) in _PLAIN
        if known and value.layout is torch.strided and not value.is_nested:
            return not value.is_neg()
        tensor(op, name, value)
        return known
    expected, holds = _NUMBERS[kind]
    if not holds(value):
        raise wrong(op, name, expected, given(value))
    return True


def _is_whole(value: Any) -> bool:
    if isinstance(value, int):  # the usual case first
        return not isinstance(value, bool)
    if isinstance(value, Tensor):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _is_real(value: Any) -> bool:
    if isinstance(value, float):
        return True
    return not isinstance(value, bool | str | bytes | Tensor) and (
        _is_whole(value) or isinstance(value, torch.SymFloat) or _is_numpy_float(value)
    )


def _is_numpy_float(value: Any) -> bool:
    kind = getattr(value, "dtype", None)
    return getattr(kind, "kind", "") == "f" and getattr(value, "ndim", None) == 0


#: kind -> (what an error calls it, whether a value is of it).
_NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_real),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("a name", lambda value: isinstance(value, str)),
    "List[int]": (
        "whole numbers",
        lambda value: isinstance(value, tuple | list | torch.Size) and all(map(_is_whole, value)),
    ),
}
