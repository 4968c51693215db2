"""What upscalers do that no op does, in plain torch: pixels into channels and back.

All of it reads and writes each number once, beside convolutions of hundreds of products for each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """[N, H, W, C] -> [N, H / factor, W / factor, C * factor^2], channels as torch orders them."""
    if factor == 1:
        return x
    n, height, width, channels = x.shape
    x = x.view(n, height // factor, factor, width // factor, factor, channels)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n, height // factor, width // factor, -1)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """[N, H, W, C * factor^2] -> [N, H * factor, W * factor, C], the other way round."""
    n, height, width, _ = x.shape
    x = x.view(n, height, width, -1, factor, factor).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, height * factor, width * factor, -1)


def nearest(x: Tensor, factor: int) -> Tensor:
    """[N, H, W, C] -> [N, H * factor, W * factor, C], every pixel repeated."""
    return x.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def padded(x: Tensor, multiple: int) -> Tensor:
    """[N, C, H, W] with rows and columns reflected below and to the right, so that both sides are
    multiples; repeated where there are too few to reflect.
    """
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    if bottom:
        mode = "reflect" if bottom < x.shape[2] else "replicate"
        x = F.pad(x, (0, 0, 0, bottom), mode)
    if right:
        mode = "reflect" if right < x.shape[3] else "replicate"
        x = F.pad(x, (0, right, 0, 0), mode)
    return x


def joined(parts: list[Tensor]) -> Tensor | None:
    """The parts side by side in C; None of none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.cat(parts, dim=-1)
