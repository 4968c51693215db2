"""How masked-token models unmask a picture, step by step: diffusers' AmusedScheduler as a table.

Chang et al. 2022, arXiv:2202.04200, section 3.2.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from ..weights.config import read_config


@dataclass(frozen=True)
class MaskedConfig:
    """scheduler_config.json of an AmusedScheduler."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AmusedScheduler",)

    mask_token_id: int = field(metadata={"min": 0, "max": (1 << 20) - 1})
    masking_schedule: Literal["cosine", "linear"] = "cosine"

    @classmethod
    def from_dict(cls, d: dict, where: str = "scheduler_config.json") -> "MaskedConfig":
        """From the parsed JSON; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)


@dataclass(frozen=True)
class MaskedPlan:
    """One run. timesteps: steps - 1 down to 0, of those that are run. mask_ratio: share of the
    tokens that is masked again after each. temperature: of the Gumbel noise that decides which.
    """

    timesteps: tuple[int, ...]
    mask_ratio: torch.Tensor
    temperature: torch.Tensor

    def keep_masked(self, i: int, length: int, starting_ratio: torch.Tensor) -> torch.Tensor:
        """[N] int64: tokens of `length` that stay masked after step i.

        starting_ratio: [N] float32, the share that was masked when the run began. In float32, as
        diffusers rounds: cos(pi / 3) is less than a half there, and one token fewer is masked.
        """
        return (length * (starting_ratio * self.mask_ratio[i])).floor().long()


def plan(
    schedule: Literal["cosine", "linear"],
    steps: int,
    temperature: float | tuple[float, float],
    strength: float = 1.0,
) -> MaskedPlan:
    """The table of a run of `steps`, of which the last int(steps * strength) are run.

    temperature: at the first and the last step; a number t means (t, 0.01), as diffusers has it.
    """
    ratio = (torch.arange(steps) + 1) / steps
    mask = torch.cos(ratio * math.pi / 2) if schedule == "cosine" else 1 - ratio
    first, last = temperature if isinstance(temperature, tuple) else (temperature, 0.01)
    skip = steps - int(steps * strength)
    times = tuple(range(steps - 1 - skip, -1, -1))
    return MaskedPlan(times, mask[skip:], torch.linspace(first, last, steps)[skip:])
