"""Safe printing of what strangers wrote: names, values and long lists in error messages."""

import difflib
import re
from collections.abc import Iterable

LISTED = 20
#: How alike two names must be (difflib's ratio, 0 to 1) for one to be offered for the other.
ALIKE = 0.65
#: Of Python's own words for an object.
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def show(value: object, limit: int = 120) -> str:
    """`value` as printable ASCII, at most about `limit` characters.

    Tensor names and config values may hold terminal escapes, lone surrogates or megabytes.
    """
    if isinstance(value, str | bytes) and len(value) > limit:
        return f"{value[:limit]!a}... ({len(value)} characters)"
    if isinstance(value, list | tuple | dict) and len(value) > limit // 4:
        return f"a {type(value).__name__} of {len(value)} items"
    text = ascii(value)
    if not isinstance(value, str | bytes):  # where it lies in memory is nobody's to know
        text = " ".join(ADDRESS.sub("", text).split())  # arrays and tensors come in lines
    return text if len(text) <= 2 * limit else f"{text[: 2 * limit]}..."


def listing(items: Iterable[str], limit: int = LISTED) -> str:
    """Joins `items` with commas; after `limit` of them it says how many more there are."""
    items = list(items)
    shown = ", ".join(items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` is most likely a misspelling of; None where none is like it.

    Case, hyphens, underscores and spaces count for nothing: "DPM++ 2M" is like "dpm++_2m".
    """
    if not isinstance(name, str) or len(name) > 120:
        return None
    known: dict[str, str] = {}
    for candidate in names:
        known.setdefault(_plain(candidate), candidate)
    plain = _plain(name)
    found = difflib.get_close_matches(plain, known, n=1, cutoff=ALIKE)
    if not found and len(plain) > 3:  # "steps" for "num_inference_steps", if it is the only one
        found = [candidate for candidate in known if plain in candidate]
    return known[found[0]] if len(found) == 1 else None


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """ "; did you mean ...?" with the nearest of `names`, to end a message with; "" without one."""
    found = nearest(name, names)
    return "" if found is None else f"; did you mean {found}?"


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in "-_ ")
