"""Weights in 8 bits with a factor beside them, as ComfyUI and others save them ("scaled fp8").

<layer>.weight                              F8_E4M3 or F8_E5M2
<layer>.scale_weight, <layer>.weight_scale  what to multiply it by: one number, or one per row
<layer>.scale_input, <layer>.input_scale    for matrix products in 8 bits, which are not done here
<layer>.comfy_quant                         JSON in bytes that names the format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .jsonio import parse_object
from .text import listing, show

#: Stored types that are widened when they are read, and the narrowest that holds their values.
FLOATS_8 = {torch.float8_e4m3fn: torch.bfloat16, torch.float8_e5m2: torch.bfloat16}

SCALES = ("scale_weight", "weight_scale")
INPUT_SCALES = ("scale_input", "input_scale")
FORMAT = "comfy_quant"
#: comfy_quant's "format" that is a weight times a scale.
FORMATS = ("float8_e4m3fn", "float8_e5m2")
MAX_FORMAT = 4096

Spec = tuple[torch.dtype, tuple[int, ...]]


class Companions(NamedTuple):
    """scales: {a weight's name: its scale's}. unread: names that are no tensors of a model's.
    formats: names of the tensors that name a weight's format, to be checked by `check_format`.
    """

    scales: dict[str, str]
    unread: frozenset[str]
    formats: tuple[str, ...]


def find_companions(specs: Mapping[str, Spec], where: str) -> Companions:
    """The companions among the tensors {name: (dtype, shape)} of a model or file.

    Only beside a weight: others are tensors like all. Raises CheckpointError for a scale of a
    shape that is not known, for two scales of one weight, and for scaled integers.
    """
    scales: dict[str, str] = {}
    unread, formats = set(), []
    for name in specs:
        layer, _, leaf = name.rpartition(".")
        weight = f"{layer}.weight" if layer else "weight"
        if leaf not in (*SCALES, *INPUT_SCALES, FORMAT) or weight not in specs:
            continue
        unread.add(name)
        if leaf == FORMAT:
            formats.append(name)
        elif leaf in SCALES:
            if weight in scales:
                raise CheckpointError(
                    f"{where}: {show(scales[weight])} and {show(name)} both scale {show(weight)}"
                )
            _check_scale(name, specs, weight, where)
            scales[weight] = name
    return Companions(scales, frozenset(unread), tuple(formats))


def _check_scale(name: str, specs: Mapping[str, Spec], weight: str, where: str) -> None:
    (dtype, shape), (stored, of) = specs[name], specs[weight]
    if not stored.is_floating_point:
        raise CheckpointError(
            f"{where}: {show(weight)} is {stored} with a scale beside it: of weights in 8 bits"
            " only floating-point ones are read"
        )
    rows = of[0] if of else 1
    if not dtype.is_floating_point or math.prod(shape) not in (1, rows) or len(shape) > 2:
        raise CheckpointError(
            f"{where}: {show(name)} is {dtype} {list(shape)}, expected one floating-point number"
            f" or {rows}, one per row of {show(weight)}: other scales (of blocks) are not read"
        )


def check_format(data: bytes, name: str, where: str) -> None:
    """Raises CheckpointError unless the bytes of a `comfy_quant` name one of FORMATS."""
    at = f"{where}: {show(name)}"
    said = parse_object(data, at, error=CheckpointError).get("format")
    if said not in FORMATS:
        raise CheckpointError(f"{at}: format {show(said)}, expected {listing(FORMATS)}")


def scaled(part: Tensor, scale: Tensor, first: int, row: int) -> Tensor:
    """`part`, values `first` and after of a flattened weight, times its scale, in float32.

    scale: float32 [1], or [rows]; row: values in a row of the weight.
    """
    if len(scale) == 1:
        return part.float() * scale
    index = torch.arange(first, first + len(part)) // row
    return part.float() * scale[index]


def check_finite(scale: Tensor, name: str, where: str) -> None:
    if not scale.isfinite().all():
        raise CheckpointError(f"{where}: {show(name)}: expected finite scales")


def narrowest(dtype: torch.dtype) -> torch.dtype:
    """What holds every value of a stored type in 16 bits or more."""
    return FLOATS_8.get(dtype, dtype)
