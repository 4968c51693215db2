"""What calls use where the caller says nothing."""

import dataclasses
from typing import Any


def bounded(default: Any, low: float, high: float) -> Any:
    """A dataclass field whose value in a file must lie between low and high."""
    return dataclasses.field(default=default, metadata={"min": low, "max": high})
