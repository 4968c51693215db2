"""Strict reading of config.json into a dataclass: every field checked, every problem named."""

import dataclasses
import sys
import types
import typing
from typing import Any, Literal, TypeVar, Union

from ..errors import ConfigError
from .text import listing, show

T = TypeVar("T")
MAX_ITEMS = 64
MAX_INT = 1 << 31
MAX_FLOAT = sys.float_info.max
MAX_STRING = 256


def read_config(cls: type[T], data: object, where: str = "config.json") -> T:
    """An instance of the dataclass `cls` from the parsed JSON object `data`.

    Every field is checked against its annotation: int, float (an int will do), bool, str, None,
    Literal, tuple[...] (from a JSON list), unions of these, nested dataclasses; and against
    `field(metadata={"min": ..., "max": ...})`, which hold for each number in the field, and
    {"max_items": ...} for lists (64 unless told). Numbers are finite; integers lie within 2**31.
    Unknown keys are refused unless they begin with "_" or are in `cls.IGNORED_KEYS`. If `cls` has
    `CLASS_NAMES`, a "_class_name" in `data` must be one of them.

    Raises ConfigError, which names `where` and lists every problem.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {show(data)}")
    problems: list[str] = []
    named = data.get("_class_name")
    allowed = getattr(cls, "CLASS_NAMES", None)
    if named is not None and allowed is not None and named not in allowed:
        problems.append(f"_class_name is {show(named)}, expected {' or '.join(allowed)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = _unknown_keys(data, fields, getattr(cls, "IGNORED_KEYS", frozenset()))
    if unknown:
        problems.append(f"unknown keys {listing(map(show, unknown))}")
    values = {}
    for name, field in fields.items():
        if name in data:
            try:
                values[name] = _convert(data[name], hints[name], field.metadata, f"{where}: {name}")
            except _MismatchError as e:
                problems.append(f"{name} {e}")
            except ConfigError as e:
                problems.append(str(e))
        elif field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"{name} is missing")
    if problems:
        raise ConfigError(f"{where}: {listing(problems)}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (ValueError, ZeroDivisionError) as e:
        raise ConfigError(f"{where}: {e}") from e


class _MismatchError(Exception):
    """A value does not fit its annotation; the text says what was expected and what came."""


def _unknown_keys(data: dict, fields: dict, ignored: frozenset[str]) -> list[str]:
    return sorted(k for k in data if not (k in fields or k in ignored or k.startswith("_")))


def _convert(value: Any, hint: Any, metadata: typing.Mapping, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint), hint, metadata, where)
    if origin is Literal:
        choices = typing.get_args(hint)
        # `in` alone would take 1 for True.
        if any(value == c and type(value) is type(c) for c in choices):
            return value
        raise _MismatchError(f"is {show(value)}, expected {' or '.join(map(show, choices))}")
    if origin in (tuple, list):
        return _convert_items(value, typing.get_args(hint), hint, metadata, where)
    if dataclasses.is_dataclass(hint):
        return read_config(hint, value, where)
    return _convert_scalar(value, hint, metadata)


def _convert_union(value: Any, args: tuple, hint: Any, metadata: typing.Mapping, where: str) -> Any:
    if isinstance(value, dict):  # only a nested dataclass takes one, and says best what is wrong
        for arg in filter(dataclasses.is_dataclass, args):
            return _convert(value, arg, metadata, where)
    reasons = []
    # An exact type first, so that 1 stays an int where int | float is asked for.
    for arg in sorted(args, key=lambda a: a is not type(value)):
        try:
            return _convert(value, arg, metadata, where)
        except (_MismatchError, ConfigError) as e:
            reasons.append(str(e))
    # The reason of the alternative that fits the value's own type says most (a bound, say).
    if type(value) in args or type(value) is list:
        raise _MismatchError(next((r for r in reasons if "must be" not in r), reasons[0]))
    raise _MismatchError(f"must be {_name(hint)}, found {show(value)}")


def _convert_items(value: Any, args: tuple, hint: Any, metadata: typing.Mapping, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _MismatchError(f"must be {_name(hint)}, found {show(value)}")
    most = metadata.get("max_items", MAX_ITEMS)
    if len(value) > most:
        raise _MismatchError(f"has {len(value)} items, at most {most} are read")
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    elif typing.get_origin(hint) is list:
        args = args * len(value)
    if len(args) != len(value):
        raise _MismatchError(f"has {len(value)} items, expected {len(args)}")
    items = [_convert(v, a, metadata, where) for v, a in zip(value, args, strict=True)]
    return typing.get_origin(hint)(items)


def _convert_scalar(value: Any, hint: Any, metadata: typing.Mapping) -> Any:
    if hint is Any:
        return value
    if hint is None or hint is type(None):
        if value is None:
            return None
        raise _MismatchError(f"must be null, found {show(value)}")
    accepted = (int, float) if hint is float else (hint,)
    if type(value) not in accepted:  # not isinstance: a bool is no number here
        raise _MismatchError(f"must be {_name(hint)}, found {show(value)}")
    if hint is str and len(value) > MAX_STRING:
        raise _MismatchError(f"has {len(value)} characters, at most {MAX_STRING} are read")
    if hint in (int, float):
        low = metadata.get("min", -MAX_INT if hint is int else -MAX_FLOAT)
        high = metadata.get("max", MAX_INT if hint is int else MAX_FLOAT)
        if not low <= value <= high:  # NaN fails this too
            raise _MismatchError(f"is {show(value)}, expected {low} to {high}")
        value = hint(value)
    return value


def _name(hint: Any) -> str:
    if hint is None or hint is type(None):
        return "null"
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(a) for a in typing.get_args(hint))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        return names.get(hint, hint.__name__)
    return str(hint).replace("tuple", "list").replace(", ...", "")
