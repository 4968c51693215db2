"""A call's arguments against what a model can do."""

from dataclasses import dataclass
from typing import Any

import torch

from ... import images as pictures
from ...diffusion.prompted import callback_tensors
from ...diffusion.request import Request
from ...errors import RequestError
from ...jobs import checks
from ...pixels import is_tensor
from ...schedules import find_name
from ..arguments import BY_NAME, check, checked
from ..guidance_methods import method_of, scale_or_default, taken
from .control import ControlGiven
from .crop import Crop, cut
from .defaults import Defaults
from .embeddings import Widths


@dataclass(frozen=True)
class Arguments:
    """Checks arguments for one model and fills in its defaults.

    latent_channels, factor: the autoencoder's, factor in pixels per latent pixel. default_size:
    (height, width) in pixels. inpainting_unet: whether the U-Net takes a mask. most_clip_skip: text
    encoder layers that can be left out. options: the checkpoint's, from model_index.json. widths:
    of the text's embeddings. xl, lcm: whether its calls are those of diffusers' SDXL and latent
    consistency pipelines. distilled: whether the U-Net is told the guidance scale.
    """

    latent_channels: int
    factor: int
    default_size: tuple[int, int]
    inpainting_unet: bool
    most_clip_skip: int
    defaults: Defaults
    device: torch.device
    options: dict[str, bool]
    widths: Widths
    xl: bool = False
    lcm: bool = False
    distilled: bool = False

    def request(
        self,
        *,
        height: Any,
        width: Any,
        guidance_scale: Any,
        num_images_per_prompt: Any,
        seed: Any,
        generator: Any,
        latents: Any,
        scheduler: Any,
        image: Any,
        strength: Any,
        mask_image: Any,
        masked_image_latents: Any,
        padding_mask_crop: Any,
        clip_skip: Any,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: Any,
        return_dict: Any,
        timeout: Any,
        run: Any,
        timesteps: Any,
        sigmas: Any,
        timestep_spacing: Any,
        original_inference_steps: Any,
        denoising_start: Any = None,
        denoising_end: Any = None,
        control: ControlGiven | None = None,
        **others: Any,
    ) -> Request:
        """The checked Request; arguments as in StableDiffusionPipeline.__call__. control: what is
        shown to ControlNets. others: the texts, and what the table of arguments checks.
        """
        how = taken(others)
        simple = {name: others.pop(name) for name in [*others] if BY_NAME[name].simple}
        read = self.widths.read(**others)
        per_prompt = check("num_images_per_prompt", num_images_per_prompt)
        count = read.batch * per_prompt
        items, masks = self._check_pictures(image, mask_image, count)
        given = latents if self.xl or self.lcm else None
        if control is not None and items is None and None in (height, width):
            size = control.size(self.factor)
            height, width = (
                s if v is None else v for v, s in zip((height, width), size, strict=True)
            )
        # With a ControlNet, inpainting has the picture's size, too.
        masked = masks is not None and control is None
        height, width = self._check_size(height, width, items, masked, count, given)
        part = None
        if padding_mask_crop is not None:
            output_type = simple["output_type"]
            part = self._crop(image, mask_image, (width, height), padding_mask_crop, output_type)
            items, masks = [part.image], [part.mask]
        d = self.defaults
        used_strength, default_guidance = d.strength, d.guidance_scale
        if control is not None and d.control_strength is not None:
            used_strength = d.control_strength
        if masks is not None:
            used_strength = d.inpaint_strength
            if d.inpaint_guidance_scale is not None and control is None:
                default_guidance = d.inpaint_guidance_scale
        scales = checks.guidance_scales(
            "guidance_scale",
            scale_or_default(how, guidance_scale, default_guidance),
            count,
            read.batch,
        )
        simple = checked(simple, d)
        method = method_of(
            how,
            has_negative=read.has_negative,
            rescale=simple["guidance_rescale"],
            distilled=self.distilled,
        )
        method.check(scales)
        if items is None:
            used_strength = 1.0
        elif strength is not None:
            used_strength = check("strength", strength)
        r = Request(
            texts=read,
            per_prompt=per_prompt,
            height=height,
            width=width,
            steps=simple.pop("num_inference_steps"),
            guidance_scale=scales[0] if len(set(scales)) == 1 else scales,
            strength=used_strength,
            clip_skip=self._check_clip_skip(clip_skip),
            images=items,
            masks=masks,
            part=part,
            method=method,
            **simple,
            **checks.manners(run, timeout, return_dict),
        )
        if strength is not None and items is None:
            raise RequestError("strength: expected only together with image")
        if scheduler is not None:
            r.scheduler = find_name(scheduler)
        r.seeds, r.generators = checks.seeds_and_generators(seed, generator, count, self.device)
        r.plan = self._plan(r, {
            "timesteps": timesteps, "sigmas": sigmas, "timestep_spacing": timestep_spacing,
            "original_inference_steps": original_inference_steps,
            "denoising_start": denoising_start, "denoising_end": denoising_end,
        })  # fmt: skip
        r.latents = self._check_latents(r, latents)
        r.masked_latents = self._check_masked(r, masked_image_latents)
        r.callback = callback_on_step_end
        r.callback_known = callback_tensors(self.xl, self.distilled, masks is not None)
        r.callback_inputs = checks.check_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs, r.callback_known
        )
        return r

    def _plan(self, r: Request, given: dict[str, Any]) -> dict[str, Any]:
        """What the sampler is told of its steps, as far as it was given."""
        plan = {name: value for name, value in given.items() if value is not None}
        if "timesteps" in plan and "sigmas" in plan:
            raise RequestError("timesteps: expected these or sigmas, given both")
        if "denoising_start" in plan and r.images is None:
            raise RequestError(
                "denoising_start: expected an image with it, the latents of a run"
                " that was ended by denoising_end"
            )
        return plan

    def _check_latents(self, r: Request, latents: Any) -> torch.Tensor | None:
        if latents is None:
            return None
        if r.goes_on:
            raise RequestError("latents: expected none with denoising_start; give them as image")
        if r.images is not None and r.masks is None and not (self.xl or self.lcm):
            raise RequestError("latents: expected no image with them; give latents as image")
        return checks.check_latents(latents, self._latent_shape(r))

    def _check_masked(self, r: Request, latents: Any) -> torch.Tensor | None:
        """masked_image_latents, of as many pictures as divide the number of all."""
        if latents is None:
            alone = r.images is not None and pictures.is_latents(r.images[0], self.latent_channels)
            if alone and r.masks is not None and (self.inpainting_unet or not self.xl):
                raise RequestError(
                    "image: expected pictures with mask_image, or latents with"
                    " masked_image_latents, given latents alone"
                )
            return None
        if r.masks is None:
            raise RequestError("masked_image_latents: expected mask_image with them, given none")
        if r.part is not None:
            raise RequestError("masked_image_latents: expected none with padding_mask_crop")
        n = len(latents) if isinstance(latents, torch.Tensor) and latents.dim() else 0
        n = n if n and n <= r.count and r.count % n == 0 else r.count
        shape = (n, *self._latent_shape(r)[1:])
        return checks.check_latents(latents, shape, "masked_image_latents")

    @staticmethod
    def _crop(image: Any, mask: Any, size: tuple[int, int], pad: Any, output_type: Any) -> Crop:
        if mask is None:
            raise RequestError("padding_mask_crop: expected image and mask_image with it")
        if output_type != "pil":
            raise checks.refuse("padding_mask_crop: output_type", "'pil'", output_type)
        return cut(image, mask, size, pad)

    def _latent_shape(self, r: Request) -> tuple[int, int, int, int]:
        return (r.count, self.latent_channels, r.height // self.factor, r.width // self.factor)

    def _check_pictures(
        self, image: Any, mask: Any, count: int
    ) -> tuple[list[Any] | None, list[Any] | None]:
        """(images, masks) as lists or None, a number of them that divides `count`."""
        if image is None:
            if mask is not None:
                raise RequestError("mask_image: expected an image with it, given none")
            if self.inpainting_unet:
                raise RequestError(
                    "image: this model is for inpainting: expected image and"
                    " mask_image, given neither"
                )
            return None, None
        if mask is None and self.inpainting_unet:
            raise RequestError("mask_image: this model is for inpainting: expected one, given none")
        items = self._items("image", image, count)
        masks = None if mask is None else self._items("mask_image", mask, count)
        if masks is not None and len(items) > 1 and len(masks) not in (1, len(items)):
            raise checks.refuse("mask_image", f"one, or {len(items)} as of image", len(masks))
        self._check_image_latents(items)
        return items, masks

    @staticmethod
    def _items(field: str, value: Any, count: int) -> list[Any]:
        items = pictures.as_list(value, field, field == "mask_image")
        if len(items) > count or count % len(items):
            raise checks.refuse(
                field, f"a number of them that divides {count} pictures", len(items)
            )
        return items

    def _check_image_latents(self, items: list[Any]) -> None:
        which = [pictures.is_latents(item, self.latent_channels) for item in items]
        if not any(which):
            return
        if not all(which) or len({item.shape for item in items}) > 1:
            raise RequestError("image: expected pictures, or latents of one shape, given both")
        for item in items:
            if not item.is_floating_point() or not torch.isfinite(item).all():
                raise RequestError(
                    "image: expected finite latents, given NaN, infinity or integers"
                )

    def _check_size(
        self,
        height: Any,
        width: Any,
        items: list[Any] | None,
        masked: bool,
        count: int,
        latents: Any = None,
    ) -> tuple[int, int]:
        """latents: what a picture's place may be taken by."""
        factor = self.factor
        default = self.default_size
        first = None if items is None else items[0]
        if first is not None and not masked and is_tensor(latents) and latents.ndim == 4:
            first = latents[0]
        if first is not None and pictures.is_latents(first, self.latent_channels):
            h, w = pictures.size_of(first)
            default = (h * factor, w * factor)
            if (height or default[0], width or default[1]) != default:
                raise checks.refuse(
                    "height, width", f"those of the latents, {default}", (height, width)
                )
        elif items is not None and not masked:
            # As diffusers: image-to-image keeps the picture's size, inpainting takes the model's.
            if len({pictures.size_of(item) for item in items}) > 1 and None in (height, width):
                raise RequestError("image: expected pictures of one size, or height and width")
            h, w = pictures.size_of(items[0])
            default = (h - h % factor, w - w % factor)
            if 0 in default and None in (height, width):
                raise checks.refuse("image", f"at least {factor}x{factor} pixels", f"{h}x{w}")
        height = checks.side("height", default[0] if height is None else height, factor)
        width = checks.side("width", default[1] if width is None else width, factor)
        checks.check_total(height, width, count)
        return height, width

    def _check_clip_skip(self, value: Any) -> int | None:
        if value is None:
            return None
        return checks.integer("clip_skip", value, 0, self.most_clip_skip)
