"""Which rows of a batch have which adapters, and what these add to a layer's result."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import RequestError
from ..ops import _memory
from ..ops._replay import unrecorded
from ..ops.reference.linear import GATED
from .adapter import Adapter, Beside, Branch

#: Adapters of one row, each with its scale.
Row = Sequence[tuple[Adapter, float]]
#: A Branch's.
Ratios = tuple[tuple[int, float], ...]
#: Bytes of what is added to a run's result from which each run is a product of its own, so that
#: these are in a cache when it reads them.
LARGE = 2 << 20


class _Scales:
    """One adapter's scales in the rows of a run."""

    def __init__(self, values: Tensor):
        self.values = values
        self._factors: dict[tuple[torch.device, Ratios], tuple[Tensor, Tensor]] = {}

    def factors(self, device: torch.device, ratios: Ratios) -> tuple[Tensor, Tensor]:
        """(scale, shift) [rows, rank] as ops.linear takes them; copied to a device once."""
        key = (device, ratios)
        if key not in self._factors:
            wide = self.values.double()[:, None]
            parts = [(wide * ratio).expand(-1, rank) for rank, ratio in ratios]
            scale = torch.cat(parts, dim=1).to(self.values.dtype).to(device)
            self._factors[key] = scale, torch.zeros_like(scale)
        return self._factors[key]

    def column(self, y: Tensor, ratio: float = 1.0) -> Tensor:
        """[rows, 1...], to multiply y [rows, ...] by: the scales times a branch's ratio."""
        values = self.values if ratio == 1 else (self.values.double() * ratio).float()
        return values.to(y.device).view(-1, *(1,) * (y.dim() - 1))

    def of(self, values: Tensor) -> Tensor:
        """[rows, C]: values [C] times each row's scale."""
        return self.values.to(values.device)[:, None] * values


@dataclass(frozen=True)
class _Run:
    """Rows begin to end, which have the same adapters, and what each counts in them."""

    begin: int
    end: int
    adapters: tuple[Adapter, ...]
    scales: tuple[_Scales, ...]


