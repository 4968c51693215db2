"""ControlNets from folders and files: diffusers' layout, and that of the original code.

The original (github.com/lllyasviel/ControlNet, cldm/cldm.py) names the half of the U-Net that it
copies as CompVis' code does, below `control_model.` or nothing; what it adds is `input_hint_block`,
the embedding of the picture, and the convolutions `zero_convs` and `middle_block_out`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..models.control.config import ControlNetConfig, ControlNetUnionConfig
from ..models.control.controlnet import ControlNetModel
from ..models.control.union import ControlNetUnionModel
from ..models.unet import UNet2DConditionConfig
from ..weights import load_module
from ..weights.header import SafetensorsFile
from ..weights.names import HARMLESS, matcher, other_kind
from ..weights.original import unet_target
from ..weights.source import MappedSource, TensorSource
from ..weights.text import listing, show
from .places import Hub, Place, find_place, folder_config, open_network

Shapes = Mapping[str, tuple[int, ...]]
#: By which a network is known to be one for several kinds of pictures.
UNION = "task_embedding"
#: What stands before the names in files; whatever comes first goes first.
_PREFIXES = ("state_dict.", "module.")
_OWN = "control_model."
#: Of a whole checkpoint that a ControlNet was saved in.
_OTHERS = matcher(
    ("model.diffusion_model.*", "first_stage_model.*", "cond_stage_model.*", *HARMLESS)
)
_HINT = re.compile(r"input_hint_block\.(\d+)\.(weight|bias)")
_ZERO = re.compile(r"zero_convs\.(\d+)\.0\.(weight|bias)")
_MIDDLE = re.compile(r"middle_block_out\.0\.(weight|bias)")


def load_controlnet(
    place: Place,
    unet: UNet2DConditionConfig,
    device: torch.device,
    dtype: torch.dtype,
    hub: Hub | None = None,
) -> ControlNetModel:
    """The ControlNet in a folder of diffusers' or under a Hub id, or in a .safetensors file of
    either layout, whose config follows that of the U-Net beside it.

    Raises CheckpointError or ConfigError, which names tensors or keys, for anything else.
    """
    with opened_controlnet(place, unet, hub) as (config, source):
        made = _network(config)
        load_module(made, source, dtype=dtype, device=device)
    return made


@contextmanager
def opened_controlnet(
    place: Place, unet: UNet2DConditionConfig, hub: Hub | None = None
) -> Iterator[tuple[ControlNetConfig, TensorSource | MappedSource]]:
    """(the config, the tensors under diffusers' names) of what load_controlnet takes."""
    path = find_place("controlnet", place, hub)
    if path.is_dir():
        data = folder_config("controlnet", path)
        with open_network(path, hub) as source:
            union = UNION in source or data.get("_class_name") in ControlNetUnionConfig.CLASS_NAMES
            if union and data.get("_class_name") in ControlNetConfig.CLASS_NAMES:
                data = {**data, "_class_name": ControlNetUnionConfig.CLASS_NAMES[0]}
            cls = ControlNetUnionConfig if union else ControlNetConfig
            yield cls.from_dict(data, f"controlnet: {path / 'config.json'}"), source
        return
    with TensorSource([SafetensorsFile(path)], f"controlnet: {path}") as source:
        names = _own_names(source)
        shapes = {new: source.spec(old)[1] for new, old in names.items()}
        table, config = _read(shapes, unet, source.where)
        entries = {new: (names[old], None, None) for new, old in table.items()}
        yield config, MappedSource(source, entries, source.where)


def _network(config: ControlNetConfig) -> ControlNetModel:
    cls = ControlNetUnionModel if isinstance(config, ControlNetUnionConfig) else ControlNetModel
    made = cls.from_config(config)
    assert isinstance(made, ControlNetModel)
    return made


def _own_names(source: TensorSource) -> dict[str, str]:
    """{name without its prefixes: name in the file} of the ControlNet's tensors."""
    plain: dict[str, str] = {}
    for old in source:
        name = old
        while any(name.startswith(p) for p in _PREFIXES):
            name = name.partition(".")[2]
        if name in plain:
            raise CheckpointError(
                f"{source.where}: {show(plain[name])} and {show(old)} are the same tensor's"
            )
        plain[name] = old
    own = {n.removeprefix(_OWN): old for n, old in plain.items() if n.startswith(_OWN)}
    if not own:
        return plain
    extra = [show(n) for n in plain if not n.startswith(_OWN) and not _OTHERS.match(n)]
    if extra:
        raise CheckpointError(
            f"{source.where}: {len(extra)} tensors beside {_OWN}*: {listing(extra)}"
        )
    return own


def _read(
    shapes: Shapes, unet: UNet2DConditionConfig, where: str
) -> tuple[dict[str, str], ControlNetConfig]:
    """({diffusers' name: name in `shapes`}, the config)."""
    if "lora_controlnet" in shapes:
        raise CheckpointError(
            f"{where}: a Control-LoRA (tensor 'lora_controlnet'), which is not supported: expected"
            " a whole ControlNet"
        )
    if "difference" in shapes:
        raise CheckpointError(
            f"{where}: holds differences to a U-Net (tensor 'difference'), not a ControlNet's"
            " weights; convert it to a whole ControlNet"
        )
    if "controlnet_cond_embedding.conv_in.weight" in shapes:
        table = {name: name for name in shapes}
    elif "input_hint_block.0.weight" in shapes:
        table = _original(shapes, unet, where)
    else:
        kind = other_kind(shapes)
        some = listing(map(show, sorted(shapes)))
        raise CheckpointError(
            f"{where}: expected a ControlNet, with controlnet_cond_embedding.conv_in.weight or"
            f" input_hint_block.0.weight, found {some}" + (f" (as of {kind})" if kind else "")
        )
    return table, _config({new: shapes[old] for new, old in table.items()}, unet, where)


def _original(shapes: Shapes, unet: UNet2DConditionConfig, where: str) -> dict[str, str]:
    layers = unet.layers_per_block
    if not isinstance(layers, int):
        raise ConfigError(
            f"{where}: in the original layout it follows a U-Net of one"
            f" layers_per_block, which this has not: {layers}"
        )
    numbers = [int(m[1]) for m in map(_HINT.fullmatch, shapes) if m]
    last = max(numbers)
    table: dict[str, str] = {}
    unknown = []
    for name in shapes:
        new = _target(name, layers, last)
        if new is None:
            unknown.append(show(name))
        elif new in table:
            raise CheckpointError(
                f"{where}: {show(table[new])} and {show(name)} are both {show(new)}"
            )
        else:
            table[new] = name
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} tensors are none of a ControlNet's: {listing(unknown)}"
        )
    return table


