"""That web UI's options of pictures and masks, done before the pipeline sees them."""

from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from ...errors import RequestError
from .. import pictures
from ..settings import ServerSettings
from .fields import Asked

#: inpainting_fill's numbers.
FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)
#: Pixels of the longer side at which a masked part is filled.
FILL_SIDE = 256


def picture_arguments(asked: Asked, settings: ServerSettings) -> dict[str, Any]:
    """Arguments of a call for a request with a picture. Raises RequestError or Refusal."""
    own = asked.own
    data = pictures.from_text(asked.pictures[0], "init_images", settings)
    image = pictures.to_picture(data, "init_images", settings)
    call: dict[str, Any] = {"strength": own.get("denoising_strength", 0.75)}
    if asked.mask is not None:
        file = pictures.from_text(asked.mask, "mask", settings)
        mask = edited(pictures.to_mask(file, "mask", settings), own)
        fill = own.get("inpainting_fill", ORIGINAL)
        if fill == FILL:
            image = filled(image, mask)
        elif fill == LATENT_NOTHING or (fill == LATENT_NOISE and call["strength"] < 1):
            raise RequestError(
                "inpainting_fill: expected 0 (fill), 1 (original), or 2 (latent noise) with"
                f" denoising_strength 1, given {fill}"
            )
        call["mask_image"] = mask
        if own.get("inpaint_full_res"):
            call["padding_mask_crop"] = own.get("inpaint_full_res_padding", 0)
    call["image"] = _fitted(image, own)
    if asked.mask is not None:
        call["mask_image"] = _fitted(call["mask_image"], own)
    return call


def edited(mask: Image.Image, own: dict[str, Any]) -> Image.Image:
    """The mask inverted and blurred as asked. Of a blurred one the pipeline takes what is at least
    half white: its corners are rounded, its straight edges stay.
    """
    if own.get("inpainting_mask_invert"):
        mask = ImageChops.invert(mask)
    both = own.get("mask_blur", 0)
    radii = own.get("mask_blur_x", both), own.get("mask_blur_y", both)
    return mask.filter(ImageFilter.GaussianBlur(radii)) if any(radii) else mask


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with the colours around the mask spread over its white: normalised convolution,
    from coarse to fine, of the picture at 256 pixels, since what comes is smooth.
    """
    white = mask.resize(image.size).point([0] * 128 + [255] * 128)
    scale = max(1.0, max(image.size) / FILL_SIDE)
    small = max(1, round(image.width / scale)), max(1, round(image.height / scale))
    keep = 1 - np.asarray(white.resize(small, Image.Resampling.BOX), np.float32)[..., None] / 255
    colours = np.asarray(image.resize(small, Image.Resampling.BOX), np.float32)
    if not keep.any():
        return image
    found = np.broadcast_to((colours * keep).sum((0, 1)) / keep.sum(), colours.shape)
    cell = max(small) // 2
    while cell > 1:
        weight = _averaged(keep, cell)
        near = _averaged(colours * keep, cell) / np.maximum(weight, 1e-6)
        found = np.where(weight > 1e-2, near, found)
        cell //= 2
    smooth = Image.fromarray(np.clip(np.rint(found), 0, 255).astype(np.uint8))
    return Image.composite(smooth.resize(image.size, Image.Resampling.BILINEAR), image, white)


def _averaged(values: np.ndarray, cell: int) -> np.ndarray:
    """[H, W, C] float32 averaged over squares of `cell` pixels, and those joined smoothly."""
    height, width = values.shape[:2]
    coarse = max(1, width // cell), max(1, height // cell)
    planes = [
        Image.fromarray(values[..., c])
        .resize(coarse, Image.Resampling.BOX)
        .resize((width, height), Image.Resampling.BILINEAR)
        for c in range(values.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _fitted(image: Image.Image, own: dict[str, Any]) -> Image.Image:
    """resize_mode 1: cut to the shape that is asked for. 0, squeezed, is what the pipeline does."""
    mode = own.get("resize_mode", 0)
    if mode > 1:
        raise RequestError(f"resize_mode: expected 0 (resize) or 1 (crop and resize), given {mode}")
    if mode == 0:
        return image
    size = own.get("width", image.width), own.get("height", image.height)
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
