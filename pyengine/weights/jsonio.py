"""JSON from strangers: bounded in size, depth and number of values; no duplicate keys, no NaN."""

import json
import math
import os
import re
from typing import Any

from ..errors import ConfigError, PyengineError
from .files import read_small
from .text import show

# The header of a Stable Diffusion XL file takes 0.4 MB; CLIP's tokenizer.json takes 2.2 MB and
# 200,000 values. A value costs up to 250 bytes once parsed (a dict with one key), so that these
# limits together keep the memory that a file can make us take under 64 MB.
MAX_BYTES = 4 << 20
MAX_VALUES = 300_000
MAX_DEPTH = 32
MAX_DIGITS = 19
#: int(1e30): transformers' model_max_length of a tokenizer that was given none.
NO_LIMIT = "1000000000000000019884624838656"

_STRING = re.compile(rb'"[^"]*"?')  # once escapes are gone; always matches, so takes linear time
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def load_json(
    path: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    roots: tuple[str, ...] | None = None,
    unbounded: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The JSON object in the file `path`.

    path: a regular file of at most `max_bytes` UTF-8 bytes. roots: see files.allowed_roots.
    unbounded: keys whose value may be -Infinity, which is not JSON but which diffusers writes.
    Raises ConfigError if it is not JSON, not an object, holds a duplicate key, NaN, Infinity, an
    integer of more than 19 digits (but NO_LIMIT), more than 300,000 values or 32 levels;
    CheckpointError if the file is missing, too long or no regular file.
    """
    return parse_object(read_small(path, max_bytes, roots), str(path), unbounded=unbounded)


def parse_object(
    data: bytes,
    where: str,
    *,
    max_depth: int = MAX_DEPTH,
    max_values: int = MAX_VALUES,
    error: type[PyengineError] = ConfigError,
    unbounded: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The JSON object in `data`, with the limits of `load_json` unless told; raises `error`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise error(f"{where}: not UTF-8 at byte {e.start}") from None
    _check_limits(data, where, max_depth, max_values, error)

    def integer(digits: str) -> int:
        if len(digits.lstrip("-")) > MAX_DIGITS and digits != NO_LIMIT:
            raise error(f"{where}: an integer of {len(digits)} digits, {show(digits, 24)}")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise error(f"{where}: the number {show(digits, 24)} is out of range")
        return value

    infinities = []  # those read, less those that turned out to belong to an unbounded key

    def constant(name: str) -> float:
        if name != "-Infinity" or not unbounded:
            raise error(f"{where}: {name} is not JSON")
        infinities.append(name)
        return -math.inf

    def pairs(items: list[tuple[str, object]]) -> dict[str, Any]:
        result = dict(items)
        for key, value in items:
            if key in unbounded and value == -math.inf:
                infinities.pop()
        if len(result) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    raise error(f"{where}: the key {show(key)} comes twice")
                seen.add(key)
        return result

    try:
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=constant,
        )
    except json.JSONDecodeError as e:
        raise error(f"{where}: not JSON: {e.msg} at line {e.lineno}, column {e.colno}") from None
    if infinities:
        allowed = ", ".join(sorted(unbounded))
        raise error(f"{where}: -Infinity is not JSON (only {allowed} may be that)")
    if b"\\ud" in data.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise error(f"{where}: an escape \\ud... stands for half a character") from None
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _check_limits(
    data: bytes, where: str, max_depth: int, max_values: int, error: type[PyengineError]
) -> None:
    """Bounds nesting and the number of values before the parser takes memory for them."""
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    values = max(values, data.count(b'"') // 4)
    if values > max_values:
        raise error(f"{where}: about {values} JSON values, at most {max_values} are read")
    bare = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b""))
    depth = 0
    for byte in bare.translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > max_depth:
            raise error(f"{where}: nested more than {max_depth} levels deep")
        if depth < 0:
            raise error(f"{where}: not JSON: a bracket closes that none opened")
