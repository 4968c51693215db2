"""IP-Adapters from files: base, plus and full, for Stable Diffusion 1.x, 2.x and XL."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, RequestError
from ..models import CLIPVisionModelWithProjection, UNet2DConditionModel
from ..models.image_prompts.ip_adapter import HEAD, IPAdapter, IPAdapterConfig
from ..weights import load_module
from ..weights.files import allowed_roots, check_inside, list_folder
from ..weights.header import SafetensorsFile
from ..weights.hub import is_hub_id
from ..weights.names import other_kind
from ..weights.source import TensorSource
from ..weights.text import listing, show
from .places import ENCODER_FILES, Hub, Place, find_place, folder_config, variant_of

Shapes = Mapping[str, tuple[int, ...]]
#: Marks of IP-Adapters that read a face by a network of another kind.
_FACES = {
    "image_proj.perceiver_resampler.proj_in.weight": "FaceID Plus",
    "image_proj.norm.weight": "FaceID",
}


def file_order(unet: UNet2DConditionModel) -> list[str]:
    """The attentions to the text by name, in the order in which files number them: those on the way
    down, on the way up, in the middle.
    """
    names = list(unet.cross_attentions)
    return [
        n for part in ("down_blocks", "up_blocks", "mid_block") for n in names if n.startswith(part)
    ]


def find_file(
    place: Place, subfolder: Any = None, weight_name: Any = None, hub: Hub | None = None
) -> Path:
    """The .safetensors file of a folder or of a Hub id, or the file itself. Raises
    CheckpointError.
    """
    if is_elsewhere(place):
        inside = _inside(subfolder, weight_name)
        folder = find_place("ip_adapter", place, hub, [inside])
        return folder / inside
    path = find_place("ip_adapter", place)
    if path.is_file():
        if subfolder or weight_name:
            raise RequestError(
                f"weight_name: expected None beside a file, given {show(weight_name or subfolder)}"
            )
        return path
    folder = below(path, "subfolder", subfolder)
    if weight_name is not None:
        return below(folder, "weight_name", weight_name, path)
    found = [name for name in list_folder(folder) if name.endswith(".safetensors")]
    if len(found) != 1:
        raise CheckpointError(
            f"ip_adapter: {folder}: expected one .safetensors file, found"
            f" {listing(map(show, found)) or 'none'}: name it by weight_name="
        )
    return below(folder, "weight_name", found[0], path)


def is_elsewhere(place: Any) -> bool:
    """Whether a place is a Hub id, and no folder or file here."""
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else ""
    return "/" in text and is_hub_id(text) and not os.path.exists(text)


def _inside(subfolder: Any, weight_name: Any) -> str:
    """The name of a file in a repository, checked."""
    if not isinstance(weight_name, str):
        raise RequestError(
            "weight_name: expected the name of a .safetensors file of the Hub id,"
            f" given {show(weight_name)}"
        )
    name = "/".join(filter(None, (subfolder, weight_name)))
    if name.startswith(("/", "~")) or ".." in name.split("/"):
        raise RequestError(f"weight_name: expected a name within the folder, given {show(name)}")
    return name


def below(folder: Path, field: str, name: Any, root: Path | None = None) -> Path:
    """What lies under a name in a folder; that may not lead out of `root`, the folder itself unless
    told.
    """
    if name is None or name == "":
        return folder
    if not isinstance(name, str) or name.startswith(("/", "~")) or ".." in Path(name).parts:
        raise RequestError(f"{field}: expected a name within the folder, given {show(name)}")
    path = folder / name
    if not path.exists():
        raise CheckpointError(f"{field}: no such file or folder: {show(str(path))}")
    check_inside(path, allowed_roots(root or folder))
    return path


def load_ip_adapter(
    path: Path, unet: UNet2DConditionModel, device: torch.device, dtype: torch.dtype
) -> IPAdapter:
    """The IP-Adapter in a .safetensors file, for a U-Net.

    Raises CheckpointError or ConfigError, which names tensors, for anything else.
    """
    with TensorSource([SafetensorsFile(path)], f"ip_adapter: {path}") as source:
        shapes = {name: source.spec(name)[1] for name in source}
        config = _config(shapes, unet, source.where)
        made = IPAdapter.from_config(config)
        load_module(made, source, dtype=dtype, device=device)
    assert isinstance(made, IPAdapter)
    return made


def _config(shapes: Shapes, unet: UNet2DConditionModel, where: str) -> IPAdapterConfig:
    for mark, kind in _FACES.items():
        if mark in shapes and "image_proj.proj.weight" not in shapes:
            raise CheckpointError(
                f"{where}: an IP-Adapter {kind} (tensor {show(mark)}), which reads faces by"
                " another network, which is not here"
            )
    widths = unet.cross_attentions
    common: dict[str, Any] = {"attentions": tuple(widths[name] for name in file_order(unet))}
    width = unet.config.cross_attention_dim
    if not isinstance(width, int):
        raise ConfigError(f"{where}: expected a U-Net of one cross_attention_dim, this has {width}")
    if "image_proj.proj.weight" in shapes:
        out, image = _sides(shapes, "image_proj.proj.weight", where)
        found = _sides(shapes, "ip_adapter.1.to_k_ip.weight", where)[1]
        own: dict[str, Any] = {
            "kind": "base",
            "image_width": image,
            "tokens": max(1, out // max(1, found)),
        }
    elif "image_proj.proj.3.weight" in shapes:
        image = _sides(shapes, "image_proj.proj.0.weight", where)[1]
        found = _sides(shapes, "image_proj.proj.2.weight", where)[0]
        own = {"kind": "full", "image_width": image}
    elif "image_proj.latents" in shapes:
        inner, image = _sides(shapes, "image_proj.proj_in.weight", where)
        found = _sides(shapes, "image_proj.proj_out.weight", where)[0]
        latents = shapes["image_proj.latents"]
        heads = _sides(shapes, "image_proj.layers.0.0.to_q.weight", where)[0] // HEAD
        own = {
            "kind": "plus",
            "image_width": image,
            "inner": inner,
            "heads": heads,
            "tokens": latents[1] if len(latents) == 3 else 1,
            "depth": len({n.split(".")[2] for n in shapes if n.startswith("image_proj.layers.")}),
        }
    else:
        like = other_kind(n for n in shapes if not n.startswith(("ip_adapter.", "image_proj.")))
        raise CheckpointError(
            f"{where}: expected an IP-Adapter, with image_proj.* and ip_adapter.*, found"
            f" {listing(map(show, sorted(shapes)))}" + (f" (as of {like})" if like else "")
        )
    if found != width:
        raise ConfigError(
            f"{where}: is for a U-Net with cross_attention_dim {found}, this has {width}"
        )
    try:
        return IPAdapterConfig(**common, **own, width=width)
    except ValueError as e:
        raise ConfigError(f"{where}: what its tensors' shapes say: {e}") from None


def _sides(shapes: Shapes, name: str, where: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2 or 0 in shape:
        found = "none" if shape is None else str(list(shape))
        raise CheckpointError(f"{where}: tensor {show(name)}: expected a matrix, found {found}")
    return shape[0], shape[1]


def load_image_encoder(
    place: Any, device: torch.device, dtype: torch.dtype, hub: Hub | None = None
) -> CLIPVisionModelWithProjection:
    """CLIP's tower for pictures in a folder of transformers' or under a Hub id, or the given one
    itself.
    """
    if isinstance(place, CLIPVisionModelWithProjection):
        if place.device.type != device.type or place.dtype != dtype:
            raise RequestError(
                f"image_encoder: expected one on {device} in {dtype}, given one on {place.device}"
                f" in {place.dtype}"
            )
        return place
    folder = find_place("image_encoder", place, hub, ENCODER_FILES)
    folder_config("image_encoder", folder)
    variant = variant_of(folder, (hub or {}).get("variant"))
    made = CLIPVisionModelWithProjection.from_pretrained(
        folder, variant=variant, device=device, dtype=dtype
    )
    assert isinstance(made, CLIPVisionModelWithProjection)
    return made


def check_encoder(adapter: IPAdapter, encoder: CLIPVisionModelWithProjection) -> None:
    """Raises ConfigError where an adapter reads pictures of another width than an encoder gives."""
    c = encoder.config
    gives = c.hidden_size if adapter.reads_states else c.projection_dim
    if adapter.config.image_width != gives:
        raise ConfigError(
            f"image_encoder: gives {'hidden states' if adapter.reads_states else 'embeddings'} of"
            f" {gives}, the IP-Adapter reads {adapter.config.image_width}"
        )
