"""What the autoencoder and the VQ-VAE have in common: blocks, loss, training, work in batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import course, dataset, loop, parallel

WEIGHT_DECAY = 1e-4


def blocks(settings: Any) -> dict[str, Any]:
    """Arguments of both of diffusers' classes: convolutions at every level, no attention."""
    levels = len(settings.channels)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": settings.channels,
        "layers_per_block": settings.layers,
        "latent_channels": settings.latent_channels,
        "norm_num_groups": settings.groups,
        "sample_size": settings.size,
        "mid_block_add_attention": False,
    }


def decoder_of(model: Any) -> Any:
    """The layers from latents, or codebook entries, to a picture."""
    import torch

    return torch.nn.ModuleList([model.post_quant_conv, model.decoder])


def error_terms(error: Any) -> dict[str, Any]:
    """Terms of the loss for an error [N, 3, H, W]; "colour" is that of averages over 8x8."""
    from torch.nn import functional

    return {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "colour": functional.avg_pool2d(error, 8).square().mean(),
    }


def total(terms: dict[str, Any], settings: Any) -> Any:
    """The sum of the terms, each weighted by the setting of its name, or by 1."""
    return sum(getattr(settings, name, 1.0) * term for name, term in terms.items())


def mirrored(images: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """Half of the pictures [N, H, W, 3], at random, mirrored."""
    flip = numbers.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


class Networks(course.Networks):
    """A model of diffusers. All of its parameters are averaged, also those that are not trained."""

    AUTOCAST = False

    def __init__(self, settings: Any, device: str, seed: int, build: Callable[[Any], Any]):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(settings)
        self.settings, self.device = settings, device
        self.model: Any = model.to(device, memory_format=torch.channels_last).train()

    @property
    def averaged(self) -> list[Any]:
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


def train(
    networks: Networks,
    batches: Any,
    path: Path,
    log: loop.Log,
    *,
    save_seconds: float,
    seconds: float | None = None,
) -> Any:
    """Trains, or goes on with, a whole course of settings.steps; returns the model with averaged
    weights. seconds: of this call, after which to stop early.
    """
    run, s = course.resume(path, networks, WEIGHT_DECAY), networks.settings
    if run.step < s.steps:
        course.train(
            run,
            batches,
            s.steps,
            cooldown=s.cooldown,
            seconds=seconds,
            checkpoint=path,
            save_seconds=save_seconds,
            log=log,
        )
        parallel.agree(True)  # a barrier: the first process has written the file
    networks.load_average(run.average.values)
    return networks.model.eval()


def in_batches(compute: Callable[[Any], Any], items: Any, batch: int) -> list[Any]:
    """Results of `compute` over slices of `items`, without gradients."""
    import torch

    with torch.inference_mode():
        return [compute(items[i : i + batch]) for i in range(0, len(items), batch)]


def encode(model: Any, images: np.ndarray, latents_of: Callable[[Any], Any], batch: int) -> Any:
    """latents_of(float pictures on the model's device) for all uint8 pictures, on the CPU."""
    import torch

    device = next(model.parameters()).device

    def compute(part: np.ndarray) -> Any:
        return latents_of(dataset.to_float(part).to(device)).cpu()

    return torch.cat(in_batches(compute, images, batch)).clone()
