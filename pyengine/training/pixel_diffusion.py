"""Training of small diffusion models over pixels or latents, conditioned by a vector.

Ho et al. 2020, arXiv:2006.11239, with the clean sample as the network's output (Salimans & Ho 2022,
arXiv:2202.00512; Li & He 2025, arXiv:2511.13720). One prompt in ten is empty, for classifier-free
guidance (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.transformer.patches import PatchTransformerConfig
from . import captions, dataset, loop
from .course import Networks, shuffled_rows

#: Timesteps of the schedule.
TIMES = 1000


@dataclass(frozen=True)
class DiffusionSettings(loop.Settings):
    """Shape of a network, its schedule and the course of its training.

    channels: of what is denoised. beside: of what lies beside it in the input (a smaller picture,
    enlarged). vector: width of the condition. gamma: the most that a timestep's error weighs.
    """

    SHAPE = (
        "size", "patch", "channels", "beside", "width", "layers", "heads", "inner", "vector",
        "beta_start", "beta_end",
    )  # fmt: skip

    size: int = 64
    patch: int = 8
    channels: int = 3
    beside: int = 0
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    vector: int = 128
    batch: int = 32
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.995
    dropped: float = 0.1
    gamma: float = 5.0
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def network(self) -> PatchTransformerConfig:
        return PatchTransformerConfig(
            sample_size=self.size, patch_size=self.patch, in_channels=self.channels + self.beside,
            out_channels=self.channels, width=self.width, layers=self.layers, heads=self.heads,
            inner=self.inner, vector_size=self.vector,
        )  # fmt: skip

    def scheduler(self) -> dict[str, Any]:
        """scheduler_config.json of the trained model."""
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": TIMES,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": "linear",
            "prediction_type": "sample",
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "set_alpha_to_one": True,
            "steps_offset": 1,
        }

    def alphas(self) -> Any:
        """[TIMES] float32: the share of the clean sample's variance that is left."""
        import torch

        betas = torch.linspace(self.beta_start, self.beta_end, TIMES, dtype=torch.float32)
        return (1 - betas).cumprod(dim=0)


def half_precision(device: str) -> AbstractContextManager[Any]:
    """Products in bfloat16, sums in float32."""
    import torch

    return torch.autocast(device.partition(":")[0], torch.bfloat16)


class DiffusionNetworks(Networks):
    """One denoiser."""

    MEASURES = ("loss", "error")

    def __init__(self, settings: DiffusionSettings, device: str, seed: int):
        import torch

        from .patches import PatchNetwork

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PatchNetwork(settings.network())
        self.settings, self.device = settings, device
        self.network = network.to(device).train()
        self.parameters = list(self.network.parameters())
        self.alphas = settings.alphas().to(device)

    def loss(
        self, clean: Any, vectors: Any, timesteps: Any, noise: Any, beside: Any = None
    ) -> tuple[Any, ...]:
        """Squared error of the clean sample that is predicted from
        sqrt(a) clean + sqrt(1 - a) noise, weighted by min(SNR + 1, gamma), which is the plain error
        of v where it is not capped.
        """
        import torch

        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        given = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        if beside is not None:
            given = torch.cat([given, beside], dim=1)
        with half_precision(self.device):
            predicted = self.network(given, timesteps, vectors)
        error = (predicted.float() - clean).square().mean(dim=(1, 2, 3))
        weight = (alpha / (1 - alpha) + 1).clamp(max=self.settings.gamma).flatten()
        return (weight * error).mean(), error.mean()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.network.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)


class DiffusionBatches:
    """The batch of a step, a function of its number.

    clean: [N, C, h, w], of all pictures. vectors_of: (rows, numbers) to their conditions [B, V].
    smaller: where one lies beside, [N, C, h, w], the enlarged smaller pictures.
    stage: of loop.STAGES.
    """

    def __init__(
        self, clean: Any, vectors_of: Callable[[np.ndarray, np.random.Generator], Any],
        settings: DiffusionSettings, seed: int, device: str, *, stage: str, smaller: Any = None,
    ):  # fmt: skip
        self.clean, self.vectors_of, self.smaller = clean, vectors_of, smaller
        self.settings, self.seed, self.device, self.stage = settings, seed, device, stage

    def __call__(self, step: int) -> tuple[Any, ...]:
        import torch

        s = self.settings
        rows = shuffled_rows(self.seed, step, s.batch, len(self.clean))
        numbers = loop.numbers(self.seed, self.stage, step)
        generator = loop.torch_numbers(self.seed, self.stage, step)
        even = (np.arange(len(rows)) + numbers.random()) * (TIMES / len(rows))
        timesteps = torch.from_numpy(even.astype(np.int64).clip(0, TIMES - 1))
        clean = self.clean[torch.from_numpy(rows)]
        noise = torch.randn(clean.shape, generator=generator)
        vectors = self.vectors_of(rows, numbers)
        batch = [clean, vectors, timesteps, noise]
        if self.smaller is not None:
            levels = torch.from_numpy(numbers.random(len(rows)).astype(np.float32)) * MOST_NOISE
            more = torch.randn(clean.shape, generator=generator)
            small = self.smaller[torch.from_numpy(rows)]
            batch[1] = torch.cat([vectors, levels[:, None]], dim=1)
            batch.append(noised(small, levels, more))
        return tuple(tensor.to(self.device) for tensor in batch)


#: The largest share of noise that a smaller picture gets in training.
MOST_NOISE = 0.5


def noised(pictures: Any, levels: Any, noise: Any) -> Any:
    """sqrt(1 - s^2) pictures + s noise for levels s [N]: the conditioning augmentation of Ho et al.
    2022, arXiv:2106.15282.
    """
    s = levels.view(-1, 1, 1, 1)
    return (1 - s.square()).sqrt() * pictures + s * noise


def prompts_of(
    pictures: dataset.Pictures, dropped: float, pooled_of: Callable[[list[str]], Any]
) -> Callable[[np.ndarray, np.random.Generator], Any]:
    """Conditions of rows: pooled texts of random prompts, a share `dropped` of them empty."""

    def vectors_of(rows: np.ndarray, numbers: np.random.Generator) -> Any:
        return pooled_of(captions.random_prompts(pictures, rows, dropped, numbers))

    return vectors_of
