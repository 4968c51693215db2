"""An op's schema in torch's language, from the signature of its specification."""

import inspect
import types
from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

_KINDS = {Tensor: "Tensor", int: "int", float: "float", bool: "bool", str: "str"}


def schema_of(specification: Callable[..., Any], writes: Sequence[str] = ()) -> str:
    """As "(Tensor x, Tensor? bias=None, *, bool silu=False) -> Tensor", of annotated arguments.

    writes: names of the tensors that the op writes into, "Tensor(a!)" in the schema. A result that
    is a tensor or a tuple of tensors is always the tuple, since a schema has as many results
    whatever the arguments are.

    Raises TypeError for an annotation that a schema has no word for, ValueError where `writes`
    names no argument.
    """
    hints = get_type_hints(specification)
    parameters = inspect.signature(specification).parameters
    if unknown := set(writes) - set(parameters):
        raise ValueError(f"{specification.__name__}: no argument {', '.join(sorted(unknown))}")
    written = [name for name in parameters if name in writes]
    words = []
    for name, parameter in parameters.items():
        if parameter.kind == parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        kind = _kind(hints[name])
        if name in written:  # named a, b, c in the order of the arguments
            kind = kind.replace("Tensor", f"Tensor({ascii_lowercase[written.index(name)]}!)")
        default = "" if parameter.default is parameter.empty else f"={_word(parameter.default)}"
        words.append(f"{kind} {name}{default}")
    return f"({', '.join(words)}) -> {_results(hints['return'])}"


def _kind(hint: Any) -> str:
    if hint in _KINDS:
        return _KINDS[hint]
    arguments = get_args(hint)
    if _is_union(hint) and len(arguments) == 2 and type(None) in arguments:
        (given,) = (a for a in arguments if a is not type(None))
        return f"{_kind(given)}?"
    if get_origin(hint) is tuple and set(arguments) == {int}:
        return f"int[{len(arguments)}]"
    raise TypeError(f"an op's schema has no word for {hint}")


def _results(hint: Any) -> str:
    choices = get_args(hint) if _is_union(hint) else (hint,)
    tuples = [choice for choice in choices if get_origin(choice) is tuple]
    if len(tuples) == 1:
        return f"({', '.join(_kind(item) for item in get_args(tuples[0]))})"
    return _kind(hint)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _word(default: Any) -> str:
    if isinstance(default, str):
        return f'"{default}"'
    return str(list(default)) if isinstance(default, tuple) else repr(default)
