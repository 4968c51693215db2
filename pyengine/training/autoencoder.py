"""The autoencoder: 64x64 RGB to 16x16 latents of four channels and back.

Loss: L1 + L2, the same L2 on pictures averaged over 8x8 (small networks shift
flat colours, greens above all), and a small KL term that keeps the latents
smooth enough for a small noise predictor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import dataset, loop


@dataclass(frozen=True)
class AutoencoderSettings:
    """Shape of the network and course of its training."""

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

    def shape(self) -> dict:
        """What a checkpoint must agree on."""
        names = ("channels", "layers", "latent_channels", "groups", "size")
        return {name: loop.plain(getattr(self, name)) for name in names}


def build(settings: AutoencoderSettings):
    """A diffusers AutoencoderKL without attention."""
    from diffusers import AutoencoderKL

    levels = len(settings.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.groups,
        sample_size=settings.size,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def losses(model, images, noise, settings: AutoencoderSettings) -> dict:
    """The terms of the loss and, as ``total``, their weighted sum."""
    from torch.nn import functional

    posterior = model.encode(images).latent_dist
    latents = posterior.mean + posterior.std * noise
    error = model.decode(latents).sample - images
    terms = {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "colour": functional.avg_pool2d(error, 8).square().mean(),
        "kl": 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean(),
    }
    total = (
        terms["l1"] + terms["l2"] + settings.colour * terms["colour"] + settings.kl * terms["kl"]
    )
    return {"total": total, **terms}


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
):
    """Train, or go on with, the autoencoder; returns it with averaged weights.

    Half of each batch comes from the rows `favourites`, what the noise
    predictor will draw.  With `only_decoder` the encoder keeps its weights, so
    that latents computed before stay right.
    """
    import torch

    stage = "decoder" if only_decoder else "autoencoder"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(settings)
    if only_decoder:
        model.load_state_dict(load(folder, settings, device).state_dict())
    model = model.to(device, memory_format=torch.channels_last)
    trained = (
        [*model.post_quant_conv.parameters(), *model.decoder.parameters()] if only_decoder else None
    )
    parameters = trained or list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    average = loop.Average(model.parameters(), settings.decay)
    path = folder / f"{stage}.pt"
    first = _resume(path, settings, model, optimizer, average)
    log = loop.Log(folder / "log.jsonl", stage, log_every, echo)

    def save(step: int) -> None:
        state = {
            "step": step,
            "seed": seed,
            "settings": settings.shape(),
            "model": model.state_dict(),
        }
        loop.save_checkpoint(
            path, state | {"optimizer": optimizer.state_dict(), "average": average.values}
        )

    saved = time.monotonic()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(
                step, settings.rate, settings.warmup, settings.steps, settings.cooldown
            )
        images, noise = _batch(pictures, favourites, settings, seed, stage, step, device)
        terms = losses(model, images, noise, settings)
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(model.parameters(), step)
        log.add(step, len(images), **{name: value.detach() for name, value in terms.items()})
        if time.monotonic() - saved > save_seconds:
            save(step + 1)
            saved = time.monotonic()
    if first < settings.steps:
        save(settings.steps)
    average.copy_to(model.parameters())
    return model.eval()


def _resume(path: Path, settings: AutoencoderSettings, model, optimizer, average) -> int:
    if not path.exists():
        return 0
    state = loop.load_checkpoint(path, settings.shape())
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for value, stored in zip(average.values, state["average"], strict=True):
        value.copy_(stored)
    return state["step"]


def _batch(pictures, favourites, settings, seed, stage, step, device):
    import torch

    numbers = loop.numbers(seed, stage, step)
    half = settings.batch // 2 if len(favourites) else 0
    rows = np.concatenate(
        [
            numbers.choice(favourites, half) if half else [],
            numbers.integers(len(pictures), size=settings.batch - half),
        ]
    ).astype(np.int64)
    images = pictures.images[rows]
    flip = numbers.random(len(images)) < 0.5
    images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    side = settings.size // 2 ** (len(settings.channels) - 1)
    shape = (len(images), settings.latent_channels, side, side)
    noise = torch.randn(shape, generator=loop.torch_numbers(seed, stage, step))
    return dataset.to_float(images).to(device), noise.to(device, memory_format=torch.channels_last)


def load(folder: Path, settings: AutoencoderSettings, device: str = "cpu"):
    """The trained autoencoder with averaged weights: after the decoder stage where there is one."""
    import torch

    model = build(settings)
    decoder = folder / "decoder.pt"
    state = loop.load_checkpoint(
        decoder if decoder.exists() else folder / "autoencoder.pt", settings.shape()
    )
    for parameter, value in zip(model.parameters(), state["average"], strict=True):
        parameter.data.copy_(value)
    return model.to(device, memory_format=torch.channels_last).eval()


def encode(model, images: np.ndarray, batch: int = 64):
    """Means of the latents [N, channels, h, w] of uint8 pictures, unscaled, on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            model.encode(dataset.to_float(images[i : i + batch]).to(device)).latent_dist.mean.cpu()
            for i in range(0, len(images), batch)
        ]
    return torch.cat(parts).clone()


def decode(model, latents, batch: int = 64) -> np.ndarray:
    """uint8 pictures [N, H, W, 3] of unscaled latents."""
    import torch

    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            dataset.to_uint8(model.decode(latents[i : i + batch].to(device)).sample)
            for i in range(0, len(latents), batch)
        ]
    return np.concatenate(parts)


def set_scale(model, latents) -> float:
    """Store 1 / standard deviation of the latents as the scaling factor; no shift, as in SD."""
    factor = round(float(1.0 / latents.std()), 5)
    model.register_to_config(scaling_factor=factor)
    return factor


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, mean error over all of them."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-10)))


def describe(settings: AutoencoderSettings) -> dict:
    """The settings as plain values for the card."""
    return {name: loop.plain(value) for name, value in asdict(settings).items()}
