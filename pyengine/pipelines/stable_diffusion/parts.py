"""The parts of a Stable Diffusion checkpoint, and whether they fit together."""

from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError
from ...models import AutoencoderKL, CLIPTextModelWithProjection, UNet2DConditionModel
from ...tokenizer import ClipTokenizer
from ..text import Encoder
from .defaults import Defaults


@dataclass(frozen=True)
class Parts:
    """A checkpoint's parts, loaded. encoders and tokenizers: SDXL has two of each, its refiner the
    second alone.

    scheduler_config: the parsed scheduler_config.json. pipeline_class, options, source, defaults:
    see pyengine.pipelines.loading. given: names of the parts that came as objects, not out of the
    checkpoint. scheduler: in place of the checkpoint's own, as `pipe.scheduler = ...` takes it.
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
    given: tuple[str, ...] = ()
    scheduler: Any = None

    def named(self) -> dict[str, Any]:
        """The models and tokenizers under diffusers' names."""
        alone = len(self.encoders) == 1 and isinstance(
            self.encoders[0], CLIPTextModelWithProjection
        )
        ends = ("_2",) if alone else ("", "_2")[: len(self.encoders)]
        encoders = {f"text_encoder{end}": e for end, e in zip(ends, self.encoders, strict=True)}
        tokenizers = {f"tokenizer{end}": t for end, t in zip(ends, self.tokenizers, strict=True)}
        return {"unet": self.unet, "vae": self.vae, **encoders, **tokenizers}


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
