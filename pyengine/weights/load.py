"""Filling a module built on the meta device: everything is compared before memory is taken."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from ..errors import CheckpointError, RequestError
from .names import HARMLESS, matcher, modern_names, other_kind
from .quantised import FLOATS_8, narrowest
from .source import MappedSource, TensorSource
from .text import listing, show

M = TypeVar("M", bound=torch.nn.Module)
AnySource = TensorSource | MappedSource

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
#: The tiers of `weights`, and what they store the weights of linear layers as.
TIERS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def load_module(
    module: M,
    source: AnySource,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    harmless: Iterable[str] = (),
    rename: Callable[[str], str] | None = None,
    keep_narrow: bool | None = None,
    weights: str | None = None,
) -> M:
    """Fills `module`, built on the meta device, with the tensors of `source`; returns it.

    dtype: float32, float16 or bfloat16 for all floating-point tensors; None keeps each as stored
    (float64 and what is stored in 8 bits become float32). Tensor by tensor, each converted on the
    way and each layer packed as soon as it is complete: the peak is the packed module and one
    layer.
    keep_narrow: with float32, weights that are stored in 16 bits stay as they are where their layer
    widens them in use (its WIDENED): half the memory, the same results; those stored as 8-bit
    floats become bfloat16, which holds them exactly. None: on CPUs, whose kernels do that.
    weights: one of `module.tiers`: the linear layers that `module.quantized_layers` names pack
    their weights in 8 bits.
    harmless: fnmatch patterns of tensors that may be left over, besides names.HARMLESS and
    `module.harmless_extra`. rename: the module's name for a name in `source`; without it, names
    that older versions of diffusers used are recognised.
    Parameters need no gradient afterwards. Every submodule that has `pack()` is packed by it.

    Raises CheckpointError, before any tensor is read, that lists every missing, misshapen and
    extra tensor; and for weights to be rounded that are not finite. RequestError for other tiers.
    """
    if dtype is not None and dtype not in FLOATS:
        raise CheckpointError(f"dtype {dtype} is none of {listing(map(str, FLOATS))}")
    if weights is not None:
        check_tier(weights, getattr(module, "tiers", ()), type(module).__name__)
    expected = {k: v for k, v in module.state_dict(keep_vars=True).items() if v is not None}
    found = _match_names(expected, source, rename, getattr(module, "aliases", {}))
    patterns = (*HARMLESS, *getattr(module, "harmless_extra", ()), *harmless)
    _compare(expected, found, source, matcher(patterns))
    plan = {
        name: (old, _dtype(source.spec(old)[0], expected[name], dtype))
        for name, old in found.items()
        if name in expected
    }
    on_cpu = torch.device(device).type == "cpu"
    if (on_cpu if keep_narrow is None else keep_narrow) and dtype == torch.float32:
        for name, (old, _) in plan.items():
            narrow = narrowest(source.spec(old)[0])
            if narrow in (torch.float16, torch.bfloat16) and _widened(module, name):
                plan[name] = old, narrow
    if on_cpu:
        _check_memory([(kind, source.spec(old)[1]) for old, kind in plan.values()], source)
    if weights is not None:
        _quantize(module, weights)
    if on_cpu and all(k == torch.bfloat16 for _, k in plan.values() if k.is_floating_point):
        for part in module.modules():
            if hasattr(part, "pairs"):
                setattr(part, "pairs", True)  # noqa: B010 - a Layer, which weights do not know
    looked_at = getattr(module, "hides_infinity", False)
    packer = _Packer(module, plan)
    staging = None
    if on_cpu:
        sizes = [torch.Size(source.spec(o)[1]).numel() * k.itemsize for o, k in plan.values()]
        staging = torch.empty(max(sizes, default=0), dtype=torch.uint8)
    for name, (old, kind) in plan.items():
        # What is packed at once, into memory of its own, passes through one buffer: one allocated
        # for each would leave holes between the packed weights.
        into = staging if packer.completes(name) and _widened(module, name) else None
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = source.read(old, kind, into).to(device)
        rounded = leaf == "weight" and getattr(owner, "quantized", None)
        if (rounded or looked_at) and not tensor.isfinite().all():
            file, stored = source.stored(old)[0]
            why = f", which alone can be rounded to {weights}" if rounded else ""
            raise CheckpointError(
                f"{file.path}: tensor {show(stored)}: expected finite numbers{why}, found NaN or"
                " infinity"
            )
        _assign(owner, leaf, tensor)
        packer.filled(name)
        if into is not None:
            _own(owner, leaf, into)
    _check_filled(module)
    return module


def _dtype(stored: torch.dtype, want: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What to read a tensor as."""
    if not stored.is_floating_point:
        return want.dtype
    if dtype is not None:
        return dtype
    return torch.float32 if stored == torch.float64 or stored in FLOATS_8 else stored


