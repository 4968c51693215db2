"""Where a pipeline computes, and in what: `device` and `dtype` of from_pretrained."""

from typing import Any

import torch

from ..cuda import OLDEST, check_capability
from ..errors import RequestError, UnavailableError
from ..weights.text import did_you_mean, show

Device = str | torch.device
Dtype = str | torch.dtype | None

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: Other names that dtypes go by, in checkpoints' variants and in torch.
DTYPE_SYNONYMS = {
    "fp32": "float32", "f32": "float32", "float": "float32", "fp16": "float16", "f16": "float16",
    "half": "float16", "bf16": "bfloat16",
}  # fmt: skip


def find_device(device: str | torch.device) -> torch.device:
    if isinstance(device, str) and device == "auto":
        usable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= OLDEST
        return torch.device("cuda" if usable else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise RequestError(f"device: expected auto, cpu, cuda or cuda:N, given {show(device)}")
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise UnavailableError("device: cuda was asked for, but torch finds no CUDA device")
        if place.index is not None and place.index >= torch.cuda.device_count():
            raise UnavailableError(
                f"device: {place} was asked for, but there are {torch.cuda.device_count()}"
            )
        check_capability(place)
    return place


def find_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found: Any = dtype
    if isinstance(dtype, str):
        name = dtype.lower().removeprefix("torch.")
        found = DTYPES.get(DTYPE_SYNONYMS.get(name, name))
    if found not in DTYPES.values():
        raise RequestError(f"dtype: expected one of {', '.join(DTYPES)}, given {show(dtype)}"
                           f"{did_you_mean(dtype, DTYPES)}")  # fmt: skip
    assert isinstance(found, torch.dtype)  # one of DTYPES' values
    return found