#: A layer's own product, of inputs, the second of them and what ops.linear is told besides.
Product = Callable[[Tensor, Tensor | None, dict[str, Any]], Tensor]
#: What one adapter has beside a layer, and its scales in the rows of a run.
_Own = tuple[Beside, _Scales]


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

    def touches(self, layers: Sequence[nn.Module]) -> bool:
        """Whether a row has anything beside one of the layers."""
        return any(
            adapter.beside(layer) is not None
            for run in self._runs
            for adapter in run.adapters
            for layer in layers
        )

    def changed_rows(self, layer: nn.Module, x: Tensor) -> Tensor:
        """[rows] bool, on x's device: those that have something beside the layer."""
        which = [
            any(adapter.beside(layer) is not None for adapter in run.adapters)
            for run in self._runs
            for _ in range(run.begin, run.end)
        ]
        return torch.tensor(which, device=x.device)

    def _beside(self, layer: nn.Module, x: Tensor) -> list[list[_Own]] | None:
        """For each run what lies beside the layer, with scales; None where nothing does."""
        found = [
            [
                (beside, scales)
                for adapter, scales in zip(run.adapters, run.scales, strict=True)
                if (beside := adapter.beside(layer)) is not None
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
        x2: Tensor | None,
        product: Product,
    ) -> Tensor:
        """product(x, x2, around), ops.linear to `width` outputs, with what the rows have beside the
        layer as its addend.
        """
        found = self._beside(layer, x)
        if found is None:
            return product(x, x2, around)
        apart = self._apart(x, width, around)
        halved = apart and around.get("activation") in GATED
        whole = _Whole((*x.shape[:-1], width // 2 if halved else width), x)
        for run, beside in zip(self._runs, found, strict=True):
            rows = slice(run.begin, run.end)
            own, second = x[rows], None if x2 is None else x2[rows]
            given, place = _of_rows(around, rows), whole.part(rows)
            into = None if apart else place
            total = self._addend(layer, width, own, given, second, beside, into)
            if apart:
                if total is not None:
                    given["addend"] = total
                with nullcontext() if place is None else _memory.placed(place):
                    total = product(own, second, given)
            whole.take(rows, total)
        return whole.joined() if apart else product(x, x2, {**around, "addend": whole.joined()})

    def _apart(self, x: Tensor, width: int, around: dict[str, Any]) -> bool:
        """Whether each run is a product of its own: see LARGE."""
        if len(self._runs) < 2 or x.device.type != "cpu":
            return False
        return x[0].numel() // x.shape[-1] * width * x.element_size() >= LARGE

    @staticmethod
    def _addend(
        layer: nn.Module,
        width: int,
        x: Tensor,
        around: dict[str, Any],
        x2: Tensor | None,
        beside: Sequence[_Own],
        into: Tensor | None,
    ) -> Tensor | None:
        """What is added to a run's rows; None: nothing. around: of these rows."""
        given = {k: v for k, v in around.items() if k in ("scale", "shift", "silu")}
        given["x2"] = x2
        total = None
        for own, scales in beside:
            total = _linear(layer, width, x, given, own, scales, total, into)
        return total

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
        prologue |= {"stride": stride, "padding": padding}
        residual = around.get("residual")
        pieces: list[Tensor | None] = []
        for run, beside in zip(self._runs, found, strict=True):
            rows = slice(run.begin, run.end)
            given = _of_rows(prologue, rows)
            total = None if residual is None else residual[rows]
            for own, scales in beside:
                total = _conv2d(layer, x[rows], given, own, scales, total)
            pieces.append(total)
        some = next(piece for piece in pieces if piece is not None)
        whole = [
            _nothing(x, (run.end - run.begin, *some.shape[1:])) if piece is None else piece
            for run, piece in zip(self._runs, pieces, strict=True)
        ]
        return {**around, "residual": _joined(whole)}

    def norm(
        self,
        layer: nn.Module,
        x: Tensor,
        result: tuple[Tensor, ...],
        again: Callable[[slice, Tensor, Tensor], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """What a norm gave for x, with the differences of its weight and bias.

        again(rows, weight, bias): the same of these rows with this weight and bias in place of the
        layer's own. A norm is linear in both.
        """
        found = self._beside(layer, x)
        if found is None:
            return result
        pieces = []
        for run, beside in zip(self._runs, found, strict=True):
            rows = slice(run.begin, run.end)
            total = [t[rows] for t in result]
            for own, scales in beside:
                some = next(t for t in own.norm if t is not None)
                both = [torch.zeros_like(some) if t is None else t for t in own.norm]
                more = again(rows, *both)
                total = [_more(t, m, scales.column(m)) for t, m in zip(total, more, strict=True)]
            pieces.append(total)
        return tuple(_joined(list(parts)) for parts in zip(*pieces, strict=True))


class _Whole:
    """The rows of a result, computed in parts into one piece of memory: no part is copied that lies
    where it is to be. Where gradients go through, parts are joined at the end.
    """

    def __init__(self, shape: tuple[int, ...], x: Tensor):
        self.shape, self._x = shape, x
        self._pieces: list[Tensor] | None = [] if x.requires_grad else None
        self._all = None if x.requires_grad else _new(shape, x)

    def part(self, rows: slice) -> Tensor | None:
        """Where these rows' result is to be."""
        return None if self._all is None else self._all[rows]

    def take(self, rows: slice, result: Tensor | None) -> None:
        """result: of these rows, possibly where `part` said; None: they have nothing."""
        if self._pieces is not None:
            shape = (rows.stop - rows.start, *self.shape[1:])
            self._pieces.append(_nothing(self._x, shape) if result is None else result)
            return
        assert self._all is not None
        place = self._all[rows]
        if result is None:
            place.fill_(-0.0)  # what added changes no bit: 0.0 would make 0.0 of -0.0
        elif result.data_ptr() != place.data_ptr():
            place.copy_(result)

    def joined(self) -> Tensor:
        if self._pieces is not None:
            return _joined(self._pieces)
        assert self._all is not None
        return self._all


def _new(shape: tuple[int, ...], x: Tensor) -> Tensor:
    """Undefined contents: from the arena where kernels of ours compute."""
    ours = x.device.type == "cpu" and x.dtype != torch.float64
    return _memory.empty(shape, x.dtype) if ours else x.new_empty(shape)


def _linear(
    layer: nn.Module,
    width: int,
    x: Tensor,
    given: dict[str, Any],
    own: Beside,
    scales: _Scales,
    total: Tensor | None,
    into: Tensor | None,
) -> Tensor:
    """`total`, or nothing, and what one adapter adds to rows of a linear layer's result.

    into: where it may be, or None.
    """
    if own.gain is not None:
        product = dict(layer.product())  # type: ignore[operator]
        rows = product.pop("rows")
        total = ops.linear(
            x, out_features=rows, gate=scales.of(own.gain), residual=total, **product, **given
        )
    fresh = total is None
    for branch in own.branches:
        if branch.width == width:
            total = _product(x, given, branch, scales, total, into)
            continue
        if total is None:
            total = _blank(own, x, (*x.shape[:-1], width), into)
        columns = slice(branch.begin, branch.begin + branch.width)
        before = None if fresh and own.once else total[..., columns]
        total[..., columns] = _product(x, given, branch, scales, before, None)
    if own.bias is not None:
        bias = scales.of(own.bias)
        bias = bias.view(len(bias), *(1,) * (x.dim() - 2), width)
        total = bias.expand(*x.shape[:-1], width) if total is None else total + bias
    assert total is not None
    return total.to(x.dtype)


def _blank(own: Beside, x: Tensor, shape: tuple[int, ...], into: Tensor | None) -> Tensor:
    """Room for the columns of several branches, which add nothing where there is none."""
    if into is None:
        return _nothing(x, shape)
    return into if own.once and own.columns == shape[-1] else into.fill_(-0.0)


def _product(
    x: Tensor,
    given: dict[str, Any],
    branch: Branch,
    scales: _Scales,
    total: Tensor | None,
    into: Tensor | None,
) -> Tensor:
    if branch.up is None:
        gate = scales.factors(x.device, branch.ratios)[0]
        return ops.linear(
            x, branch.down, out_features=branch.width, gate=gate, residual=total, **given
        )
    low = ops.linear(x, branch.down, out_features=branch.features, **given)
    if total is None and into is not None and into.device.type == "cpu":
        with _memory.placed(into):
            return _up(low, branch, scales, None)
    return _up(low, branch, scales, total)


def _conv2d(
    layer: nn.Module,
    x: Tensor,
    given: dict[str, Any],
    own: Beside,
    scales: _Scales,
    total: Tensor | None,
) -> Tensor:
    """As _linear, of a convolution."""
    if own.gain is not None:
        y = _own_conv2d(layer, x, given)
        total = _more(total, y, scales.of(own.gain)[:, None, None])
    for branch in own.branches:
        y = ops.conv2d(x, branch.down, out_channels=branch.features, **given)
        if branch.up is None:
            total = _more(total, y, scales.column(y, branch.ratios[0][1]))
        else:
            total = _up(y, branch, scales, total)
    if own.bias is not None:
        bias = scales.of(own.bias)[:, None, None]
        if total is None:  # of a layer that only gets another bias: its result's shape
            total = torch.zeros_like(_own_conv2d(layer, x, given))
        total = total + bias
    assert total is not None
    return total.to(x.dtype)


def _own_conv2d(layer: nn.Module, x: Tensor, given: dict[str, Any]) -> Tensor:
    """The layer's own product, without its bias."""
    product = dict(layer.product())  # type: ignore[operator]
    rows = product.pop("rows")
    return ops.conv2d(x, out_channels=rows, **product, **given)


def _more(total: Tensor | None, y: Tensor, factor: Tensor) -> Tensor:
    """total + factor * y in y's dtype; factor: [rows, 1...] or [rows, ..., C]."""
    more = y * factor
    return (more if total is None else total + more).to(y.dtype)


def _of_rows(around: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {k: v[rows] if isinstance(v, Tensor) else v for k, v in around.items()}


def _up(low: Tensor, branch: Branch, scales: _Scales, before: Tensor | None) -> Tensor:
    """before + (low * scale) B^T."""
    assert branch.up is not None
    scale, shift = scales.factors(low.device, branch.ratios)
    return ops.linear(
        low, branch.up, residual=before, scale=scale, shift=shift, out_features=branch.width
    )


def _nothing(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What added changes no bit: 0.0 would make 0.0 of -0.0."""
    return x.new_full(shape, -0.0)


def _joined(pieces: list[Tensor]) -> Tensor:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if any(piece.requires_grad for piece in pieces):
        return torch.cat(pieces)
    return torch.cat(pieces, out=_new((sum(map(len, pieces)), *first.shape[1:]), first))


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
