"""A conditional normalising flow: an invertible network between pictures and normal numbers.

Kingma & Dhariwal 2018, arXiv:1807.03039: activation norm, invertible 1x1 convolution and affine
coupling (Dinh et al. 2017, arXiv:1605.08803), at several scales.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Linear, PointwiseConv2d
from ...weights import read_config
from ..base import Model
from .generator import PATCH, WIDTH, WIDTHS, Condition, Modulated, check_vectors, shuffled
from .vae import unshuffled

#: The logarithm of a coupling's scale lies within so much of zero.
MOST_LOG_SCALE = 2.0
STEPS = {"min": 1, "max": 64, "max_items": 8}
SIDE = {"min": 1, "max": 1024}


@dataclass(frozen=True)
class GlowConfig:
    """config.json, in names of ours.

    text_encoder: the shipped model whose text encoder it is conditioned on; text_width: of that.
    sample_size: pixels along a side. patch_size: pixels a side that become channels first.
    flow_steps: of each scale, the sides half as long from one to the next; hidden_channels: of the
    coupling networks. condition_channels: of what they are told of the text; layout_channels: of
    what it tells them of each place.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    text_encoder: Literal["emoji"] = "emoji"
    text_width: int = field(default=128, metadata=WIDTH)
    sample_size: int = field(default=64, metadata=SIDE)
    patch_size: int = field(default=4, metadata=PATCH)
    flow_steps: tuple[int, ...] = field(default=(4, 3, 2), metadata=STEPS)
    hidden_channels: tuple[int, ...] = field(default=(64, 64, 32), metadata=WIDTHS)
    condition_channels: int = field(default=64, metadata=WIDTH)
    layout_channels: int = field(default=4, metadata=WIDTH)
    _class_name: Literal["Glow"] = "Glow"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "GlowConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        if not self.flow_steps or len(self.flow_steps) != len(self.hidden_channels):
            raise ValueError(
                "hidden_channels: expected one of each scale, as many as flow_steps, at least one,"
                f" found {len(self.hidden_channels)} and {len(self.flow_steps)}"
            )
        if self.patch_size % 2:
            raise ValueError(f"patch_size: expected an even number, found {self.patch_size}")
        least = self.patch_size << (len(self.flow_steps) - 1)
        if self.sample_size % least:
            raise ValueError(f"sample_size: expected a multiple of {least}, found"
                             f" {self.sample_size}")  # fmt: skip

    @property
    def scales(self) -> list[tuple[int, int, int]]:
        """(side, channels, channels that become latents) of each scale."""
        side, channels, found = self.sample_size // self.patch_size, 3 * self.patch_size**2, []
        last = len(self.flow_steps) - 1
        for place in range(last + 1):
            found.append((side, channels, channels if place == last else channels // 2))
            side, channels = side // 2, channels * 2
        return found

    @property
    def latent_size(self) -> int:
        """Numbers in a latent: as many as in a picture."""
        return 3 * self.sample_size**2


class Affine(nn.Module):
    """Activation norm and 1x1 convolution: y = mix ((x + shift) exp(log_scale)), and back.

    The product of both, and its inverse, are made once in float64.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        for name, shape in (("shift", [channels]), ("log_scale", [channels]),
                            ("mix", [channels, channels])):  # fmt: skip
            empty = torch.empty(shape, device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        self.ways: tuple[Linear, Linear] | None = None
        self.log_volume = 0.0

    def pack(self) -> None:
        if self.ways is None:
            self.ways = self._made()

    def _made(self) -> tuple[Linear, Linear]:
        """The way to the latents, and the way back; sets log_volume, log |det| of the first."""
        kind = self.get_parameter("shift").dtype
        shift, log_scale, mix = (
            self.get_parameter(name).detach().double() for name in ("shift", "log_scale", "mix")
        )
        matrix = mix * log_scale.exp()
        self.log_volume = float(log_scale.sum() + torch.linalg.slogdet(mix)[1])
        ways = []
        for weight, bias in ((matrix, matrix @ shift), (torch.linalg.inv(matrix), -shift)):
            layer = Linear(self.channels, self.channels)
            layer.weight = nn.Parameter(weight.to(kind).contiguous(), requires_grad=False)
            layer.bias = nn.Parameter(bias.to(kind), requires_grad=False)
            layer.pack()
            ways.append(layer)
        return ways[0], ways[1]

    def forward(self, x: Tensor, back: bool = False) -> Tensor:
        made: Tensor = (self.ways or self._made())[back](x)
        return made


class FlowStep(nn.Module):
    """An Affine and an affine coupling of the halves of the channels."""

    def __init__(self, channels: int, hidden: int, condition: int, layout: int):
        super().__init__()
        self.kept = channels // 2
        self.affine = Affine(channels)
        self.conv1 = Conv2d(self.kept + layout, hidden)
        self.norm1 = Modulated(condition, hidden)
        self.conv2 = PointwiseConv2d(hidden, hidden)
        self.norm2 = Modulated(condition, hidden)
        self.conv3 = Conv2d(hidden, channels)

    def coupling(self, kept: Tensor, condition: Tensor, layout: Tensor) -> tuple[Tensor, Tensor]:
        """(log scale, shift) of the half that changes, from the half that is kept."""
        h = self.conv1(torch.cat([kept, layout], dim=-1))
        h = self.conv2(h, **self.norm1(condition))
        raw, shift = self.conv3(h, **self.norm2(condition)).chunk(2, dim=-1)
        return MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE), shift

    def forward(self, x: Tensor, condition: Tensor, layout: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, H, W, C] -> (y, log |det dy/dx|, float64 [N]). layout: [N, H, W, L]."""
        x = self.affine(x)
        kept, changed = x[..., : self.kept], x[..., self.kept :]
        log_scale, shift = self.coupling(kept, condition, layout)
        y = torch.cat([kept, changed * log_scale.exp() + shift], dim=-1)
        fixed = self.affine.log_volume * x.shape[1] * x.shape[2]
        return y, fixed + torch.stack([row.double().sum() for row in log_scale])

    def inverse(self, y: Tensor, condition: Tensor, layout: Tensor) -> Tensor:
        kept, changed = y[..., : self.kept], y[..., self.kept :]
        log_scale, shift = self.coupling(kept, condition, layout)
        x = torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=-1)
        made: Tensor = self.affine(x, back=True)
        return made


class Flow(nn.Module):
    """All steps of all scales, and what the text says of each: the prior of its latents, and the
    layout that its couplings are told.
    """

    def __init__(self, c: GlowConfig):
        super().__init__()
        self.patch, self.sizes = c.patch_size, c.scales
        self.condition = Condition(c.text_width, c.condition_channels)
        told, layout = c.condition_channels, c.layout_channels
        self.scales = nn.ModuleList(
            nn.ModuleList(FlowStep(channels, hidden, told, layout) for _ in range(count))
            for count, hidden, (_, channels, _) in zip(
                c.flow_steps, c.hidden_channels, self.sizes, strict=True
            )
        )
        self.priors = nn.ModuleList(Linear(told, 2 * out) for *_, out in self.sizes)
        self.layouts = nn.ModuleList(Linear(told, side**2 * layout) for side, *_ in self.sizes)

    def _prior(self, place: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log scale) of a scale's latents, [N, 1, 1, C] each."""
        mean, log_scale = self.priors[place](condition)[:, None, None].chunk(2, dim=-1)
        return mean, log_scale

    def _layout(self, place: int, condition: Tensor) -> Tensor:
        """What the text says of each place of a scale, [N, side, side, L]."""
        side = self.sizes[place][0]
        told: Tensor = self.layouts[place](condition)
        return told.view(len(condition), side, side, -1)

    def forward(self, text: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C], [N, 3, H, W] -> (latents [N, D], log |det of them by the pictures|, float64)."""
        condition = self.condition(text)
        x, latents = unshuffled(images, self.patch), []
        logdet = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for place, steps in enumerate(self.scales):
            if place:
                x = unshuffled(x.permute(0, 3, 1, 2), 2)
            assert isinstance(steps, nn.ModuleList)
            layout = self._layout(place, condition)
            for step in steps:
                x, own = step(x, condition, layout)
                logdet = logdet + own
            side, channels, out = self.sizes[place]
            mean, log_scale = self._prior(place, condition)
            z = (x[..., channels - out :] - mean) * (-log_scale).exp()
            x = x[..., : channels - out]
            total = torch.stack([row.double().sum() for row in log_scale])
            logdet = logdet - total * side * side
            latents.append(z.flatten(1))
        return torch.cat(latents, dim=1), logdet

    def inverse(self, text: Tensor, latents: Tensor) -> Tensor:
        """[N, C], [N, D] -> pictures [N, 3, H, W]."""
        condition = self.condition(text)
        parts = latents.split([side * side * out for side, _, out in self.sizes], dim=1)
        x: Tensor | None = None
        for place in reversed(range(len(self.scales))):
            side, _, out = self.sizes[place]
            mean, log_scale = self._prior(place, condition)
            z = parts[place].reshape(-1, side, side, out) * log_scale.exp() + mean
            x = z if x is None else torch.cat([x, z], dim=-1)
            steps = self.scales[place]
            assert isinstance(steps, nn.ModuleList)
            layout = self._layout(place, condition)
            for step in reversed(steps):
                assert isinstance(step, FlowStep)
                x = step.inverse(x, condition, layout)
            if place:
                x = shuffled(x, 2, x.shape[3] // 4).permute(0, 2, 3, 1)
        assert x is not None  # there is at least one scale
        return shuffled(x.contiguous(), self.patch)


class Glow(Model):
    """Texts and latents to pictures, texts and pictures to latents, exactly.

    images = glow(text, latents)               # [N, C], [N, D] -> [N, 3, H, W], about -1..1
    latents, logdet = glow.encode(text, images)
    """

    config_class = GlowConfig
    hides_infinity = True

    def __init__(self, config: GlowConfig):
        super().__init__(config)
        self.flow = Flow(config)

    @inference
    def forward(self, text: Tensor, latents: Tensor) -> Tensor:
        """Pictures of texts.

        Args:
            text: [N, text_width], a text's vector.
            latents: [N, latent_size], standard normal.

        Returns:
            [N, 3, H, W], not limited to -1..1.

        Raises:
            RequestError: for other shapes.
        """
        check_vectors("text", text, self.config.text_width)
        check_vectors("latents", latents, self.config.latent_size, len(text))
        with self.arena.use():
            text, latents = (t.to(self.device, self.dtype) for t in (text, latents))
            return to_pixels(self.flow.inverse(text, latents))

    @inference
    def encode(self, text: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of pictures, and how much the way there stretches.

        Args:
            text: [N, text_width], a text's vector.
            images: [N, 3, H, W] in -1..1.

        Returns:
            ([N, latent_size], log |det| of the latents by the spread values, see `from_pixels`,
            float64 [N]).

        Raises:
            RequestError: for other shapes.
        """
        check_vectors("text", text, self.config.text_width)
        side = self.config.sample_size
        if tuple(images.shape) != (len(text), 3, side, side):
            raise RequestError(f"images: expected [{len(text)}, 3, {side}, {side}], given"
                               f" {list(images.shape)}")  # fmt: skip
        with self.arena.use():
            text, images = (t.to(self.device, self.dtype) for t in (text, images))
            latents, logdet = self.flow(text, from_pixels(images))
            return latents.clone(), logdet


def from_pixels(images: Tensor) -> Tensor:
    """-1..1, whose ends are the values 0 and 255, to the middles of 256 ranges that fill -1..1: the
    flow is trained on these, with noise within each range.
    """
    return ((images + 1) * 127.5 + 0.5) / 128 - 1


def to_pixels(x: Tensor) -> Tensor:
    """The way back of `from_pixels`."""
    return ((x + 1) * 128 - 0.5) / 127.5 - 1
