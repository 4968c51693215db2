"""An adapter's tensors, arranged for the kernels, by the layers that they lie beside."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..ops._pack import arranged, arranged_filters
from .difference import Difference, Target, norm_targets, targets

#: Ranks together up to which the branches of a Fused layer's targets are one.
JOINED_RANKS = 96


@dataclass(frozen=True)
class Branch:
    """A target's product of its own, arranged: with `up` after `down`, or with `down` alone.

    features: of down's product. ratios: (how many of these, what they are multiplied by), in order,
    of the targets that `names` has.
    """

    down: Tensor
    up: Tensor | None
    features: int
    ratios: tuple[tuple[int, float], ...]
    names: tuple[str, ...]
    begin: int
    width: int

    def weighted(self, factors: Mapping[str, float]) -> "Branch":
        """With each target's ratio times its factor."""
        each = zip(self.ratios, self.names, strict=True)
        ratios = tuple((rank, ratio * factors[name]) for (rank, ratio), name in each)
        return replace(self, ratios=ratios)


@dataclass(frozen=True)
class _LowRank:
    """A target's factors, [rank, in...] and [out, rank], on the layer's device, not arranged."""

    name: str
    down: Tensor
    up: Tensor
    ratio: float
    begin: int

    def branch(self) -> Branch:
        rank, width = len(self.down), len(self.up)
        return Branch(
            _arranged(self.down),
            arranged(self.up),
            rank,
            ((rank, self.ratio),),
            (self.name,),
            self.begin,
            width,
        )


@dataclass
class Beside:
    """All that an adapter has beside one layer, which may be fused of several targets.

    gain, bias: [width of the layer], zero where it has none; None where it has none at all.
    norm: (weight, bias) differences of a norm, each or None.
    """

    branches: list[Branch] = field(default_factory=list)
    gain: Tensor | None = None
    bias: Tensor | None = None
    norm: tuple[Tensor | None, Tensor | None] = (None, None)

    def weighted(self, factors: Mapping[str, float], at: list[tuple[Target, float]]) -> "Beside":
        """With what is of each target times its factor. at: the layer's targets, with these."""
        branches = [b.weighted(factors) for b in self.branches if any(factors[n] for n in b.names)]
        more, shift = self.norm
        number = at[0][1]  # a norm is one target
        norm = (None if more is None else number * more, None if shift is None else number * shift)
        return Beside(branches, _columns(self.gain, at), _columns(self.bias, at), norm)

    @property
    def once(self) -> bool:
        """Whether no column has two branches."""
        return len({branch.begin for branch in self.branches}) == len(self.branches)

    @property
    def columns(self) -> int:
        """Columns that have a branch, where each has one at most."""
        return sum(branch.width for branch in self.branches)


def _columns(values: Tensor | None, at: list[tuple[Target, float]]) -> Tensor | None:
    """[width of the layer]: each target's columns times its factor."""
    if values is None:
        return None
    values = values.clone()
    for target, number in at:
        values[target.begin : target.begin + target.width] *= number
    return values


class Adapter:
    """Side branches for layers of one model. It keeps these layers alive.

    model: loaded, since packing a model fuses some of its layers.
    weights: by the layer's name in checkpoints (see `targets` and `norm_targets`) a Difference, or
    (A, B), its down and up.
    Raises RequestError, naming them, for layers that the model has not and for other shapes.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Difference | tuple[Tensor, Tensor]]):
        known, norms = targets(model), norm_targets(model)
        unknown = sorted(set(weights) - set(known) - set(norms))
        if unknown:
            raise RequestError(
                f"adapter: expected layers of {type(model).__name__}, got {', '.join(unknown[:8])}"
                + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
            )
        self.names = tuple(weights)
        self._targets = {n: norms[n] if n in norms else known[n] for n in weights}
        self._beside: dict[nn.Module, Beside] = {}
        low: dict[nn.Module, list[_LowRank]] = {}
        for name, given in weights.items():
            change = given if isinstance(given, Difference) else Difference(*given)
            if change.empty:
                continue
            if name in norms:
                self._add_norm(name, norms[name], change)
            else:
                self._add(name, known[name], change, low.setdefault(known[name].layer, []))
        for layer, factors in low.items():
            self._beside[layer].branches[:0] = _joined(layer, factors)

    def beside(self, layer: nn.Module) -> Beside | None:
        """What lies beside a layer."""
        return self._beside.get(layer)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Those that it has something beside."""
        return tuple(self._beside)

    def only(self, layers: Iterable[nn.Module]) -> "Adapter":
        """What it has beside some of its layers."""
        return self._with({layer: self._beside[layer] for layer in layers})

    def weighted(self, factor: Callable[[str], float]) -> "Adapter":
        """The same with each layer's difference times factor(its name); of 0 it has nothing. The
        factors' memory is shared.
        """
        factors = {name: float(factor(name)) for name in self.names}
        at: dict[nn.Module, list[tuple[Target, float]]] = {}
        for name, target in self._targets.items():
            at.setdefault(target.layer, []).append((target, factors[name]))
        return self._with(
            {
                layer: own.weighted(factors, at[layer])
                for layer, own in self._beside.items()
                if any(number for _, number in at[layer])
            }
        )

    def _with(self, beside: dict[nn.Module, Beside]) -> "Adapter":
        made = object.__new__(Adapter)
        made.names, made._targets, made._beside = self.names, self._targets, beside
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        held = (
            t
            for b in self._beside.values()
            for t in (b.gain, b.bias, *b.norm, *(t for x in b.branches for t in (x.down, x.up)))
            if t is not None
        )
        return sum(t.numel() * t.element_size() for t in held)

    def _add(self, name: str, target: Target, change: Difference, low: list[_LowRank]) -> None:
        beside = self._beside.setdefault(target.layer, Beside())
        if change.down is not None and change.up is not None:
            low.append(_low_rank(name, target, change.down, change.up, float(change.ratio)))
        if change.dense is not None:
            beside.branches.append(_dense(name, target, change.dense))
        if change.gain is not None:
            beside.gain = _placed(name, "gain", target, change.gain, beside.gain)
        if change.bias is not None:
            beside.bias = _placed(name, "bias", target, change.bias, beside.bias)

    def _add_norm(self, name: str, target: Target, change: Difference) -> None:
        for which, tensor in (("dense", change.dense), ("bias", change.bias)):
            if tensor is not None and tensor.shape != target.shape:
                raise _wrong(name, which, [*target.shape], tensor)
        both = (_on_device(target, change.dense), _on_device(target, change.bias))
        self._beside[target.layer] = Beside(norm=both)


