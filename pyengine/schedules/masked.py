"""How masked-token models unmask a picture, step by step: diffusers' AmusedScheduler as a table.

Chang et al. 2022, arXiv:2202.04200, section 3.2.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from ..ops import places_to_mask, share_to_mask
from ..weights.config import read_config


@dataclass(frozen=True)
class MaskedConfig:
    """scheduler_config.json of an AmusedScheduler."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AmusedScheduler",)

    mask_token_id: int = field(metadata={"min": 0, "max": (1 << 20) - 1})
    masking_schedule: Literal["cosine", "linear"] = "cosine"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "scheduler_config.json") -> "MaskedConfig":
        """From the parsed JSON; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)


@dataclass(frozen=True)
class MaskedPlan:
    """One run. timesteps: steps - 1 down to 0, of those that are run. temperature: [timesteps] of
    the Gumbel noise that decides which tokens are masked again.
    """

    schedule: str
    steps: int
    timesteps: tuple[int, ...]
    temperature: torch.Tensor

    def masked(self, i: int, length: int, starting_ratio: float) -> int:
        """How many of a picture's `length` tokens are masked again after step i.

        starting_ratio: the share that was masked when the run began.
        """
        step = self.steps - 1 - self.timesteps[i]
        return places_to_mask(step, self.steps, length, self.schedule, starting_ratio)

    def ratio_before(self) -> torch.Tensor:
        """[]: the share of a picture's tokens that the steps which are left out would have left
        masked; 1 where none is.
        """
        before = self.steps - len(self.timesteps)
        return share_to_mask(before - 1, self.steps, self.schedule) if before else torch.ones(())


def plan(
    schedule: Literal["cosine", "linear"],
    steps: int,
    temperature: float | tuple[float, float],
    strength: float = 1.0,
) -> MaskedPlan:
    """The table of a run of `steps`, of which the last int(steps * strength) are run.

    temperature: at the first and the last step; a number t means (t, 0.01), as diffusers has it.
    """
    first, last = temperature if isinstance(temperature, tuple) else (temperature, 0.01)
    skip = steps - int(steps * strength)
    times = tuple(range(steps - 1 - skip, -1, -1))
    return MaskedPlan(schedule, steps, times, torch.linspace(first, last, steps)[skip:])
