"""T2I-Adapters from folders and files: diffusers' layout, and that of the original code.

The original (github.com/TencentARC/T2I-Adapter, ldm/modules/encoders/adapter.py) numbers the
residual blocks of a full adapter one after the other; of a light one they lie in its blocks.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ..errors import CheckpointError, ConfigError
from ..models.control.t2i import T2IAdapter, T2IAdapterConfig
from ..models.unet import UNet2DConditionConfig
from ..weights import load_module
from ..weights.header import SafetensorsFile
from ..weights.names import other_kind
from ..weights.source import MappedSource, TensorSource
from ..weights.text import listing, show
from .places import Hub, Place, find_place, folder_config, open_network

Shapes = Mapping[str, tuple[int, ...]]
_FULL = re.compile(r"body\.(\d+)\.(in_conv|block1|block2)\.(weight|bias)")
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(block1|block2)\.(weight|bias)")
_OWN = "adapter."


def load_t2i_adapter(
    place: Place, device: torch.device, dtype: torch.dtype, hub: Hub | None = None
) -> T2IAdapter:
    """The T2I-Adapter in a folder of diffusers' or under a Hub id, or in a .safetensors file of
    either layout.

    Raises CheckpointError or ConfigError, which names tensors or keys, for anything else.
    """
    with opened_t2i_adapter(place, hub) as (config, source):
        made = T2IAdapter.from_config(config)
        assert isinstance(made, T2IAdapter)
        load_module(made, source, dtype=dtype, device=device)
    return made


@contextmanager
def opened_t2i_adapter(
    place: Place, hub: Hub | None = None
) -> Iterator[tuple[T2IAdapterConfig, TensorSource | MappedSource]]:
    """(the config, the tensors under diffusers' names) of what load_t2i_adapter takes."""
    path = find_place("adapter", place, hub)
    if path.is_dir():
        data = folder_config("adapter", path)
        with open_network(path, hub) as source:
            yield T2IAdapterConfig.from_dict(data, str(path / "config.json")), source
        return
    with TensorSource([SafetensorsFile(path)], f"adapter: {path}") as source:
        shapes = {name: source.spec(name)[1] for name in source}
        table, config = _read(shapes, source.where)
        entries = {new: (old, None, None) for new, old in table.items()}
        yield config, MappedSource(source, entries, source.where)


def _read(shapes: Shapes, where: str) -> tuple[dict[str, str], T2IAdapterConfig]:
    """({diffusers' name: name in `shapes`}, the config that the shapes say)."""
    if not any(name.removeprefix(_OWN).startswith("body.0.") for name in shapes):
        kind = other_kind(shapes)
        raise CheckpointError(
            f"{where}: expected a T2I-Adapter, with body.0.*, found"
            f" {listing(map(show, sorted(shapes)))}" + (f" (as of {kind})" if kind else "")
        )
    if any(name.startswith(_OWN) for name in shapes):
        table = {name: name for name in shapes}
    else:
        table = _original(shapes, where)
    return table, _config({new: shapes[old] for new, old in table.items()}, where)


def _original(shapes: Shapes, where: str) -> dict[str, str]:
    light = any(_LIGHT.fullmatch(name) for name in shapes)
    count = 0
    if not light:
        # Residual blocks that widen, or halve, begin a block.
        numbers = {int(m[1]) for m in map(_FULL.fullmatch, shapes) if m}
        widened = sorted(
            int(m[1])
            for m in map(_FULL.fullmatch, shapes)
            if m and m[2] == "in_conv" and m[3] == "weight"
        )
        count = widened[0] if widened else 0
        if not count or len(numbers) % count:
            raise CheckpointError(
                f"{where}: {len(numbers)} residual blocks, of which {listing(map(str, widened))}"
                " widen: expected as many for each width"
            )
    table, unknown = {}, []
    for name in shapes:
        new: str | None = name
        if light and (match := _LIGHT.fullmatch(name)):
            new = f"body.{match[1]}.resnets.{match[2]}.{match[3]}.{match[4]}"
        elif not light and (match := _FULL.fullmatch(name)):
            block, layer = divmod(int(match[1]), count)
            inner = "in_conv" if match[2] == "in_conv" else f"resnets.{layer}.{match[2]}"
            new = f"body.{block}.{inner}.{match[3]}"
        elif not re.fullmatch(r"conv_in\.(weight|bias)|body\.\d+\.(in|out)_conv\.\w+", name):
            new = None
        if new is None:
            unknown.append(show(name))
        else:
            table[f"{_OWN}{new}"] = name
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} tensors are none of a T2I-Adapter's: {listing(unknown)}"
        )
    return table


