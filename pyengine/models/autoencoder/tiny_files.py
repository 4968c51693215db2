"""Tiny autoencoders in single files: the publisher's, of one half each, and diffusers' of both."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, RequestError
from ...weights import load_module
from ...weights.files import refuse_pickle
from ...weights.header import SafetensorsFile
from ...weights.source import TensorSource
from ...weights.text import show

#: Of the publisher's decoder, an nn.Sequential whose first module bends the latents.
DECODER_SHIFT = 1
Shapes = dict[str, tuple[int, ...]]
Place = str | os.PathLike[str]


def load(
    cls: type[Any],
    encoder: Place | None,
    decoder: Place | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Any:
    """See AutoencoderTiny.from_files."""
    if encoder is None and decoder is None:
        raise RequestError("encoder: expected a file of the encoder or the decoder, given neither")
    opened = {
        half: _open(place)
        for half, place in (("encoder", encoder), ("decoder", decoder))
        if place is not None
    }
    halves: dict[str, tuple[TensorSource, Callable[[str], str]]] = {}
    for half, source in opened.items():
        names = {name.partition(".")[0] for name in source}
        if names <= {"encoder", "decoder"}:
            for both in sorted(names):
                halves.setdefault(both, (source, _of_both(both)))
        else:
            shift = DECODER_SHIFT if half == "decoder" else 0
            halves[half] = source, _of_one(shift)
    config = cls.config_class.from_dict(_infer(halves), _where(opened))
    model = cls.from_config(config)
    for half in ("encoder", "decoder"):
        if half not in halves:
            setattr(model, half, None)
            continue
        source, rename = halves[half]
        others = "decoder.*" if half == "encoder" else "encoder.*"
        load_module(
            getattr(model, half),
            source,
            dtype=dtype,
            device=device,
            rename=rename,
            harmless=(others,),
        )
    return model


def beside(place: Place) -> dict[str, Path]:
    """{"encoder", "decoder": files}: of a file of one half, and of the other that lies beside it
    under the same name; of a file of both, the same for both.
    """
    path = Path(place)
    name = path.name
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if half in name:
            found = {half: path}
            beside = path.with_name(name.replace(half, other))
            return found | ({other: beside} if beside.is_file() else {})
    return {"encoder": path}


def _open(place: Place) -> TensorSource:
    path = Path(os.path.expanduser(os.fspath(place)))
    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"{show(os.fspath(place))}: no such file")
    return TensorSource([SafetensorsFile(path)], str(path))


def _of_both(half: str) -> Callable[[str], str]:
    return lambda name: name.removeprefix(f"{half}.")


def _of_one(shift: int) -> Callable[[str], str]:
    """The module's name for `N.rest` of an nn.Sequential, of which diffusers has `shift` fewer."""

    def rename(name: str) -> str:
        number, dot, rest = name.partition(".")
        if not dot or not re.fullmatch(r"\d{1,4}", number):
            return name
        return f"layers.{int(number) - shift}.{rest}"

    return rename


def _where(opened: dict[str, TensorSource]) -> str:
    return f"{', '.join(source.where for source in opened.values())}: what the tensors' shapes say"


def _infer(halves: dict[str, tuple[TensorSource, Callable[[str], str]]]) -> dict[str, Any]:
    """The config.json that a folder with these tensors would have."""
    config: dict[str, Any] = {}
    counts: dict[str, list[int]] = {}
    for half, (source, rename) in halves.items():
        shapes = {rename(name): source.spec(name)[1] for name in source}
        blocks, ends = _layers(shapes)
        counts[half] = blocks
        config[f"num_{half}_blocks"] = blocks
        config[f"{half}_block_out_channels"] = [ends[0][0] if ends[0] else 0] * len(blocks)
        pooled = any(".pool." in name for name in shapes)
        config["use_midblock_gn"] = config.get("use_midblock_gn", False) or pooled
        first, last = (
            shape[i] if len(shape) == 4 else 0 for shape, i in ((ends[0], 1), (ends[1], 0))
        )
        outer, inner = (first, last) if half == "encoder" else (last, first)
        config["in_channels" if half == "encoder" else "out_channels"] = outer
        config.setdefault("latent_channels", inner)
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if half not in counts:  # built of the other's sizes, and then dropped
            config[f"num_{half}_blocks"] = counts[other][::-1]
            config[f"{half}_block_out_channels"] = config[f"{other}_block_out_channels"]
    return config


def _layers(shapes: Shapes) -> tuple[list[int], tuple[tuple[int, ...], tuple[int, ...]]]:
    """(blocks of each level, shapes of the first and the last convolution)."""
    found = sorted(
        (int(m[1]), m[2] is not None)
        for name in shapes
        if (m := re.fullmatch(r"layers\.(\d{1,4})\.(conv\.0\.)?weight", name))
    )
    plain = [number for number, block in found if not block]
    if len(plain) < 2:
        return [0], ((), ())
    counts = [0] * (len(plain) - 1)
    for number, block in found:
        level = sum(p < number for p in plain) - 1
        if block and 0 <= level < len(counts):
            counts[level] += 1
    ends = tuple(shapes[f"layers.{n}.weight"] for n in (plain[0], plain[-1]))
    return counts, (ends[0], ends[1])
