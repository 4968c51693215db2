"""From a checkpoint to a pipeline of Stable Diffusion's x4 upscaler."""

from typing import Any

from ...errors import ConfigError
from ...weights.text import show
from ..diffusers_names.schedulers import choose
from ..reading import Load
from ..stable_diffusion.build import build as build_base
from .pipeline import MAX_NOISE_LEVEL, SCALING_FACTOR


def build(load: Load) -> Any:
    """As Stable Diffusion's, and the schedule of the noise that the small picture gets."""
    checkpoint = load.checkpoint
    most = checkpoint.data.get("max_noise_level", MAX_NOISE_LEVEL)
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= 999:
        raise ConfigError(
            f"{load.source}: model_index.json: max_noise_level: expected a whole number from 0 to"
            f" 999, found {show(most)}"
        )
    own = checkpoint.config("vae").get("scaling_factor")
    if own != SCALING_FACTOR:
        raise ConfigError(
            f"{load.source}: vae: scaling_factor: expected {SCALING_FACTOR}, which diffusers'"
            f" pipeline takes whatever the config says, found {show(own)}"
        )
    noising = choose(None, checkpoint.config("low_res_scheduler"), load.pipeline_class.__name__)
    made = build_base(load)
    made.low_res_scheduler, made.max_noise_level = noising, most
    return made