def _low_rank(name: str, target: Target, down: Tensor, up: Tensor, ratio: float) -> _LowRank:
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
        _check_floating(name, which, tensor)
    device = _device(target)
    down, up = down.detach().to(device), up.detach().flatten(1).to(device)
    return _LowRank(name, down, up, ratio, target.begin)


def _joined(layer: nn.Module, low: list[_LowRank]) -> list[Branch]:
    """The branches of a layer's targets: where these are all the columns of a linear layer, one,
    whose down is theirs below each other and whose up has them on its diagonal. So the input is
    read once, and what is added is written where it is to be.
    """
    if len(low) > 1 and low[0].down.dim() == 2:
        low = sorted(low, key=lambda own: own.begin)
        begins = [0, *itertools.accumulate(len(own.up) for own in low)]
        whole = layer.product()["rows"]  # type: ignore[operator]
        ranks = tuple((len(own.down), own.ratio) for own in low)
        rank = sum(n for n, _ in ranks)
        alike = len({(own.down.dtype, own.up.dtype) for own in low}) == 1
        tiled = [own.begin for own in low] == begins[:-1] and begins[-1] == whole
        if alike and tiled and rank <= JOINED_RANKS:
            down = torch.cat([own.down for own in low])
            up = torch.block_diag(*(own.up for own in low))
            names = tuple(own.name for own in low)
            return [Branch(_arranged(down), arranged(up), rank, ranks, names, 0, whole)]
    return [own.branch() for own in low]


def _dense(name: str, target: Target, dense: Tensor) -> Branch:
    if dense.dim() == 4 and len(target.shape) == 2 and dense.shape[2:] == (1, 1):
        dense = dense.flatten(1)
    if tuple(dense.shape) != target.shape:
        raise _wrong(name, "dense", [*target.shape], dense)
    _check_floating(name, "dense", dense)
    dense = dense.detach().to(_device(target))
    width, ratios = target.width, ((target.width, 1.0),)
    return Branch(_arranged(dense), None, width, ratios, (name,), target.begin, width)


def _placed(name: str, which: str, target: Target, values: Tensor, before: Tensor | None) -> Tensor:
    """[width of the layer] float32: `values` in the target's columns, the others as before."""
    if values.shape != (target.width,):
        raise _wrong(name, which, [target.width], values)
    _check_floating(name, which, values)
    device = _device(target)
    if before is None:
        width = target.layer.product()["rows"]  # type: ignore[operator]
        before = torch.zeros(width, device=device)
    before[target.begin : target.begin + target.width] = values.detach().to(device)
    return before


def _arranged(weight: Tensor) -> Tensor:
    return arranged_filters(weight) if weight.dim() == 4 else arranged(weight)


def _device(target: Target) -> torch.device:
    return next(target.layer.parameters()).device


def _on_device(target: Target, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().to(_device(target))


def _check_floating(name: str, which: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise RequestError(
            f"adapter: {name}: {which}: expected a floating-point dtype, got {tensor.dtype}"
        )


def _wrong(name: str, which: str, wanted: list[Any], given: Tensor) -> RequestError:
    text = ", ".join(map(str, wanted))
    return RequestError(
        f"adapter: {name}: {which}: expected shape [{text}], got {list(given.shape)}"
    )
