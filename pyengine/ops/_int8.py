"""What int8 products ask of conv2d's arguments."""

from torch import Tensor, int8

from . import _check
from ._check import wrong
from ._pack import PANEL, STEP

#: Most channels whose products, 127 * 127 at most, add up to less than 2^31.
MOST = 1 << 17


def check(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    channels: int,
    *,
    transposed: bool,
    slopes: Tensor | None,
) -> None:
    """Raises RequestError unless weight and weight_scale are what quantize_filters made for x."""
    op = "conv2d"
    if weight.dtype != int8 or weight.dim() != 6:
        raise wrong(
            op,
            "weight",
            "quantize_filters' numbers beside weight_scale",
            f"{weight.dtype} {list(weight.shape)}",
        )
    if weight.device != x.device:
        raise wrong(op, "weight", f"x's device {x.device}", weight.device)
    if channels > MOST:
        raise wrong(op, "x", f"at most {MOST} channels beside weight_scale", channels)
    fours = -(-channels // STEP) * STEP // 4
    _check.shape(weight, (None, None, None, fours, PANEL, 4), op, "weight")
    if min(weight.shape[1:3]) < 1:
        raise wrong(op, "weight", "a kernel of at least 1x1", list(weight.shape))
    if weight_scale.dim() != 1 or -(-len(weight_scale) // PANEL) != weight.shape[0]:
        wanted = f"a scale for each of the channels of {weight.shape[0]} panels"
        raise wrong(op, "weight_scale", wanted, list(weight_scale.shape))
    _check.like(weight_scale, x, op, "weight_scale", dtype=False)
    if transposed:
        raise wrong(op, "transposed", "False beside weight_scale", transposed)
    if slopes is not None:
        raise wrong(op, "slopes", "None beside weight_scale", "a tensor")
