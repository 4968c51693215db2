"""A diffusion pipeline's parts under diffusers' names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...models import (
    AutoencoderKL,
    AutoencoderTiny,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
)
from ...tokenizer import ClipTokenizer
from ...weights import Checkpoint
from .base import DiffusersNames
from .keywords import NONE
from .scheduling import SchedulerNames

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..stable_diffusion.parts import Parts


class PartNames(SchedulerNames, DiffusersNames):
    """Base of the pipelines of latent diffusion."""

    parts: Parts
    #: diffusers' names of the parts of this kind of pipeline.
    part_names: tuple[str, ...] = ("vae", "text_encoder", "tokenizer", "unet")
    absent_names: tuple[str, ...] = ("safety_checker", "feature_extractor", "image_encoder")
    safety_checker: None = None
    feature_extractor: None = None
    watermark: None = None
    _preview_vae: Any = None

    @property
    def checkpoint(self) -> Checkpoint | None:  # type: ignore[override] # the parts', not set
        found: Checkpoint | None = self.parts.checkpoint
        return found

    @property
    def _given(self) -> tuple[str, ...]:
        names = {"controlnet": self.parts.controlnets, "adapter": self.parts.t2i_adapters}
        objects = (n for n, nets in names.items() if nets and n not in self.parts.beside_places)
        return (*self.parts.given, *objects)

    @property
    def controlnet(self) -> Any:
        """The ControlNet beside the model, a list of several, or None."""
        return one_or_all(self.parts.controlnets)

    @property
    def adapter(self) -> Any:
        """The T2I-Adapter beside the model, a list of several, or None."""
        return one_or_all(self.parts.t2i_adapters)

    @property
    def _class_name(self) -> str:
        return self.parts.pipeline_class

    @classmethod
    def from_single_file(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        config: str | os.PathLike[str] | None = None,
        original_config: str | os.PathLike[str] | None = None,
        **keywords: Any,
    ) -> Self:
        """A .safetensors file in the original layout, here or on the Hub, as this class.

        path: a file, "organisation/name/file.safetensors" or its https://huggingface.co address.
        config: a folder in diffusers' layout (or a Hub id in the cache) whose configs and
        tokenizers are used, in place of what the file's shapes say. original_config: a YAML file,
        of which the prediction type is read. keywords: as from_pretrained takes them.
        """
        from .single import load_single

        given = {"config": config, "original_config": original_config}
        keywords |= {name: value for name, value in given.items() if value is not None}
        made: Self = load_single(path, keywords, cls)
        return made

    # --- models -----------------------------------------------------------------------------------

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.parts.unet

    @unet.setter
    def unet(self, value: Any) -> None:
        self._replace("unet", value)

    @property
    def vae(self) -> AutoencoderKL | AutoencoderTiny:
        return self.parts.vae

    @vae.setter
    def vae(self, value: Any) -> None:
        self._replace("vae", value)

    @property
    def preview_vae(self) -> Any:
        """What `step.preview()` decodes with: an autoencoder of the same latents, such as an
        AutoencoderTiny, or its folder or file; None: vae.
        """
        return self._preview_vae

    @preview_vae.setter
    def preview_vae(self, value: Any) -> None:
        from ..autoencoders import check_preview

        unet = self.parts.unet
        self._preview_vae = check_preview(value, self.vae, unet.device, unet.dtype)

    @property
    def text_encoder(self) -> CLIPTextModel | CLIPTextModelWithProjection | None:
        """The first text encoder; None in a refiner, which has the second alone."""
        return self.parts.named().get("text_encoder")

    @text_encoder.setter
    def text_encoder(self, value: Any) -> None:
        self._replace("text_encoder", value)

    @property
    def tokenizer(self) -> ClipTokenizer | None:
        return self.parts.named().get("tokenizer")

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._replace("tokenizer", value)

    def _replace(self, name: str, value: Any) -> None:
        """What `pipe.name = value` does: nothing where it is the same part, torch.compile's too."""
        from ..autoencoders import located
        from .making import check_part, replace_parts

        old = self.parts.named().get(name)
        if name == "vae":
            value = located(value, self.parts.unet.device, self.parts.unet.dtype)
        value = check_part(name, value)
        if value is not old:
            if old is None:
                raise RequestError(f"{name}: this model has none")
            self._take_parts(replace_parts(self.parts, {name: value}))

    def _take_parts(self, parts: Parts) -> None:
        raise NotImplementedError

    @property
    def _scheduler_keys(self) -> Mapping[str, Any]:
        return self.parts.scheduler_config

    # --- what diffusers' pipelines have -----------------------------------------------------------

    @property
    def components(self) -> dict[str, Any]:
        """{name: part}, as diffusers' pipelines take them: Cls(**pipe.components)."""
        named = self.parts.named()
        found = {name: named.get(name) for name in self.part_names}
        beside = {"controlnet": self.controlnet, "adapter": self.adapter}
        found |= {name: nets for name, nets in beside.items() if nets is not None}
        return found | {"scheduler": self.scheduler} | dict.fromkeys(self.absent_names)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent pixel along each side."""
        factor: int = self.vae.config.downscale
        return factor

    def upcast_vae(self) -> None:
        """Accepted: an autoencoder whose config asks for it decodes in float32 already."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in NONE and name != "image_encoder" and value is not None:
            raise RequestError(f"{name}: pyengine runs none, so it takes None")
        super().__setattr__(name, value)


def one_or_all(networks: tuple[Any, ...]) -> Any:
    """The one, a list of several, or None."""
    return networks[0] if len(networks) == 1 else list(networks) or None


class XLPartNames(PartNames):
    """Base of SDXL's pipelines, which have two text encoders, and its refiner's, which has the
    second alone.
    """

    part_names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet")
    absent_names = ("image_encoder", "feature_extractor")

    @property
    def text_encoder_2(self) -> CLIPTextModelWithProjection | None:
        return self.parts.named().get("text_encoder_2")

    @text_encoder_2.setter
    def text_encoder_2(self, value: Any) -> None:
        self._replace("text_encoder_2", value)

    @property
    def tokenizer_2(self) -> ClipTokenizer | None:
        return self.parts.named().get("tokenizer_2")

    @tokenizer_2.setter
    def tokenizer_2(self, value: Any) -> None:
        self._replace("tokenizer_2", value)
