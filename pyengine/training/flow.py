"""`pyengine train flow`: a conditional normalising flow, a small Glow.

An invertible network between pictures and normal numbers, trained on the exact likelihood: by the
change of variables log p(x | c) = log N(f(x; c)) + log |det df/dx|. Dinh et al. 2017,
arXiv:1605.08803 (affine coupling, several scales); Kingma & Dhariwal 2018, arXiv:1807.03039
(activation norm, invertible 1x1 convolution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import course
from .generator import Condition, Modulated, seeded
from .model_folder import write_json
from .small import Batch, Data, SmallRecipe, SmallSettings
from .small_folder import write_model

#: The logarithm of a coupling's scale lies within so much of zero.
MOST_LOG_SCALE = 2.0
#: Values of a stored number: those of a pixel's channel are spread over so many by noise.
LEVELS = 256


@dataclass(frozen=True)
class FlowSettings(SmallSettings):
    """patch: pixels a side that become channels first; steps_of: flow steps of each scale, the
    sides half as long from one to the next; hidden: channels of a scale's coupling networks; told:
    width of what they are told of the text, layout: channels of what they are told of each place.
    """

    SHAPE = ("size", "patch", "steps_of", "hidden", "told", "layout")

    patch: int = 4
    steps_of: tuple[int, ...] = (4, 3, 2)
    hidden: tuple[int, ...] = (64, 48, 16)
    told: int = 64
    layout: int = 4
    rate: float = 1e-3
    steps: int = 9000
    cooldown: int = 4500

    def config(self, text_width: int) -> dict[str, Any]:
        """config.json of the engine's Glow."""
        return {
            "_class_name": "Glow",
            "text_encoder": "emoji",
            "text_width": text_width,
            "sample_size": self.size,
            "patch_size": self.patch,
            "flow_steps": list(self.steps_of),
            "hidden_channels": list(self.hidden),
            "condition_channels": self.told,
            "layout_channels": self.layout,
        }


