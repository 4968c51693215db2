"""Few-step models and LoRAs: the sampler, steps and guidance that each was made for.

LCM: Luo et al. 2023, arXiv:2311.05556. TCD: Zheng et al. 2024, arXiv:2402.19159. Hyper-SD: Ren et
al. 2024, arXiv:2404.13686. SDXL-Lightning: Lin et al. 2024, arXiv:2402.13929. Turbo: Sauer et al.
2023, arXiv:2311.17042. The values are their authors'.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, RequestError
from ..weights.text import did_you_mean, show

#: The key of a LoRA file's metadata that names one of PRESETS.
METADATA = "preset"


@dataclass(frozen=True)
class Preset:
    """What a call uses where it says nothing else.

    scheduler: a sampler by name (pyengine.schedules). spacing: of its timesteps, None: its own.
    steps, guidance_scale, eta: as the call's arguments; eta is TCD's gamma.
    """

    name: str
    scheduler: str
    steps: int
    guidance_scale: float
    spacing: str | None = None
    eta: float = 0.0

    def fill(self, arguments: dict[str, Any]) -> None:
        """Writes into a call's arguments what they leave to the model."""
        own: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }
        if any(arguments.get(name) is not None for name in ("timesteps", "sigmas")):
            del own["num_inference_steps"]
        elif arguments.get("scheduler") is None:
            own["timestep_spacing"] = self.spacing
        if arguments.get("scheduler") is None:
            own["scheduler"] = self.scheduler
            arguments["eta"] = arguments.get("eta") or self.eta
        for name, value in own.items():
            if arguments.get(name) is None:
                arguments[name] = value


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("lcm", "lcm", 4, 1.0),
        Preset("tcd", "tcd", 4, 0.0, eta=0.3),
        Preset("hyper-sd", "ddim", 4, 0.0, "trailing"),
        Preset("hyper-sd-unified", "tcd", 4, 0.0, eta=1.0),
        Preset("lightning", "euler", 4, 0.0, "trailing"),
        Preset("turbo", "euler_ancestral", 1, 0.0, "trailing"),
    )
}


def find_preset(name: object, argument: str = "preset") -> Preset:
    """The preset of that name. Raises RequestError for another."""
    if not isinstance(name, str) or name not in PRESETS:
        raise RequestError(
            f"{argument}: expected one of {', '.join(PRESETS)}, given {show(name)}"
            f"{did_you_mean(name, PRESETS)}"
        )
    return PRESETS[name]


def preset_of(metadata: Mapping[str, str], where: str) -> Preset | None:
    """The preset that a file's metadata names; None where it names none. Raises CheckpointError for
    one that is not known.
    """
    name = metadata.get(METADATA)
    if name is None:
        return None
    if name not in PRESETS:
        raise CheckpointError(
            f"{where}: metadata {METADATA}: expected one of {', '.join(PRESETS)},"
            f" found {show(name)}"
        )
    return PRESETS[name]
