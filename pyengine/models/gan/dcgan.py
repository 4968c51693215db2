"""DCGAN: a picture from a vector, by transposed convolutions.

Radford et al. 2015, arXiv:1511.06434; the layout is that of PyTorch's examples: an nn.Sequential
called `main`, of a transposed convolution without bias, batch norm and ReLU in turn, and tanh.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Linear
from ...ops import Recordings
from ...weights import read_config
from ..base import Model
from .folding import batch_norm_affine
from .transposed import KERNEL, TransposedConv2d

_CHANNELS = {"min": 1, "max": 8192, "max_items": 8}
#: Modules of nn.Sequential from one transposed convolution to the next: itself, norm, activation.
STEP = 3
#: Pictures of a call whose kernels are noted, to be called again without the Python between them.
MOST_RECORDED = 16


@dataclass(frozen=True)
class DCGANConfig:
    """config.json, in names of ours: DCGANs are published as single files without one.

    latent_channels: numbers in a latent. block_out_channels: of each hidden layer, from 4x4 pixels
    on, each with sides twice as long as the one before.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    model_type: Literal["dcgan"] = "dcgan"
    latent_channels: int = field(default=100, metadata=_CHANNELS)
    block_out_channels: tuple[int, ...] = field(default=(512, 256, 128, 64), metadata=_CHANNELS)
    out_channels: Literal[1, 3] = 3

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "DCGANConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    @property
    def sample_size(self) -> int:
        """Pixels along a side."""
        return KERNEL << len(self.block_out_channels)

    def __post_init__(self) -> None:
        if not self.block_out_channels:
            raise ValueError("block_out_channels: expected at least one, found none")


class _Weights(nn.Module):
    """A transposed convolution's weight as it is saved, [in, out, 4, 4], until it is folded."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        shape = in_channels, out_channels, KERNEL, KERNEL
        self.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class _BatchNorm(nn.Module):
    """Batch norm's parameters and running statistics, until they are folded."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("weight", "bias"):
            empty = torch.empty(channels, device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(channels, device="meta"))

    def affine(self) -> tuple[Tensor, Tensor]:
        # nn.Module's attributes are Tensor | Module to mypy.
        values = [getattr(self, n) for n in ("weight", "bias", "running_mean", "running_var")]
        return batch_norm_affine(*values)


class _Stack(nn.Module):
    """The nn.Sequential: as saved until `pack`, then layers with the norms in their weights."""

    def __init__(self, c: DCGANConfig):
        super().__init__()
        widths = (c.latent_channels, *c.block_out_channels, c.out_channels)
        self.count = len(widths) - 1
        for i in range(self.count):
            self.add_module(str(STEP * i), _Weights(widths[i], widths[i + 1]))
            if i < self.count - 1:
                self.add_module(str(STEP * i + 1), _BatchNorm(widths[i + 1]))
        self.first: Linear | None = None
        self.rest = nn.ModuleList()

    def pack(self) -> None:
        if self.first is None:
            first, *rest = self._folded()
            for name in [n for n, _ in self.named_children() if n.isdigit()]:
                delattr(self, name)
            self.first = _projection(*first)
            self.rest = nn.ModuleList(_transposed(*layer) for layer in rest)

    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """(weight [in, out, 4, 4], bias [out]) of every layer, in the dtype that was loaded."""
        folded = []
        for i in range(self.count):
            weight = self.get_submodule(str(STEP * i)).get_parameter("weight").detach()
            bias = weight.new_zeros(weight.shape[1])
            if i < self.count - 1:
                norm = self.get_submodule(str(STEP * i + 1))
                assert isinstance(norm, _BatchNorm)
                scale, shift = norm.affine()
                kind = weight.dtype
                weight, bias = (weight.double() * scale[:, None, None]).to(kind), shift.to(kind)
            folded.append((weight, bias))
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """[N, latent_channels] -> [N, H, W, C], before tanh."""
        if self.first is None:
            first, *others = self._folded()
            projection, rest = _projection(*first), [_transposed(*layer) for layer in others]
        else:
            projection, rest = self.first, [*self.rest]
        # From one pixel to 4x4 of them a transposed convolution is a matrix product.
        y: Tensor = projection(x).view(len(x), KERNEL, KERNEL, -1)
        for i, layer in enumerate(rest):
            before = "none" if i else "relu"
            y = layer(y, relu=i < len(rest) - 1, input_activation=before)
        return y


def _projection(weight: Tensor, bias: Tensor) -> Linear:
    """The first layer, [in] -> [4 * 4 * out]."""
    layer = Linear(weight.shape[0], KERNEL * KERNEL * weight.shape[1])
    matrix = weight.permute(2, 3, 1, 0).reshape(layer.out_features, layer.in_features)
    layer.weight = nn.Parameter(matrix.contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.repeat(KERNEL * KERNEL), requires_grad=False)
    layer.pack()
    return layer


def _transposed(weight: Tensor, bias: Tensor) -> TransposedConv2d:
    layer = TransposedConv2d(weight.shape[0], weight.shape[1])
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    layer.pack()
    return layer


class DCGANGenerator(Model):
    """Latents to pictures.

    pictures = generator(latents)            # [N, z, 1, 1] -> [N, out_channels, H, W] in -1..1
    """

    config_class = DCGANConfig
    hides_infinity = True
    #: How often batch norm was updated in training.
    harmless_extra = ("main.*.num_batches_tracked",)

    def __init__(self, config: DCGANConfig):
        super().__init__(config)
        self.main = _Stack(config)
        self.recordings = Recordings()

    @inference
    def forward(self, latents: Tensor) -> Tensor:
        """latents: [N, latent_channels, 1, 1], standard normal -> [N, out_channels, H, W], -1..1.

        Raises RequestError for another shape.
        """
        z = self.config.latent_channels
        if latents.dim() != 4 or tuple(latents.shape[1:]) != (z, 1, 1) or not len(latents):
            raise RequestError(f"latents: expected [N, {z}, 1, 1], given {list(latents.shape)}")
        x = latents.to(self.device, self.dtype).flatten(1)
        with self.arena.use():
            if len(x) <= MOST_RECORDED:
                y = self.recordings(self, self._recorded, x[:, None, None], ())
            else:
                y = self.main(x)
            out = y.new_empty(len(y), y.shape[3], *y.shape[1:3])
            # A picture at a time: torch then has no need of its threads, which go on spinning
            # beside ours.
            for picture, made in zip(out, y, strict=True):
                picture.copy_(made.permute(2, 0, 1)).tanh_()
            return out

    def _recorded(self, x: Tensor, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        """[N, 1, 1, latent_channels] -> [N, H, W, C], before tanh."""
        y: Tensor = self.main(x.flatten(1))
        return y
