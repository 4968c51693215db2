"""A LoRA that comes as tensors in memory: what `LoraFile` is of a file."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, RequestError
from ..weights.source import DTYPE_NAMES
from ..weights.text import show

#: More than any LoRA has, and than a header of a file may list.
MAX_TENSORS = 100_000


class LoraTensors:
    """{name: tensor} as diffusers' load_lora_weights takes it. The tensors are copied.

    path: None. metadata, configs: empty. sha256: of names, dtypes, shapes and contents.
    Raises RequestError that names what is no tensor in memory.
    """

    path: Path | None = None
    source = "tensors"

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.metadata: Mapping[str, str] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        if len(tensors) > MAX_TENSORS:
            raise RequestError(
                f"lora: expected at most {MAX_TENSORS} tensors, given {len(tensors)}"
            )
        for name, tensor in tensors.items():
            _check(name, tensor)
        self.tensors = Tensors(
            {n: tensors[n].detach().to("cpu", copy=True).contiguous() for n in sorted(tensors)}
        )

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name in self.tensors:
            tensor = self.tensors.read(name)
            head = f"{name} {DTYPE_NAMES[tensor.dtype]} {[*tensor.shape]}\n"
            digest.update(head.encode("utf-8", "surrogatepass"))
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def __enter__(self) -> "LoraTensors":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def _check(name: Any, tensor: Any) -> None:
    if not isinstance(name, str):
        raise RequestError(f"lora: expected names of tensors, given {show(name)}")
    if not isinstance(tensor, Tensor):
        raise RequestError(
            f"lora: {show(name)}: expected a tensor, given {show(type(tensor).__name__)}"
        )
    dense = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    if not dense or tensor.dtype not in DTYPE_NAMES:
        raise RequestError(
            f"lora: {show(name)}: expected a dense tensor of a dtype that files"
            f" hold, given {tensor.dtype}, {tensor.layout}, on"
            f" {tensor.device}"
        )


class Tensors:
    """Tensors by name, read as those of a TensorSource."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = dict(tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """(dtype, shape)"""
        tensor = self._tensors[name]
        return tensor.dtype, tuple(tensor.shape)

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor; what is done with it in place would be seen at the next reading."""
        return self._tensors[name].to(dtype or self.spec(name)[0])


def no_options(options: Mapping[str, Any]) -> None:
    """Raises CheckpointError where options say which file tensors are in."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise CheckpointError(f"{given[0]}: expected None beside tensors, which are in no file")