class Affine(nn.Module):
    """Activation norm, whose scale and offset are those of the channels in the first batch, and an
    invertible 1x1 convolution, a rotation at first.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, x: Any) -> tuple[Any, Any]:
        """x [N, C, H, W] -> (y, log |det dy/dx|, the same of all), in float32."""
        with torch.autocast(x.device.type, enabled=False):
            y = (x + self.shift[:, None, None]) * self.log_scale.exp()[:, None, None]
            volume = self.log_scale.sum() + torch.linalg.slogdet(self.mix)[1]
            return functional.conv2d(y, self.mix[:, :, None, None]), volume * x[0, 0].numel()

    @torch.no_grad()
    def begin(self, x: Any) -> None:
        """Sets the activation norm so that x, a batch, comes out with mean 0 and deviation 1."""
        self.shift.copy_(-x.mean(dim=(0, 2, 3)))
        self.log_scale.copy_(-(x.std(dim=(0, 2, 3)) + 1e-3).log())


class Step(nn.Module):
    """Activation norm, an invertible 1x1 convolution and an affine coupling."""

    def __init__(self, channels: int, hidden: int, condition: int, layout: int):
        super().__init__()
        self.affine = Affine(channels)
        self.conv1 = nn.Conv2d(channels // 2 + layout, hidden, 3, padding=1)
        self.norm1 = Modulated(condition, hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 1)
        self.norm2 = Modulated(condition, hidden)
        self.conv3 = nn.Conv2d(hidden, channels, 3, padding=1)
        for parameter in self.conv3.parameters():
            nn.init.zeros_(parameter)

    def coupling(self, kept: Any, condition: Any, layout: Any) -> tuple[Any, Any]:
        """(log scale, shift) of the half that changes, from the half that is kept."""
        h = self.conv1(torch.cat([kept, layout], dim=1))
        h = self.conv2(self.norm1(h, condition))
        raw, shift = self.conv3(self.norm2(h, condition)).float().chunk(2, dim=1)
        return MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE), shift

    def forward(self, x: Any, condition: Any, layout: Any) -> tuple[Any, Any]:
        """x [N, C, H, W] -> (y, log |det dy/dx| [N])."""
        x, fixed = self.affine(x)
        kept, changed = x.chunk(2, dim=1)
        log_scale, shift = self.coupling(kept, condition, layout)
        y = torch.cat([kept, changed * log_scale.exp() + shift], dim=1)
        return y, fixed + log_scale.sum(dim=(1, 2, 3))


class Flow(nn.Module):
    """Pictures to latents, with the logarithm of the determinant."""

    def __init__(self, settings: FlowSettings, text_width: int):
        super().__init__()
        self.patch, told, layout = settings.patch, settings.told, settings.layout
        self.condition = Condition(text_width, told)
        self.scales, self.priors, self.layouts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels, last = 3 * settings.patch**2, len(settings.steps_of) - 1
        for place, (count, hidden) in enumerate(
            zip(settings.steps_of, settings.hidden, strict=True)
        ):
            side = settings.size // settings.patch >> place
            steps = (Step(channels, hidden, told, layout) for _ in range(count))
            self.scales.append(nn.ModuleList(steps))
            self.layouts.append(nn.Linear(told, side * side * layout))
            out = channels if place == last else channels // 2
            prior = nn.Linear(told, 2 * out)
            nn.init.zeros_(prior.weight)
            nn.init.zeros_(prior.bias)
            self.priors.append(prior)
            channels = 2 * channels  # half of them leave, the squeeze makes four of each left

    def forward(self, text: Any, images: Any, begin: bool = False) -> tuple[Any, Any]:
        """(text vectors [N, C], pictures [N, 3, H, W] in -1..1) -> (latents [N, 3 * H * W], log
        |det of latents by pictures| [N]). begin: set the activation norms by this batch.
        """
        condition = self.condition(text)
        x, logdet, latents = functional.pixel_unshuffle(images, self.patch), 0.0, []
        for place, (scale, prior) in enumerate(zip(self.scales, self.priors, strict=True)):
            if place:
                x = functional.pixel_unshuffle(x, 2)
            told = self.layouts[place](condition).view(len(x), *x.shape[2:], -1)
            layout = told.permute(0, 3, 1, 2)
            assert isinstance(scale, nn.ModuleList)
            for step in scale:
                assert isinstance(step, Step)
                if begin:
                    step.affine.begin(x)
                x, own = step(x, condition, layout)
                logdet = logdet + own
            z = x
            if place < len(self.scales) - 1:
                x, z = x.chunk(2, dim=1)
            mean, log_scale = prior(condition).float()[:, :, None, None].chunk(2, dim=1)
            z = (z - mean) * (-log_scale).exp()
            logdet = logdet - log_scale.sum(dim=(1, 2, 3)) * z.shape[2] * z.shape[3]
            latents.append(z.permute(0, 2, 3, 1).flatten(1))
        return torch.cat(latents, dim=1), logdet


def log_likelihood(latents: Any, logdet: Any) -> Any:
    """log p of pictures in nats [N]: of normal latents [N, D], and log |det| [N]."""
    size = latents.shape[1]
    return -0.5 * (latents.square().sum(dim=1) + size * math.log(2 * math.pi)) + logdet


def bits_per_dimension(nats: Any, size: int) -> Any:
    """Bits a number of log p = nats of pictures in -1..1, whose values are 2 / LEVELS apart."""
    return -nats / (size * math.log(2)) + math.log2(LEVELS / 2)


class Networks(course.Networks):
    """The flow."""

    MEASURES = ("loss", "bits")
    CPU_AUTOCAST = True

    def __init__(self, settings: FlowSettings, data: Data, device: str, seed: int):
        self.settings, self.device, self.text_width = settings, device, data.text.width
        self.flow = seeded(seed, lambda: Flow(settings, data.text.width))
        self.flow.to(device, memory_format=torch.channels_last)
        self.parameters = list(self.flow.parameters())
        self.begun = False

    @property
    def exported(self) -> dict[str, Any]:
        return {"flow": self.flow}

    def before_step(self, step: int, batches: Any) -> None:
        self.begun = step > 0

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """Bits a number: -log2 p(x + u | c) / D, u uniform over a stored value's width (Theis et
        al. 2016, arXiv:1511.01844: it bounds the bits of the stored values from above).
        """
        images = spread(batch.images, batch.generator)
        latents, logdet = self.flow(batch.vectors, images, begin=not self.begun)
        size = latents.shape[1]
        bits = bits_per_dimension(log_likelihood(latents, logdet), size).mean()
        return bits, bits

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.flow.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state)


def spread(images: Any, generator: Any) -> Any:
    """Pictures in -1..1 of 256 values with uniform noise as wide as a value, within -1..1."""
    values = ((images + 1) * 127.5).round()
    noise = torch.rand(images.shape, generator=generator).to(images.device)
    return (values + noise) * (2 / LEVELS) - 1


def write(folder: Path, networks: Networks) -> None:
    config = networks.settings.config(networks.text_width)
    write_model(folder / "flow", config, {"flow": networks.flow})
    index = {"_class_name": "GlowPipeline", "flow": ["pyengine", "Glow"]}
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", {"temperature": 0.7})


CARD = """# A small normalising flow that draws emoji

Text and normal numbers to 64x64 pictures by an invertible network, a Glow of {count} steps, trained
on the exact likelihood. `encode` gives the latents of a picture, and these draw it again.
Its samples are the weakest of the small models, blobs in the right colours: a flow spends what it
learns on every pixel's exact value, and this one is shallow.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-flow")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
""".replace("{count}", str(sum(FlowSettings.steps_of)))


def rows(settings: FlowSettings) -> dict[str, str]:
    return {
        "flow steps": f"{' + '.join(map(str, settings.steps_of))} at sides of"
        f" {', '.join(str(settings.size // settings.patch >> i) for i in range(3))}",
        "loss": "bits a number, with uniform dequantisation",
    }


RECIPE = SmallRecipe(
    name="flow",
    settings=FlowSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("bits",),
)
