"""What an adapter changes of one layer, and the layers of a model that it may change."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..ops._pack import unpack_filters, unpack_quads
from ..ops.reference.linear import dequantised


@dataclass(frozen=True)
class Target:
    """A layer that a branch may lie beside, or a part of a Fused one.

    begin, width: the columns of the layer's result that are the target's.
    shape: of its weight as checkpoints have it: [out, in] or [out, in, kh, kw], of a norm [C].
    """

    layer: nn.Module
    begin: int
    width: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """What an adapter of scale 1 adds to a layer's weight W [out, ...] and to its bias.

        ratio * up @ down + dense + gain[:, None] * W,  and  bias

    down: [rank, in] or, of a convolution, [rank, in, kh, kw]; up: [out, rank] or [out, rank, 1, 1].
    dense: as W. gain: [out], how much more of the layer's own product there is (DoRA), which takes
    that product a second time and no memory. bias: [out].
    Of a norm: dense [C], which its weight gets more, and bias.
    All of any floating-point dtype, which is kept.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    ratio: float = 1.0
    dense: Tensor | None = None
    gain: Tensor | None = None
    bias: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return all(t is None for t in (self.down, self.dense, self.gain, self.bias))


def targets(model: nn.Module) -> dict[str, Target]:
    """The layers of a loaded model that an Adapter may name, by their names in checkpoints, but for
    norms.
    """
    found: dict[str, Target] = {}
    for path, module in model.named_modules():
        for target_name, begin, shape in getattr(module, "branch_targets", lambda: ())():
            owner = path if target_name is None else path.rpartition(".")[0]
            name = ".".join(filter(None, (owner, target_name)))
            found[name] = Target(module, begin, shape[0], shape)
    return found


def norm_targets(model: nn.Module) -> dict[str, Target]:
    """The norms of a loaded model that have a weight and a bias, by their names in checkpoints."""
    return {
        path: Target(module, 0, len(module.weight), tuple(module.weight.shape))
        for path, module in model.named_modules()
        if getattr(module, "adaptable_norm", False)
    }


def weight_of(target: Target) -> Tensor:
    """The target's weight, float32, in the shape that checkpoints have, from the packed layer.

    Of a layer of 8 bits: what it multiplies by.
    """
    product = target.layer.product()  # type: ignore[operator]  # Linear's, Fused's and Conv2d's
    weight, scale = product["weight"], product.get("weight_scale")
    if weight.dim() == 6:
        weight = unpack_filters(weight, product["rows"], target.shape[1])
    elif scale is not None and weight.dim() == 4:
        weight = unpack_quads(weight, product["rows"], target.shape[1])
    elif weight.dim() in (3, 5):
        weight = ops.unpack_weight(weight, product["rows"])
    rows = slice(target.begin, target.begin + target.width)
    if scale is not None:
        numbers = weight[rows]
        weight = dequantised(numbers.flatten(1), scale[rows], torch.float32).view(numbers.shape)
    else:
        weight = weight[rows].float()
    if len(target.shape) == 4:
        weight = weight.permute(0, 3, 1, 2)
    found: Tensor = weight.reshape(target.shape).contiguous()
    return found
