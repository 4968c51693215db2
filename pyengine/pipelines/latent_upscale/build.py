"""From a checkpoint to a pipeline of Stable Diffusion's x2 latent upscaler."""

from typing import Any

from ...errors import ConfigError
from ...models import LatentUpscalerUNetConfig
from ...models.text.clip import CLIPTextConfig
from ...weights.text import show
from ..reading import Load
from ..stable_diffusion.build import build as build_base
from .pipeline import LEVEL_WIDTH, PREDICTION


def build(load: Load) -> Any:
    """As Stable Diffusion's, once the U-Net fits the pooled text and the schedule."""
    checkpoint = load.checkpoint
    configs, sources = load.configs(("unet", "text_encoder"))
    for source in sources.values():
        source.close()
    load.compare(_check_width, configs["unet"], configs["text_encoder"])
    made = build_base(load)
    found = getattr(made.scheduler.sampler.config, "prediction_type", None)
    if found != PREDICTION:
        raise ConfigError(
            f"{checkpoint.where('scheduler')}: prediction_type is {show(found)}, expected"
            f" {show(PREDICTION)}: what diffusers' pipeline makes of the U-Net's output"
        )
    return made


def _check_width(unet: LatentUpscalerUNetConfig, text: CLIPTextConfig) -> None:
    wanted = 2 * LEVEL_WIDTH + text.hidden_size
    if unet.time_cond_proj_dim != wanted:
        raise ConfigError(
            f"unet: time_cond_proj_dim is {unet.time_cond_proj_dim}, expected {wanted}: the pooled"
            f" text's {text.hidden_size} behind {2 * LEVEL_WIDTH} of a noise level"
        )
