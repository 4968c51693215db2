"""InceptionV3 as the Frechet inception distance is defined over it.

Szegedy et al. 2015, arXiv:1512.00567, with the 2015-12-05 weights of TensorFlow's, whose average
pooling leaves padding out and whose last block pools by the maximum. Names are torch-fidelity's.
"""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import CheckpointError, RequestError
from ..weights import load_module
from ..weights.files import refuse_pickle
from ..weights.header import SafetensorsFile
from ..weights.source import TensorSource
from ..weights.text import show
from .checks import check_images, check_whole

SIDE = 299
Output = Literal["64", "192", "768", "2048", "logits_unbiased", "logits"]
OUTPUTS: tuple[Output, ...] = ("64", "192", "768", "2048", "logits_unbiased", "logits")
Resize = Literal["tensorflow", "pil"]


class Conv(NamedTuple):
    """A convolution without bias, batch norm and ReLU. Stride 1 keeps the size."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Pool(NamedTuple):
    """3x3: the mean without padding, or the maximum. Stride 1 keeps the size."""

    kind: Literal["mean", "max"]
    stride: int = 1


class Fork(NamedTuple):
    """Two convolutions of one input, side by side."""

    left: Conv
    right: Conv


Branch = tuple[Conv | Pool | Fork, ...]


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (Pool("mean"), Conv("branch_pool", pooled)),
    )


_B: tuple[Branch, ...] = (
    (Conv("branch3x3", 384, (3, 3), 2),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2),
    ),
    (Pool("max", 2),),
)


def _c(inner: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", inner),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (Pool("mean"), Conv("branch_pool", 192)),
    )


_D: tuple[Branch, ...] = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    ),
    (Pool("max", 2),),
)


def _e(pool: Literal["mean", "max"]) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            Fork(Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            Fork(Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


_BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e("mean"),
    "Mixed_7c": _e("max"),
}


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, conv: Conv, padded: bool = True):
        super().__init__()
        tall, wide = conv.kernel
        padding = (tall // 2, wide // 2) if padded and conv.stride == 1 else (0, 0)
        self.conv = nn.Conv2d(
            channels, conv.channels, conv.kernel, stride=conv.stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm2d(conv.channels, eps=1e-3)
        self.bn.register_buffer("num_batches_tracked", None)  # of training

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Block(nn.Module):
    """Branches of one input, side by side."""

    def __init__(self, channels: int, branches: tuple[Branch, ...]):
        super().__init__()
        self.branches = branches
        self.channels = 0
        for branch in branches:
            self.channels += self._build(channels, branch)

    def _build(self, channels: int, branch: Branch) -> int:
        for step in branch:
            if isinstance(step, Conv):
                self.add_module(step.name, _ConvNorm(channels, step))
                channels = step.channels
            elif isinstance(step, Fork):
                for conv in step:
                    self.add_module(conv.name, _ConvNorm(channels, conv))
                channels = step.left.channels + step.right.channels
        return channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(x, branch) for branch in self.branches], 1)

    def _run(self, x: Tensor, branch: Branch) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            elif isinstance(step, Fork):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], 1)
            else:
                x = _pool(x, step)
        return x


def _pool(x: Tensor, pool: Pool) -> Tensor:
    padding = 1 if pool.stride == 1 else 0
    if pool.kind == "max":
        return F.max_pool2d(x, 3, pool.stride, padding)
    return F.avg_pool2d(x, 3, pool.stride, padding, count_include_pad=False)


class InceptionV3(nn.Module):
    """Features of pictures: uint8 [N, 3, H, W] -> float32 [N, 2048] (or another output's width).

    Args:
        file: safetensors in torch-fidelity's layout (Conv2d_1a_3x3.conv.weight, ..., fc.bias).
        output: "2048" is that of FID; "64", "192" and "768" are means of earlier layers.
        resize: what a picture that is not 299x299 goes through. "tensorflow": bilinear without
            antialiasing, as TensorFlow 1 and so torch-fidelity and torchmetrics; "pil": bicubic
            with antialiasing, each channel in floating point and not rounded again, as clean-fid
            (Parmar et al. 2022, arXiv:2104.11222). Figures of the two do not compare.
        batch: pictures at once.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None,
        output: Output = "2048",
        resize: Resize = "tensorflow",
        batch: int = 32,
    ):
        super().__init__()
        if output not in OUTPUTS:
            raise RequestError(f"output: expected one of {', '.join(OUTPUTS)}, given {output!r}")
        if resize not in ("tensorflow", "pil"):
            raise RequestError(f"resize: expected tensorflow or pil, given {resize!r}")
        self.output, self.resize = output, resize
        self.batch = check_whole("batch", batch, 1)
        with torch.device("meta"):
            self._build()
        self.eval().requires_grad_(False)
        if file is not None:
            with _open(file) as source:
                load_module(self, source, dtype=torch.float32, harmless=("*.num_batches_tracked",))

    @property
    def name(self) -> str:
        """What a distance over it is a distance over."""
        return f"inception-v3-{self.output} ({self.resize} resizing)"

    def _build(self) -> None:
        self.Conv2d_1a_3x3 = _ConvNorm(3, Conv("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = _ConvNorm(32, Conv("", 32, (3, 3)), padded=False)
        self.Conv2d_2b_3x3 = _ConvNorm(32, Conv("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = _ConvNorm(64, Conv("", 80))
        self.Conv2d_4a_3x3 = _ConvNorm(80, Conv("", 192, (3, 3)), padded=False)
        channels = 192
        for name, branches in _BLOCKS.items():
            block = _Block(channels, branches)
            # A pooled branch keeps the block's input.
            channels = block.channels
            self.add_module(name, block)
        self.fc = nn.Linear(channels, 1008)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """The features of pictures.

        Args:
            images: uint8 [N, 3, H, W].

        Returns:
            float32 [N, 2048], or another output's width.
        """
        images = check_images(images)
        device = self.fc.weight.device
        return (
            torch.cat(
                [
                    self._features(resized(images[i : i + self.batch].to(device), self.resize))
                    for i in range(0, len(images), self.batch)
                ]
            )
            if len(images)
            else torch.empty(0, self._width())
        )

    def _width(self) -> int:
        return int(self.output) if self.output.isdigit() else self.fc.out_features

    def _features(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3((x - 128) / 128)))
        x = F.max_pool2d(x, 3, 2)
        if self.output == "64":
            return x.mean((2, 3))
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        if self.output == "192":
            return x.mean((2, 3))
        for name in _BLOCKS:
            if name == "Mixed_7a" and self.output == "768":
                return x.mean((2, 3))
            x = self.get_submodule(name)(x)
        x = x.mean((2, 3))
        if self.output == "2048":
            return x
        return F.linear(x, self.fc.weight, self.fc.bias if self.output == "logits" else None)


def _open(file: str | os.PathLike[str]) -> TensorSource:
    path = Path(file)
    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"file: expected a .safetensors file, given {show(str(path))}")
    return TensorSource([SafetensorsFile(path)], str(path))


def resized(images: Tensor, how: Resize) -> Tensor:
    """uint8 [N, 3, H, W] -> float32 [N, 3, 299, 299] of 0..255."""
    if how == "tensorflow":
        return _bilinear(images.float())
    planes = images.cpu().numpy().astype(np.float32).reshape(-1, *images.shape[2:])
    bicubic = [
        np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for p in planes
    ]
    made = torch.from_numpy(np.stack(bicubic)).view(len(images), 3, SIDE, SIDE)
    # clean-fid clips what bicubic interpolation overshoots.
    return made.clamp(0, 255).to(images.device)


def _bilinear(x: Tensor) -> Tensor:
    """As TensorFlow 1: pixel i of the result lies at i * H / 299 of the picture, not at the middles
    of pixels.
    """
    low, high, share = zip(*(_places(n, x.device) for n in x.shape[2:]), strict=True)
    rows = torch.lerp(x[:, :, low[0]], x[:, :, high[0]], share[0].view(-1, 1))
    return torch.lerp(rows[..., low[1]], rows[..., high[1]], share[1])


def _places(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.arange(SIDE, dtype=torch.float32, device=device) * (size / SIDE)
    low = at.long()
    return low, (low + 1).clamp(max=size - 1), at - low
