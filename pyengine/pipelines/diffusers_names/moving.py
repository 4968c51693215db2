"""The forms of `pipe.to(...)`."""

from typing import Any

import torch

from ...errors import RequestError, UnknownArgumentError
from ...weights.text import did_you_mean, show

_NAMES = ("device", "dtype", "silence_dtype_warnings")


def read_destination(
    args: tuple[Any, ...], device: Any, dtype: Any, others: dict[str, Any]
) -> tuple[Any, Any]:
    """(device or None, dtype or None) of a call to(*args, device=device, dtype=dtype)."""
    for name in others:
        if name not in ("hpu_migration", "sdp_on_bf16"):
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: to() got an unexpected keyword argument"
                f" {show(name)}{did_you_mean(name, _NAMES)}"
            )
    if len(args) > 2:
        raise RequestError(f"to: expected a device and a dtype at most, given {len(args)} values")
    if len(args) == 2 and _is_dtype(args[0]):
        raise RequestError("to: expected the device before the dtype, given them the other way")
    by_place: list[Any] = [None, None]
    if len(args) == 1 and _is_dtype(args[0]):
        by_place[1] = args[0]
    else:
        by_place[: len(args)] = args
    for name, first, second in zip(_NAMES, by_place, (device, dtype), strict=False):
        if first is not None and second is not None:
            raise RequestError(f"{name}: to() was given {show(str(first))} and {show(str(second))}")
    place = by_place[0] if device is None else device
    if isinstance(place, int) and not isinstance(place, bool):
        place = f"cuda:{place}"  # as torch.device(0)
    return place, by_place[1] if dtype is None else dtype


def _is_dtype(value: Any) -> bool:
    """Whether a lone argument means a dtype: torch's, or the name of one."""
    if isinstance(value, torch.dtype):
        return True
    return isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)


def same_device(a: torch.device, b: torch.device) -> bool:
    """Whether they are one device; "cuda" without a number is any."""
    return a.type == b.type and (a.index is None or b.index is None or a.index == b.index)
