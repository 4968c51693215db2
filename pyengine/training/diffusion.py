"""What the recipes of small diffusion models share: schedule, network and loss.

Ho et al. 2020, arXiv:2006.11239, with the clean sample as the network's output (Salimans & Ho 2022,
arXiv:2202.00512; Li & He 2025, arXiv:2511.13720). Some prompts are empty, for classifier-free
guidance (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.transformer.patches import PatchTransformerConfig
from .small import SmallSettings

#: Timesteps of the schedule.
TIMES = 1000
BETA_START, BETA_END = 1e-4, 0.02


@dataclass(frozen=True)
class DiffusionSettings(SmallSettings):
    """width, layers, heads, inner: of the network. gamma: the most that a timestep's error
    weighs.
    """

    SHAPE: ClassVar[tuple[str, ...]] = ("size", "width", "layers", "heads", "inner")

    width: int = 128
    layers: int = 3
    heads: int = 4
    inner: int = 384
    gamma: float = 5.0
    dropped: float = 0.1
    rate: float = 2e-3
    decay: float = 0.995
    steps: int = 12000
    cooldown: int = 4000

    def network(self, **own: Any) -> PatchTransformerConfig:
        """The config of a network. own: what differs between a recipe's networks."""
        shape: dict[str, Any] = {"width": self.width, "layers": self.layers, "heads": self.heads}
        return PatchTransformerConfig(**shape, inner=self.inner, **own)


def scheduler() -> dict[str, Any]:
    """scheduler_config.json of the trained models."""
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": TIMES,
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "beta_schedule": "linear",
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
    }


def alphas() -> Any:
    """[TIMES] float32: the share of the clean sample's variance that is left."""
    import torch

    betas = torch.linspace(BETA_START, BETA_END, TIMES, dtype=torch.float32)
    return (1 - betas).cumprod(dim=0)


def spread_timesteps(count: int, generator: Any) -> Any:
    """int64 [count], spread evenly over the schedule, which lowers the variance of the loss."""
    import torch

    places = torch.arange(count) + torch.rand(1, generator=generator)
    return (places * (TIMES / count)).long().clamp(0, TIMES - 1)


def denoising_loss(
    network: Any, clean: Any, told: Any, generator: Any, gamma: float, beside: Any = None
) -> Any:
    """The squared error of the clean sample that the network predicts from
    sqrt(a) clean + sqrt(1 - a) noise, weighted by min(SNR + 1, gamma): where it is not capped, the
    plain error of v = sqrt(a) noise - sqrt(1 - a) clean.

    clean: [N, ...]. told: the conditions. generator: on the CPU. beside: what lies beside the noisy
    sample in the network's input.
    """
    import torch

    timesteps = spread_timesteps(len(clean), generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    alpha = alphas().to(clean.device)[timesteps].view(-1, *[1] * (clean.dim() - 1))
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    given = noisy if beside is None else torch.cat([noisy, beside], dim=1)
    error = (network(given, timesteps, told).float() - clean).square().flatten(1).mean(dim=1)
    weight = (alpha / (1 - alpha) + 1).clamp(max=gamma).flatten()
    return (weight * error).mean()
