"""Safe printing of what strangers wrote: names, values and long lists in error messages."""

from collections.abc import Iterable

LISTED = 20


def show(value: object, limit: int = 120) -> str:
    """`value` as printable ASCII, at most about `limit` characters.

    Tensor names and config values may hold terminal escapes, lone surrogates or megabytes.
    """
    if isinstance(value, str | bytes) and len(value) > limit:
        return f"{value[:limit]!a}... ({len(value)} characters)"
    if isinstance(value, list | tuple | dict) and len(value) > limit // 4:
        return f"a {type(value).__name__} of {len(value)} items"
    text = ascii(value)
    return text if len(text) <= 2 * limit else f"{text[: 2 * limit]}..."


def listing(items: Iterable[str], limit: int = LISTED) -> str:
    """Joins `items` with commas; after `limit` of them it says how many more there are."""
    items = list(items)
    shown = ", ".join(items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