def _config(shapes: Shapes, where: str) -> T2IAdapterConfig:
    light = f"{_OWN}conv_in.weight" not in shapes
    leaf = "out_conv" if light else "resnets.0.block2"
    widths: list[int] = []
    while (name := f"{_OWN}body.{len(widths)}.{leaf}.weight") in shapes:
        widths.append(shapes[name][0] if shapes[name] else 0)
    first = f"{_OWN}body.0.in_conv.weight" if light else f"{_OWN}conv_in.weight"
    unshuffled = shapes[first][1] if len(shapes.get(first, ())) > 1 else 0
    kinds = {3 * 64: (3, 8), 64: (1, 8), 3 * 256: (3, 16), 256: (1, 16)}
    if unshuffled not in kinds:
        raise CheckpointError(
            f"{where}: tensor {show(first)}: expected {listing(map(str, kinds))} input channels,"
            f" found {unshuffled}"
        )
    channels, factor = kinds[unshuffled]
    resnets = (re.match(r"adapter\.body\.0\.resnets\.(\d+)\.", name) for name in shapes)
    kind = "light_adapter" if light else "full_adapter_xl" if factor == 16 else "full_adapter"
    try:
        return T2IAdapterConfig(
            in_channels=channels,
            channels=tuple(widths[:-1] if light else widths),
            num_res_blocks=len({m[1] for m in resnets if m}),
            downscale_factor=factor,
            adapter_type=kind,  # type: ignore[arg-type]  # one of the three
        )
    except ValueError as e:
        raise ConfigError(f"{where}: what its tensors' shapes say: {e}") from None


def check_adapter(network: T2IAdapter, unet: UNet2DConditionConfig, factor: int) -> None:
    """Raises ConfigError where an adapter's results do not fit a U-Net's way down. factor: the
    autoencoder's, in pixels per latent pixel.
    """
    c: T2IAdapterConfig = network.config
    expected, scale = [], factor
    for i, channels in enumerate(unet.block_out_channels):
        # A block with attention takes it before it halves the picture, others after that.
        after = i < unet.levels - 1 and not unet.crosses(i)[0]
        expected.append((channels, scale * 2 if after else scale))
        scale *= 2 if i < unet.levels - 1 else 1
    expected.append((unet.block_out_channels[-1], scale))
    own = list(zip(_widths_of(c), _factors_of(c), strict=True))
    if len(own) not in (unet.levels, unet.levels + 1) or own != expected[: len(own)]:
        raise ConfigError(
            f"adapter: does not fit the U-Net: it gives (channels, pixels along a side) {own},"
            f" the U-Net takes {expected}"
        )


def _widths_of(c: T2IAdapterConfig) -> list[int]:
    return [*c.channels, *([c.channels[-1]] if c.adapter_type == "light_adapter" else [])]


def _factors_of(c: T2IAdapterConfig) -> list[int]:
    count = len(_widths_of(c))
    if c.adapter_type == "full_adapter_xl":
        return [c.downscale_factor * (2 if i >= 2 else 1) for i in range(count)]
    return [c.downscale_factor * 2**i for i in range(count)]
