"""The autoencoder: 64x64 RGB to 16x16 latents of four channels and back.

Loss: L1 + L2, the same L2 on pictures averaged over 8x8 (small networks shift
flat colours, greens above all), and a small KL term that keeps the latents
smooth enough for a small noise predictor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import coder, dataset, loop


@dataclass(frozen=True)
class AutoencoderSettings(loop.Settings):
    """Shape of the network and course of its training."""

    SHAPE = ("channels", "layers", "latent_channels", "groups", "size")

    channels: tuple[int, ...] = (16, 32, 64)
    layers: int = 1
    latent_channels: int = 4
    groups: int = 8
    size: int = 64
    steps: int = 3000
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 100
    cooldown: int = 1500
    kl: float = 3e-4
    colour: float = 4.0
    decay: float = 0.995

    @property
    def side(self) -> int:
        """Of the latents."""
        return self.size >> len(self.channels) - 1


def build(settings: AutoencoderSettings) -> Any:
    """A diffusers AutoencoderKL without attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**coder.blocks(settings), force_upcast=False)  # type: ignore[no-untyped-call]  # no types in diffusers


class Networks(coder.Networks):
    """The autoencoder, as :mod:`.course` trains it.

    decoder_of: a trained model whose decoder is trained further, while its encoder keeps its
    weights, so that latents computed before stay right; None trains everything from the start.
    """

    MEASURES = ("total", "l1", "l2", "colour", "kl")

    def __init__(
        self, settings: AutoencoderSettings, device: str, seed: int, decoder_of: Any = None
    ):
        super().__init__(settings, device, seed, build)
        trained = self.model
        if decoder_of is not None:
            self.model.load_state_dict(decoder_of.state_dict())
            trained = coder.decoder_of(self.model)
        self.parameters = list(trained.parameters())

    def loss(self, images: Any, noise: Any) -> tuple[Any, ...]:
        """(the weighted sum, l1, l2, colour, kl) of pictures, whose latents get the noise."""
        posterior = self.model.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise
        terms = coder.error_terms(self.model.decode(latents).sample - images)
        terms["kl"] = (
            0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        )
        return coder.total(terms, self.settings), *terms.values()


class Batches:
    """The batch of a step, a function of its number.

    favourites: rows of the noise predictor's pictures; half of each batch is sampled from these.
    """

    def __init__(
        self,
        pictures: dataset.Pictures,
        favourites: np.ndarray,
        settings: AutoencoderSettings,
        stage: str,
        seed: int,
        device: str,
    ):
        self.pictures, self.favourites, self.settings = pictures, favourites, settings
        self.stage, self.seed, self.device = stage, seed, device

    def __call__(self, step: int) -> tuple[Any, Any]:
        """(pictures [batch, 3, H, W] in [-1, 1], noise of their latents) for `Networks.loss`."""
        import torch

        s, numbers = self.settings, loop.numbers(self.seed, self.stage, step)
        half = s.batch // 2 if len(self.favourites) else 0
        rows = np.concatenate(
            [
                numbers.choice(self.favourites, half) if half else [],
                numbers.integers(len(self.pictures), size=s.batch - half),
            ]
        ).astype(np.int64)
        images = coder.mirrored(self.pictures.images[rows], numbers)
        shape = (len(images), s.latent_channels, s.side, s.side)
        noise = torch.randn(shape, generator=loop.torch_numbers(self.seed, self.stage, step))
        noise = noise.to(self.device, memory_format=torch.channels_last)
        return dataset.to_float(images).to(self.device), noise


def train(
    pictures: dataset.Pictures,
    favourites: np.ndarray,
    folder: Path,
    settings: AutoencoderSettings,
    *,
    seed: int,
    device: str = "cpu",
    only_decoder: bool = False,
    save_seconds: float = 120.0,
    log_every: int = 50,
    echo: Callable[[str], None] = print,
) -> Any:
    """Train, or go on with, the autoencoder or, into another checkpoint, only its decoder; returns
    it with averaged weights. favourites: see Batches.
    """
    stage = "decoder" if only_decoder else "autoencoder"
    trained = load(folder, settings, device) if only_decoder else None
    networks = Networks(settings, device, seed, trained)
    batches = Batches(pictures, favourites, settings, stage, seed, device)
    log = loop.Log(folder / "log.jsonl", stage, log_every, echo)
    return coder.train(networks, batches, folder / f"{stage}.pt", log, save_seconds=save_seconds)


def load(folder: Path, settings: AutoencoderSettings, device: str = "cpu") -> Any:
    """The trained autoencoder with averaged weights: after the decoder stage where there is one."""
    import torch

    model = build(settings)
    decoder = folder / "decoder.pt"
    state = loop.load_checkpoint(
        decoder if decoder.exists() else folder / "autoencoder.pt", settings.shape()
    )
    loop.copy_values(model.parameters(), state["average"])
    return model.to(device, memory_format=torch.channels_last).eval()


def encode(model: Any, images: np.ndarray, batch: int = 64) -> Any:
    """Means of the latents [N, channels, h, w] of uint8 pictures, unscaled, on the CPU."""
    return coder.encode(model, images, lambda x: model.encode(x).latent_dist.mean, batch)


def decode(model: Any, latents: Any, batch: int = 64) -> np.ndarray:
    """uint8 pictures [N, H, W, 3] of unscaled latents."""
    device = next(model.parameters()).device

    def pictures(part: Any) -> np.ndarray:
        return dataset.to_uint8(model.decode(part.to(device)).sample)

    return np.concatenate(coder.in_batches(pictures, latents, batch))


def set_scale(model: Any, latents: Any) -> float:
    """Store 1 / standard deviation of the latents as the scaling factor; no shift, as in SD."""
    factor = round(float(1.0 / latents.std()), 5)
    model.register_to_config(scaling_factor=factor)
    return factor
