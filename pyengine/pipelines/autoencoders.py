"""Autoencoders from their places: `vae=` and `pipe.preview_vae = ...` with a folder or a file."""

import os
from pathlib import Path
from typing import Any

import torch

from ..adapters.places import variant_of
from ..errors import CheckpointError, ConfigError, RequestError
from ..models import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny
from ..models.autoencoder.tiny_files import beside
from ..weights import load_json
from ..weights.files import allowed_roots
from ..weights.text import listing, show

CLASSES: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "AsymmetricAutoencoderKL": AsymmetricAutoencoderKL,
}
Place = str | os.PathLike[str]


def load_autoencoder(
    place: Place, device: torch.device, dtype: torch.dtype, field: str = "vae"
) -> Any:
    """The autoencoder in a folder of diffusers' (config.json says which), or the tiny one in a
    file: of both halves, or of one, with the other beside it under the same name.

    In float32 where a pipeline's dtype is float16 and the config says that it overflows.
    Raises CheckpointError or ConfigError for anything else; field: what errors call the place.
    """
    path = Path(os.path.expanduser(os.fspath(place)))
    if not path.exists():
        raise CheckpointError(f"{field}: no such file or folder: {show(os.fspath(place))}")
    if path.is_dir():
        return _of_folder(path, device, dtype)
    return AutoencoderTiny.from_files(**beside(path), device=device, dtype=dtype)


def located(value: Any, device: torch.device, dtype: torch.dtype, field: str = "vae") -> Any:
    """`load_autoencoder` of a place; anything else as it is."""
    is_place = isinstance(value, str | os.PathLike) and bool(os.fspath(value))
    return load_autoencoder(value, device, dtype, field) if is_place else value


def _of_folder(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    config = path / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{path}: expected an autoencoder's folder, found no config.json")
    data = load_json(config, roots=allowed_roots(path))
    name = data.get("_class_name", "AutoencoderKL")
    if not isinstance(name, str) or name not in CLASSES:
        raise ConfigError(
            f"{config}: _class_name is {show(name)}, expected one of {listing(CLASSES)}"
        )
    cls = CLASSES[name]
    upcast = dtype == torch.float16 and cls.config_class.from_dict(data, str(config)).force_upcast
    kind = torch.float32 if upcast else dtype
    return cls.from_pretrained(path, variant=variant_of(path, None), device=device, dtype=kind)


def check_preview(value: Any, vae: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The decoder of `pipe.preview_vae = value` beside the pipeline's autoencoder; None for None.

    Raises RequestError for what is none, or decodes other latents.
    """
    value = located(getattr(value, "_orig_mod", value), device, dtype, "preview_vae")
    if value is None:
        return None
    if not isinstance(value, tuple(CLASSES.values())):
        raise RequestError(
            f"preview_vae: expected a folder, a file, or pyengine's {', '.join(CLASSES)}, given"
            f" {show(type(value).__name__)}"
        )
    other: Any = value.config  # type: ignore[attr-defined] # of any of CLASSES
    own = vae.config
    if (own.latent_channels, own.downscale) != (other.latent_channels, other.downscale):
        raise RequestError(
            f"preview_vae: expected {own.latent_channels} latent channels at a {own.downscale}th of"
            f" the size, as vae has them, given {other.latent_channels} at a {other.downscale}th"
        )
    if getattr(value, "decoder", None) is None:
        raise RequestError("preview_vae: expected one with a decoder, given an encoder alone")
    return value
