"""A pipeline's IP-Adapters, by diffusers' names."""

import os
from pathlib import Path
from typing import Any

from ...adapters.ip_adapter import (
    below,
    check_encoder,
    find_file,
    is_elsewhere,
    load_image_encoder,
    load_ip_adapter,
)
from ...adapters.places import ENCODER_FILES, find_place, hub_options
from ...errors import RequestError
from ...guard import inference
from ...models import CLIPVisionModelWithProjection
from ...models.base import Model
from ...weights.text import show
from ..stable_diffusion.image_prompts import ImageAdapters, read_scale
from ..stable_diffusion.parts import Parts

#: More of them than anyone has use for.
MOST = 8


class ImagePromptNames:
    """Pipelines whose U-Nets read pictures beside texts: load_ip_adapter and what belongs to it."""

    parts: Parts
    _images: ImageAdapters
    #: What load_ip_adapter was called with, for the same on another device or in another dtype.
    _image_places: dict[str, Any] | None = None
    _arena: Any
    _loaded: object

    @inference
    def load_ip_adapter(
        self,
        place: Any,
        subfolder: Any = None,
        weight_name: Any = None,
        image_encoder_folder: str | None = "image_encoder",
        *,
        image_encoder: Any = None,
        **others: Any,
    ) -> None:
        """Loads IP-Adapters (base, plus, full), in place of those that were there.

        place: a .safetensors file, a folder of them, or a Hub id; a list of these for several.
        subfolder, weight_name: the folder's below it and the file's name, or a list; the one file
        that a folder has, unless told. image_encoder: the folder or Hub id of CLIP's tower for
        pictures, or a CLIPVisionModelWithProjection; image_encoder_folder: its name below
        `subfolder`, with a slash below `place`; None: none, for ip_adapter_image_embeds. others:
        revision, cache_dir, token, local_files_only, force_download, for Hub ids.
        A picture is drawn by them where a call gives ip_adapter_image; other calls keep their bits.
        Raises CheckpointError or ConfigError, which names tensors, for what does not fit.
        """
        for name in others:
            if name not in ("cache_dir", "local_files_only", "low_cpu_mem_usage", "token",
                            "revision", "force_download", "proxies"):  # fmt: skip
                raise RequestError(f"load_ip_adapter: unexpected keyword argument {name!r}")
        if others.get("proxies"):
            raise RequestError("proxies: expected None: set HTTPS_PROXY")
        unet, hub = self.parts.unet, hub_options(others)
        files = [find_file(*one, hub) for one in _places(place, subfolder, weight_name)]
        made = tuple(load_ip_adapter(f, unet, unet.device, unet.dtype) for f in files)
        encoder = self._images.encoder
        found = image_encoder
        if found is None and image_encoder_folder is not None:
            found = _encoder_place(place, subfolder, image_encoder_folder, hub)
        if found is not None:
            encoder = load_image_encoder(found, unet.device, unet.dtype, hub)
        if encoder is not None:
            for adapter in made:
                check_encoder(adapter, encoder)
        for model in (*made, *([] if encoder is None else [encoder])):
            model.arena = self._arena
        self._images = ImageAdapters(made, encoder, (1.0,) * len(made))
        self._image_places = {
            "place": place,
            "subfolder": subfolder,
            "weight_name": weight_name,
            "image_encoder_folder": image_encoder_folder,
            "image_encoder": image_encoder,
            **others,
        }

    def _check_movable(self) -> None:
        """Raises RequestError where the IP-Adapters' image encoder came as an object."""
        places = self._image_places or {}
        if self._images.adapters and isinstance(places.get("image_encoder"), Model):
            raise RequestError(
                "to: image_encoder came as an object, whose weights lie packed; unload_ip_adapter()"
                " first, and load it again with device= and dtype="
            )

    def _move_images(self, scales: tuple[Any, ...]) -> None:
        """Reads the IP-Adapters again, for the U-Net that there is now. scales: of before."""
        if self._image_places is not None:
            self.load_ip_adapter(**self._image_places)
            self._images.scales = scales

    def set_ip_adapter_scale(self, scale: Any) -> None:
        """How much the loaded IP-Adapters count in calls that follow, 1 unless told: a number, or
        diffusers' mapping by block ({"up": {"block_0": [0.0, 1.0, 0.0]}}, what is not named counts
        nothing), or a list with one of these for each adapter, or there a list with a number for
        each picture of a prompt, with masks. Raises RequestError.
        """
        loaded = self._images.adapters
        if not loaded:
            raise RequestError(
                "set_ip_adapter_scale: there is no IP-Adapter: load one with load_ip_adapter"
            )
        items = list(scale) if isinstance(scale, list | tuple) else [scale]
        items = items * len(loaded) if len(items) == 1 else items
        if len(items) != len(loaded):
            raise RequestError(
                f"set_ip_adapter_scale: expected one for each of {len(loaded)}"
                f" IP-Adapters, given {len(items)}"
            )
        self._images.scales = tuple(
            read_scale(item, self.parts.unet, "set_ip_adapter_scale") for item in items
        )

    def unload_ip_adapter(self) -> None:
        """Forgets the IP-Adapters and their image encoder; nothing where there are none."""
        self._images, self._image_places = ImageAdapters(), None

    @property
    def image_encoder(self) -> CLIPVisionModelWithProjection | None:
        """The loaded IP-Adapters', or None."""
        return self._images.encoder

    @image_encoder.setter
    def image_encoder(self, value: Any) -> None:
        unet = self.parts.unet
        found = None if value is None else load_image_encoder(value, unet.device, unet.dtype)
        for adapter in self._images.adapters:
            if found is not None:
                check_encoder(adapter, found)
        self._images.encoder = found
        if self._image_places is not None:
            self._image_places = {**self._image_places, "image_encoder": value}


def _places(place: Any, subfolder: Any, weight_name: Any) -> list[tuple[Any, Any, Any]]:
    """(place, subfolder, weight_name) of each adapter."""
    given = [
        list(v) if isinstance(v, list | tuple) else [v] for v in (place, subfolder, weight_name)
    ]
    count = max(map(len, given))
    if not 1 <= count <= MOST or any(len(own) not in (1, count) for own in given):
        counts = ", ".join(str(len(own)) for own in given)
        raise RequestError(
            f"load_ip_adapter: expected 1 to {MOST}, with as many of each, or one"
            f" for all, given {counts}"
        )
    every = [own * count if len(own) == 1 else own for own in given]
    return list(zip(*every, strict=True))


def _encoder_place(place: Any, subfolder: Any, name: Any, hub: dict[str, Any]) -> Path | None:
    """Where diffusers looks for the image encoder; None where there is none."""
    first, sub = (v[0] if isinstance(v, list | tuple) else v for v in (place, subfolder))
    if is_elsewhere(first):
        inner = name if not sub or "/" in str(name) else f"{sub}/{name}"
        if not isinstance(name, str) or ".." in inner.split("/") or inner.startswith(("/", "~")):
            raise RequestError(
                f"image_encoder_folder: expected a name within the folder, given {show(name)}"
            )
        files = [f"{inner}/{file}" for file in ENCODER_FILES]
        return find_place("image_encoder", first, hub, files) / inner
    folder = Path(os.path.expanduser(os.fspath(first)))
    if folder.is_file():
        folder, sub = folder.parent, None
    if not isinstance(name, str):
        raise RequestError("image_encoder_folder: expected a name or None")
    inner = folder / sub if sub and "/" not in name else folder
    return below(inner, "image_encoder_folder", name, folder) if (inner / name).exists() else None
