"""The parts of a Stable Diffusion checkpoint, and whether they fit together."""

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..models import AutoencoderKL, UNet2DConditionModel
from ..tokenizer import ClipTokenizer
from .arguments import Defaults
from .text import Encoder


@dataclass(frozen=True)
class Parts:
    """A checkpoint's parts, loaded. encoders and tokenizers: SDXL has two of each.

    scheduler_config: the parsed scheduler_config.json. pipeline_class, options, source, defaults:
    see pyengine.pipelines.loading.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[Encoder, ...]
    tokenizers: tuple[ClipTokenizer, ...]
    scheduler_config: dict[str, Any]
    pipeline_class: str
    options: dict[str, bool]
    source: str
    defaults: Defaults
    checkpoint: Any = None


def check_channels(unet: Any, vae: Any) -> None:
    """Raises ConfigError where a U-Net's and an autoencoder's configs do not fit together."""
    latent = vae.latent_channels
    if unet.in_channels not in (latent, 2 * latent + 1) or unet.out_channels != latent:
        raise ConfigError(
            f"unet: in_channels {unet.in_channels}, out_channels {unet.out_channels} do not fit an"
            f" autoencoder of {latent} latent channels: expected {latent} or {2 * latent + 1}"
            f" (inpainting), and {latent}"
        )
    if vae.in_channels != 3 or vae.out_channels != 3:
        raise ConfigError(f"vae: expected pictures of 3 channels, found {vae.in_channels} in and"
                          f" {vae.out_channels} out")  # fmt: skip
