"""Merging an adapter into the weights of the layers that it lies beside, and undoing it."""

import torch
from torch import Tensor, nn

from .. import ops
from ..branches import Adapter
from ..branches.adapter import Beside
from ..ops._pack import arranged, is_paired

#: A layer and the tensors that it had.
_Before = tuple[nn.Module, Tensor, Tensor | None]


class Fused:
    """Adapters merged into their layers' weights.

    `left` are those parts of them that lie beside layers of 8 bits: rounding the sum anew would
    change all of it, so they stay side branches, of the scales that they were fused with.
    """

    def __init__(self) -> None:
        self._before: dict[nn.Module, _Before] = {}
        self.left: list[tuple[Adapter, float]] = []

    def add(self, adapter: Adapter, scale: float, dtype: torch.dtype) -> None:
        """Merges scale times an adapter; the weights that there were are kept for `undo`.

        dtype: of the model's activations: a float32 model may hold 16-bit weights, which the sums
        would be rounded to.
        """
        eighth = []
        for layer in adapter.layers:
            beside = adapter.beside(layer)
            assert beside is not None
            if getattr(layer, "weight_scale", None) is not None:
                eighth.append(layer)
                continue
            if layer not in self._before:
                weight, bias = _tensors(layer)
                self._before[layer] = layer, weight, bias
            _merge(layer, beside, scale, dtype)
        if eighth:
            self.left.append((adapter.only(eighth), scale))

    def undo(self) -> None:
        """Puts the weights back that there were, to the bit."""
        for layer, weight, bias in self._before.values():
            _set(layer, weight, bias)
        self._before.clear()
        self.left.clear()


def _tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return weight, bias


def _set(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    own = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    setattr(layer, "bias", own)  # noqa: B010 - which layers have as a parameter or as None


def _merge(layer: nn.Module, beside: Beside, scale: float, dtype: torch.dtype) -> None:
    weight, bias = _tensors(layer)
    if beside.norm != (None, None):
        more, shift = beside.norm
        weight = weight if more is None else _sum(weight, scale * more)
        bias = bias if shift is None or bias is None else _sum(bias, scale * shift)
        _set(layer, weight, bias)
        return
    if beside.bias is not None:
        bias = scale * beside.bias if bias is None else _sum(bias, scale * beside.bias[: len(bias)])
    if beside.gain is not None or beside.branches:
        weight = _merged(layer, weight, beside, scale).to(dtype)
        packed = layer.product()["weight"]  # type: ignore[operator]
        if packed.dim() in (3, 5):
            weight = arranged(weight, is_paired(packed))
    _set(layer, weight, bias)


def _sum(tensor: Tensor, more: Tensor) -> Tensor:
    return (tensor.float() + more).to(tensor.dtype)


def _merged(layer: nn.Module, weight: Tensor, beside: Beside, scale: float) -> Tensor:
    """The layer's weight with the difference, float32, [rows, ...]."""
    rows = layer.product()["rows"]  # type: ignore[operator]
    packed = weight.dim() in (3, 5)
    wide = (ops.unpack_weight(weight, rows) if packed else weight).float()
    total = wide.clone()
    if beside.gain is not None:
        total += (scale * beside.gain).view(-1, *(1,) * (wide.dim() - 1)) * wide
    for branch in beside.branches:
        down = _plain(branch.down, branch.features)
        if branch.up is None:
            more = branch.ratios[0][1] * down
        else:
            up = _plain(branch.up, branch.width)
            ratios = [ratio for rank, ratio in branch.ratios for _ in range(rank)]
            more = (up * up.new_tensor(ratios)) @ down.flatten(1)
        columns = slice(branch.begin, branch.begin + branch.width)
        total[columns] += (scale * more).view(branch.width, *wide.shape[1:])
    return total


def _plain(weight: Tensor, features: int) -> Tensor:
    """[features, ...] float32, of convolutions [features, kh, kw, C]."""
    return (ops.unpack_weight(weight, features) if weight.dim() in (3, 5) else weight).float()