def _target(name: str, layers: int, last: int) -> str | None:
    """diffusers' name; last: the number of the last convolution that embeds the picture."""
    if match := _HINT.fullmatch(name):
        number, leaf = int(match[1]), match[2]
        if number % 2:
            return None
        place = "conv_in" if not number else f"blocks.{number // 2 - 1}"
        place = "conv_out" if number == last else place
        return f"controlnet_cond_embedding.{place}.{leaf}"
    if match := _ZERO.fullmatch(name):
        return f"controlnet_down_blocks.{match[1]}.{match[2]}"
    if match := _MIDDLE.fullmatch(name):
        return f"controlnet_mid_block.{match[1]}"
    found = unet_target(name, layers)
    return found[0] if found else None


def _config(shapes: Shapes, unet: UNet2DConditionConfig, where: str) -> ControlNetConfig:
    """That of the U-Net, with what the tensors say of the ControlNet's own layers."""
    own: dict[str, Any] = {
        "in_channels": _side(shapes, "conv_in.weight", 1, where),
        "conditioning_channels": _side(
            shapes, "controlnet_cond_embedding.conv_in.weight", 1, where
        ),
        "conditioning_embedding_out_channels": tuple(_widths(shapes, where)),
    }
    cls: type[ControlNetConfig] = ControlNetConfig
    if UNION in shapes:
        cls = ControlNetUnionConfig
        layers = (re.match(r"transformer_layes\.(\d+)\.", name) for name in shapes)
        own |= {
            "num_control_type": _side(shapes, UNION, 0, where),
            "num_trans_channel": _side(shapes, UNION, 1, where),
            "num_proj_channel": _side(shapes, "spatial_ch_projs.weight", 0, where),
            "num_trans_layer": len({m[1] for m in layers if m}),
        }
    try:
        return cls.of_unet(unet, **own)
    except ValueError as e:
        raise ConfigError(
            f"{where}: what its tensors' shapes and the U-Net's config say: {e}"
        ) from None


def _widths(shapes: Shapes, where: str) -> Iterable[int]:
    yield _side(shapes, "controlnet_cond_embedding.conv_in.weight", 0, where)
    blocks = "controlnet_cond_embedding.blocks"
    count = sum(f"{blocks}.{i}.weight" in shapes for i in range(1, 16, 2))
    for i in range(count):
        yield _side(shapes, f"{blocks}.{2 * i + 1}.weight", 0, where)


def _side(shapes: Shapes, name: str, dim: int, where: str) -> int:
    shape = shapes.get(name)
    if shape is None or len(shape) <= dim:
        found = "none" if shape is None else str(list(shape))
        raise CheckpointError(f"{where}: tensor {show(name)}: expected a weight, found {found}")
    return shape[dim]


def check_beside(network: ControlNetModel, unet: UNet2DConditionConfig, factor: int) -> None:
    """Raises ConfigError where a ControlNet's results do not fit a U-Net's activations, or where it
    is told other things. factor: the autoencoder's, in pixels per latent pixel.
    """
    c: ControlNetConfig = network.config
    halves = [unet.layers(i) + (i < unet.levels - 1) for i in range(unet.levels)]
    skips = [unet.block_out_channels[0]]
    for channels, count in zip(unet.block_out_channels, halves, strict=True):
        skips += [channels] * count
    wanted = {
        "block_out_channels": (c.block_out_channels, unet.block_out_channels),
        "skips": (tuple(c.skip_channels), tuple(skips)),
        "in_channels": (c.in_channels, unet.out_channels),
        "cross_attention_dim": (c.cross_attention_dim, unet.cross_attention_dim),
        "addition_embed_type": (c.addition_embed_type, unet.addition_embed_type),
        "projection_class_embeddings_input_dim": (
            c.projection_class_embeddings_input_dim, unet.projection_class_embeddings_input_dim
        ),
        "pixels per latent pixel": (c.factor, factor),
    }  # fmt: skip
    problems = [
        f"{name} {show(own)}, the U-Net {show(its)}"
        for name, (own, its) in wanted.items()
        if own != its
    ]
    if problems:
        raise ConfigError(f"controlnet: does not fit the U-Net: it has {'; '.join(problems)}")
