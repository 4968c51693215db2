"""Strict reading of config.json into a dataclass: every field checked, every problem named."""

import dataclasses
import sys
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from ..errors import ConfigError, RequestError
from .text import listing, show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
MAX_ITEMS = 64
MAX_INT = 1 << 31
MAX_FLOAT = sys.float_info.max
MAX_STRING = 256

#: A key that `ignoring` adds to a parsed config: which of its unknown keys may be left unread. As
#: a key it survives what schedulers do to their configs, which is to copy and merge them. Its value
#: is a tuple, which no JSON gives: a file cannot ask for this by itself.
IGNORE = "_ignore_config_keys"


def check_ignored(keys: object) -> tuple[str, ...]:
    """`ignore_config_keys` as a tuple; raises RequestError unless it is a list of names."""
    if isinstance(keys, list | tuple | set | frozenset) and all(isinstance(k, str) for k in keys):
        return tuple(sorted(keys))
    raise RequestError(f"ignore_config_keys: expected a list of names, given {show(keys)}")


def ignoring(config: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """`config`, marked so that `read_config` takes `keys` for known ones that do nothing."""
    return {**config, IGNORE: keys} if keys else config


def ignored_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that `ignoring` was told."""
    keys = config.get(IGNORE)
    return keys if isinstance(keys, tuple) else ()


def read_config(
    cls: type[T],
    data: object,
    where: str = "config.json",
    *,
    of_checkpoint: bool = True,
    bounds: Mapping[str, Mapping[str, float]] | None = None,
) -> T:
    """An instance of the dataclass `cls` from the parsed JSON object `data`.

    Every field is checked against its annotation: int (a whole float will do), float (an int will
    do), bool, str, None, Literal, tuple[...] (from a JSON list), unions of these, nested
    dataclasses; and against `field(metadata={"min": ..., "max": ...})`, which hold for each number
    in the field, and {"max_items": ...} for lists (64 unless told). Numbers are finite; integers
    lie within 2**31. Unknown keys are refused unless they begin with "_", are in
    `cls.IGNORED_KEYS`, are null, false or empty (an option that is off changes nothing), or were
    named to `ignoring`. If `cls` has `CLASS_NAMES`, a "_class_name" in `data` must be one of them.
    of_checkpoint: whether a caller can name unknown keys, as the error then says. bounds: metadata
    of fields that do not have it themselves.

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
    left_out = ignored_in(data)
    unknown = unknown_keys(data, {*fields, *getattr(cls, "IGNORED_KEYS", ()), *left_out})
    if unknown:
        problems.append(f"unknown keys {listing(map(show, unknown))}")
    values = {}
    for name, field in fields.items():
        if name in data:
            try:
                value = data[name]
                if isinstance(value, dict):
                    value = ignoring(value, left_out)
                metadata = {**(bounds or {}).get(name, {}), **field.metadata}
                values[name] = _convert(value, hints[name], metadata, f"{where}: {name}")
            except _MismatchError as e:
                problems.append(f"{name} {e}")
            except ConfigError as e:
                problems.append(str(e))
        elif field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"{name} is missing")
    if problems:
        hint = f" ({how_to_ignore(unknown)})" if unknown and of_checkpoint else ""
        raise ConfigError(f"{where}: {listing(problems)}{hint}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (ValueError, ZeroDivisionError) as e:
        raise ConfigError(f"{where}: {e}") from e


class _MismatchError(Exception):
    """A value does not fit its annotation; the text says what was expected and what came."""


def unknown_keys(data: Mapping[str, object], known: Collection[str]) -> list[str]:
    """The keys of `data` that are not `known` and ask for something, sorted."""
    return sorted(
        key
        for key, value in data.items()
        if not (key in known or key.startswith("_") or is_off(value))
    )


def is_off(value: object) -> bool:
    """Whether an unknown option with this value asks for nothing: null, false or empty."""
    return value is None or value is False or value in ("", [], {})


def how_to_ignore(keys: Iterable[str]) -> str:
    """What to write in order to load a checkpoint that has these unknown keys."""
    names = list(keys)
    text = f"[{listing(map(show, names))}]" if len(names) <= 4 else "[...]"
    return f"to load it without them: ignore_config_keys={text}"


def _convert(value: Any, hint: Any, metadata: Mapping[str, Any], where: str) -> Any:
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
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_config(hint, value, where)
    return _convert_scalar(value, hint, metadata)


def _convert_union(
    value: Any, args: tuple[Any, ...], hint: Any, metadata: Mapping[str, Any], where: str
) -> Any:
    if isinstance(value, dict):  # only a nested dataclass takes one, and says best what is wrong
        for arg in filter(dataclasses.is_dataclass, args):
            return _convert(value, arg, metadata, where)
    if float not in args:
        value = _whole(value)
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


def _convert_items(
    value: Any, args: tuple[Any, ...], hint: Any, metadata: Mapping[str, Any], where: str
) -> Any:
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


def _whole(value: Any) -> Any:
    """A whole float as an int: JSON has one kind of number, and 1000.0 is 1000."""
    return int(value) if type(value) is float and value.is_integer() else value


def _convert_scalar(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    if hint is Any:
        return value
    if hint is None or hint is type(None):
        if value is None:
            return None
        raise _MismatchError(f"must be null, found {show(value)}")
    if hint is int:
        value = _whole(value)
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
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(show, typing.get_args(hint)))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        return names.get(hint, hint.__name__)
    return str(hint).replace("tuple", "list").replace(", ...", "")