def _widened(module: torch.nn.Module, name: str) -> bool:
    path, _, leaf = name.rpartition(".")
    return leaf in getattr(module.get_submodule(path), "WIDENED", ())


def check_tier(weights: object, tiers: Iterable[str] = TIERS, model: str = "") -> None:
    """Raises RequestError unless `weights` is one of the tiers, of that model."""
    if not isinstance(weights, str) or weights not in tiers:
        expected = " or ".join([", ".join(tiers), "None"] if tiers else ["None"])
        raise RequestError(
            f"weights: expected {expected}{model and f' for {model}'}, given {show(weights)}"
        )


def _quantize(module: torch.nn.Module, weights: str) -> None:
    """Tells the layers that may be stored in 8 bits to be so when they are packed."""
    chosen = matcher(getattr(module, "quantized_layers", ()))
    inputs = getattr(module, "quantizes_inputs", False)
    for path, part in module.named_modules():
        if hasattr(part, "quantize") and chosen.fullmatch(path):
            part.quantize(TIERS[weights], inputs)


class _Packer:
    """Packs each submodule when the last of its tensors has come."""

    def __init__(self, module: torch.nn.Module, names: Iterable[str]):
        # Innermost first: a layer is packed before the one that takes it apart.
        self.packed = {path: part for path, part in module.named_modules() if hasattr(part, "pack")}
        self.waiting = dict.fromkeys(self.packed, 0)
        for name in names:
            for path in self._owners(name):
                self.waiting[path] += 1

    def _owners(self, name: str) -> list[str]:
        parts = name.split(".")
        paths = (".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1))
        return [path for path in paths if path in self.packed]

    def completes(self, name: str) -> bool:
        """Whether the layer of this tensor has all others, and is packed when it comes."""
        path = name.rpartition(".")[0]
        return self.waiting.get(path) == 1

    def filled(self, name: str) -> None:
        for path in self._owners(name):
            self.waiting[path] -= 1
            if not self.waiting[path]:
                self.packed[path].pack()


def _match_names(
    expected: dict[str, torch.Tensor],
    source: AnySource,
    rename: Callable[[str], str] | None,
    aliases: Mapping[str, str],
) -> dict[str, str]:
    """{name in the module, or in `source` where the module has none: name in `source`}."""
    found: dict[str, str] = {}
    present = set(source)
    for old in source:
        name = old if rename is None else rename(old)
        if name in aliases and aliases[name] not in present:
            name = aliases[name]
        if name not in expected:
            name = next((n for n in modern_names(name) if n in expected), name)
        if name in found:
            raise CheckpointError(
                f"{source.where}: {show(found[name])} and {show(old)} are both {show(name)}"
            )
        found[name] = old
    return found


def _compare(
    expected: Mapping[str, torch.Tensor],
    found: Mapping[str, str],
    source: AnySource,
    harmless: re.Pattern[str],
) -> None:
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
        kind = other_kind(extra)
        raise CheckpointError(
            f"{source.where}: the tensors are not those of the model that the config describes"
            f" ({len(expected)} expected): {'; '.join(problems)}"
            + (f" (as of {kind}, which is not supported)" if kind else "")
        )


def machine_memory() -> int | None:
    """Bytes of physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _check_memory(specs: list[tuple[torch.dtype, tuple[int, ...]]], source: AnySource) -> None:
    """Refuses a module larger than the machine's memory: a sparse file can claim any size."""
    needed = sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in specs)
    memory = machine_memory()
    if memory is not None and needed > memory:
        raise CheckpointError(
            f"{source.where}: takes {needed / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB"
        )


def _assign(owner: torch.nn.Module, leaf: str, tensor: torch.Tensor) -> None:
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor


def _own(owner: torch.nn.Module, leaf: str, staging: torch.Tensor) -> None:
    """Copies a parameter that packing has left in the staging buffer."""
    tensor = owner._parameters.get(leaf)
    if tensor is not None and tensor.untyped_storage().data_ptr() == staging.data_ptr():
        owner._parameters[leaf] = torch.nn.Parameter(tensor.clone(), requires_grad=False)


def _check_filled(module: torch.nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise RuntimeError(
            f"{type(module).__name__} has tensors that no checkpoint fills: {listing(empty)};"
            " build buffers that are not saved on a real device"
        )
