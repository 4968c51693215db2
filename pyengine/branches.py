"""Low-rank side branches beside linear layers and convolutions, per row of a batch.

Hu et al. 2021, arXiv:2106.09685 (LoRA): beside y = x W^T + b lies s (x A^T) B^T, with A [rank, in]
and B [out, rank]. An `Adapter` holds A and B for layers of one loaded model, by the names that
checkpoints give these; `adapted` says which rows of a batch have which adapters:

    style = Adapter(unet, {"mid_block.attentions.0.proj_in": (down, up)})
    with adapted([[(style, 0.8)], []]):  # the first of two rows
        unet(sample, timestep, text)

The model's own weights stay as they are, packed or of 8 bits. A linear layer adds the branch to its
sum before its activation (ops.linear's addend), a convolution within its residual, so that neither
takes a pass more over its result than reading that. A row has the bits that it has alone: branches
are computed for runs of rows that have the same adapters, and a row without any is given -0.0,
which changes no bit. So rows of one adapter should lie side by side: each run of them costs, per
layer, a product with A, one with B and, where runs differ, a copy of the addends.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from . import ops
from .errors import RequestError
from .ops._pack import arranged, arranged_filters
from .ops._replay import unrecorded

#: Adapters of one row, each with its scale (alpha / rank included).
Row = Sequence[tuple["Adapter", float]]


@dataclass(frozen=True)
class Target:
    """A layer that a branch may lie beside, or a part of a Fused one.

    begin, width: the columns of the layer's result that are the target's.
    shape: of its weight as checkpoints have it: [out, in] or [out, in, kh, kw].
    """

    layer: nn.Module
    begin: int
    width: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Branch:
    """A and B of one target, arranged for the kernels."""

    down: Tensor
    up: Tensor
    rank: int
    begin: int
    width: int


def targets(model: nn.Module) -> dict[str, Target]:
    """The layers of a loaded model that an Adapter may name, by their names in checkpoints."""
    found: dict[str, Target] = {}
    for path, module in model.named_modules():
        for target_name, begin, shape in getattr(module, "branch_targets", lambda: ())():
            owner = path if target_name is None else path.rpartition(".")[0]
            name = ".".join(filter(None, (owner, target_name)))
            found[name] = Target(module, begin, shape[0], shape)
    return found


class Adapter:
    """Side branches for layers of one model. It keeps these layers alive.

    model: loaded, since packing a model fuses some of its layers.
    weights: by the layer's name in checkpoints (see `targets`), (A, B): [rank, in] and [out, rank]
    of a linear layer, [rank, in, kh, kw] and [out, rank, 1, 1] of a convolution, of any
    floating-point dtype, which is kept.
    Raises RequestError, naming them, for layers that the model has not and for other shapes.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, tuple[Tensor, Tensor]]):
        known = targets(model)
        unknown = sorted(set(weights) - set(known))
        if unknown:
            raise RequestError(
                f"adapter: expected layers of {type(model).__name__}, got {', '.join(unknown[:8])}"
                + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
            )
        self.names = tuple(weights)
        self._beside: dict[nn.Module, list[_Branch]] = {}
        for name, (down, up) in weights.items():
            target = known[name]
            self._beside.setdefault(target.layer, []).append(_branch(name, target, down, up))

    def beside(self, layer: nn.Module) -> list[_Branch]:
        """The branches beside a layer: several where it is fused of several."""
        return self._beside.get(layer, [])


def _branch(name: str, target: Target, down: Tensor, up: Tensor) -> _Branch:
    if down.dim() == 4 and len(target.shape) == 2 and down.shape[2:] == (1, 1):
        down = down.flatten(1)  # a 1x1 convolution that is computed as a matrix product
    rank = down.shape[0] if down.dim() else 0
    wanted = (rank, *target.shape[1:])
    if rank < 1 or tuple(down.shape) != wanted:
        raise _wrong(name, "down", ["rank", *target.shape[1:]], down)
    ones = (1,) * (up.dim() - 2)
    if up.dim() not in (2, 4) or tuple(up.shape) != (target.width, rank, *ones):
        raise _wrong(name, "up", [target.width, rank], up)
    for which, tensor in (("down", down), ("up", up)):
        if not tensor.is_floating_point():
            raise RequestError(
                f"adapter: {name}: {which}: expected a floating-point dtype, got {tensor.dtype}"
            )
    device = next(target.layer.parameters()).device
    down, up = down.detach().to(device), up.detach().flatten(1).to(device)
    arrange = arranged_filters if down.dim() == 4 else arranged
    return _Branch(arrange(down), arranged(up), rank, target.begin, target.width)


def _wrong(name: str, which: str, wanted: list[Any], given: Tensor) -> RequestError:
    text = ", ".join(map(str, wanted))
    return RequestError(
        f"adapter: {name}: {which}: expected shape [{text}], got {list(given.shape)}"
    )


class _Scales:
    """One adapter's scales in the rows of a run."""

    def __init__(self, values: Tensor):
        self._values = values
        self._factors: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}

    def factors(self, device: torch.device, rank: int) -> tuple[Tensor, Tensor]:
        """(scale, shift) [rows, rank] as ops.linear takes them; copied to a device once."""
        key = (device, rank)
        if key not in self._factors:
            scale = self._values[:, None].expand(-1, rank).contiguous().to(device)
            self._factors[key] = scale, torch.zeros_like(scale)
        return self._factors[key]


