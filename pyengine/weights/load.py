"""Filling a module built on the meta device: everything is compared before memory is taken."""

import os
from collections.abc import Callable, Iterable

import torch

from ..errors import CheckpointError
from .names import HARMLESS, matcher, modern_names
from .source import MappedSource, TensorSource
from .text import listing, show

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def load_module(
    module: torch.nn.Module,
    source: TensorSource | MappedSource,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    harmless: Iterable[str] = (),
    rename: Callable[[str], str] | None = None,
) -> torch.nn.Module:
    """Fills `module`, built on the meta device, with the tensors of `source`; returns it.

    dtype: float32, float16 or bfloat16 for all floating-point tensors; None keeps each as stored
    (float64 becomes float32). Converted tensor by tensor: the peak is the module and one tensor.
    harmless: fnmatch patterns of tensors that may be left over, besides names.HARMLESS and
    `module.harmless_extra`. rename: the module's name for a name in `source`; without it, names
    that older versions of diffusers used are recognised.
    Parameters need no gradient afterwards. `module.pack()` is called if there is one.

    Raises CheckpointError, before any tensor is read, that lists every missing, misshapen and
    extra tensor.
    """
    if dtype is not None and dtype not in FLOATS:
        raise CheckpointError(f"dtype {dtype} is none of {listing(map(str, FLOATS))}")
    expected = {k: v for k, v in module.state_dict(keep_vars=True).items() if v is not None}
    found = _match_names(expected, source, rename)
    patterns = (*HARMLESS, *getattr(module, "harmless_extra", ()), *harmless)
    _compare(expected, found, source, matcher(patterns))
    if torch.device(device).type == "cpu":
        _check_memory([source.spec(o) for n, o in found.items() if n in expected], dtype, source)
    for name, old in found.items():
        if name in expected:
            _assign(module, name, _read(source, old, expected[name], dtype, device))
    _check_filled(module)
    if hasattr(module, "pack"):
        module.pack()
    return module


def _match_names(
    expected: dict[str, torch.Tensor],
    source: TensorSource | MappedSource,
    rename: Callable[[str], str] | None,
) -> dict[str, str]:
    """{name in the module, or in `source` where the module has none: name in `source`}."""
    found: dict[str, str] = {}
    for old in source:
        name = old if rename is None else rename(old)
        if name not in expected:
            name = next((n for n in modern_names(name) if n in expected), name)
        if name in found:
            raise CheckpointError(
                f"{source.where}: {show(found[name])} and {show(old)} are both {show(name)}"
            )
        found[name] = old
    return found


def _compare(expected: dict, found: dict, source, harmless) -> None:
    missing = [show(name) for name in expected if name not in found]
    extra = [show(old) for n, old in found.items() if n not in expected if not harmless.match(old)]
    wrong = []
    for name, old in found.items():
        if name not in expected:
            continue
        dtype, shape = source.spec(old)
        want = expected[name]
        if shape != tuple(want.shape):
            wrong.append(f"{show(old)} is {list(shape)}, expected {list(want.shape)}")
        elif dtype.is_floating_point != want.dtype.is_floating_point:
            wrong.append(f"{show(old)} is {dtype}, expected {want.dtype}")
    problems = [
        f"{len(names)} {what}: {listing(names)}"
        for what, names in (("missing", missing), ("misshapen", wrong), ("extra", extra))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source.where}: the tensors are not those of the model that the config describes"
            f" ({len(expected)} expected): {'; '.join(problems)}"
        )


def _check_memory(specs: list, dtype: torch.dtype | None, source) -> None:
    """Refuses a module larger than the machine's memory: a sparse file can claim any size."""
    needed = sum(torch.Size(shape).numel() * (dtype or stored).itemsize for stored, shape in specs)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a system that tells
        return
    if needed > memory:
        raise CheckpointError(
            f"{source.where}: takes {needed / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB"
        )


def _read(source, old: str, want: torch.Tensor, dtype, device) -> torch.Tensor:
    stored, _ = source.spec(old)
    if not stored.is_floating_point:
        dtype = want.dtype
    elif dtype is None and stored == torch.float64:
        dtype = torch.float32
    return source.read(old, dtype).to(device)


def _assign(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor


def _check_filled(module: torch.nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise RuntimeError(
            f"{type(module).__name__} has tensors that no checkpoint fills: {listing(empty)};"
            " build buffers that are not saved on a real device"
        )