@dataclass(frozen=True)
class _Run:
    """Rows begin to end, which have the same adapters, and what each counts in them."""

    begin: int
    end: int
    adapters: tuple[Adapter, ...]
    scales: tuple[_Scales, ...]


class Adapted:
    """What the rows of a batch have beside the model's weights."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = len(rows)
        self._runs: list[_Run] = []
        at = 0
        for adapters, group in groupby(rows, key=lambda row: tuple(adapter for adapter, _ in row)):
            scales = torch.tensor([[scale for _, scale in row] for row in group])
            columns = scales.reshape(len(scales), len(adapters)).unbind(1)
            run = _Run(at, at + len(scales), adapters, tuple(map(_Scales, columns)))
            self._runs.append(run)
            at += len(scales)

    def _beside(self, layer: nn.Module, x: Tensor) -> list[list[tuple[_Branch, _Scales]]] | None:
        """For each run its branches beside the layer and their scales; None where none has any."""
        found = [
            [
                (branch, scales)
                for adapter, scales in zip(run.adapters, run.scales, strict=True)
                for branch in adapter.beside(layer)
            ]
            for run in self._runs
        ]
        if not any(found):
            return None
        if x.shape[0] != self.rows:
            raise RequestError(
                f"adapted: expected {self.rows} rows, as many as were told their adapters, got"
                f" {x.shape[0]}"
            )
        return found

    def linear(
        self,
        layer: nn.Module,
        width: int,
        x: Tensor,
        around: dict[str, Any],
        x2: Tensor | None = None,
    ) -> dict[str, Any]:
        """`around` with the addend of ops.linear(x, ..., x2=x2, **around) to `width` outputs."""
        found = self._beside(layer, x)
        if found is None:
            return around
        prologue = {k: v for k, v in around.items() if k in ("scale", "shift", "silu")}
        prologue["x2"] = x2
        pieces = []
        for run, beside in zip(self._runs, found, strict=True):
            rows = slice(run.begin, run.end)
            part, given, total = x[rows], _of_rows(prologue, rows), None
            for branch, scales in beside:
                low = ops.linear(part, branch.down, out_features=branch.rank, **given)
                if branch.width == width:
                    total = _up(low, branch, scales, total)
                    continue
                if total is None:
                    total = _nothing(x, (*part.shape[:-1], width))
                columns = slice(branch.begin, branch.begin + branch.width)
                total[..., columns] = _up(low, branch, scales, total[..., columns])
            pieces.append(_nothing(x, (*part.shape[:-1], width)) if total is None else total)
        return {**around, "addend": _joined(pieces)}

    def conv2d(
        self,
        layer: nn.Module,
        stride: int,
        padding: tuple[int, int, int, int],
        x: Tensor,
        around: dict[str, Any],
    ) -> dict[str, Any]:
        """`around` with the branches in the residual of ops.conv2d(x, ..., **around)."""
        found = self._beside(layer, x)
        if found is None:
            return around
        names = ("x2", "scale", "shift", "silu", "input_activation", "upsample")
        prologue = {k: v for k, v in around.items() if k in names}
        residual = around.get("residual")
        pieces: list[Tensor | None] = []
        for run, beside in zip(self._runs, found, strict=True):
            rows = slice(run.begin, run.end)
            given = _of_rows(prologue, rows)
            total = None if residual is None else residual[rows]
            for branch, scales in beside:
                low = ops.conv2d(
                    x[rows], branch.down, stride=stride, padding=padding,
                    out_channels=branch.rank, **given,
                )  # fmt: skip
                total = _up(low, branch, scales, total)
            pieces.append(total)
        some = next(piece for piece in pieces if piece is not None)
        whole = [
            _nothing(x, (run.end - run.begin, *some.shape[1:])) if piece is None else piece
            for run, piece in zip(self._runs, pieces, strict=True)
        ]
        return {**around, "residual": _joined(whole)}


def _of_rows(around: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {k: v[rows] if isinstance(v, Tensor) else v for k, v in around.items()}


def _up(low: Tensor, branch: _Branch, scales: _Scales, before: Tensor | None) -> Tensor:
    """before + (low * scale) B^T."""
    scale, shift = scales.factors(low.device, branch.rank)
    return ops.linear(
        low, branch.up, residual=before, scale=scale, shift=shift, out_features=branch.width
    )


def _nothing(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What added changes no bit: 0.0 would make 0.0 of -0.0."""
    return x.new_full(shape, -0.0)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


_active: ContextVar[Adapted | None] = ContextVar("pyengine_adapted", default=None)


def active() -> Adapted | None:
    """What the rows that this thread (context) computes have beside the weights, or None."""
    return _active.get()


@contextmanager
def adapted(rows: Sequence[Row]) -> Iterator[None]:
    """Within the block, row i of what models are given has the adapters rows[i] beside the weights.

    rows: for each row of the batch (with guidance, of both halves) its adapters and their scales,
    in the order in which they are added; () for none. Applies to this thread (context) alone.
    Models whose layers no adapter names are as ever; one with such a layer must be given as many
    rows. What is computed once and kept (a U-Net's encode_context and embed_timesteps) has to be
    computed within the block too, and holds for these rows.
    """
    token = _active.set(Adapted(rows) if any(rows) else None)
    try:
        with unrecorded():
            yield
    finally:
        _active.reset(token)
