"""Upscalers in one file, under any of the names that their tensors have been saved by."""

import math
import os
import re
from typing import Any

from ...errors import CheckpointError
from ...weights.network_file import NetworkFile, Shapes
from ...weights.source import MappedSource, TensorSource
from ...weights.text import show

#: BasicSR's names for those of ESRGAN's own code, which its authors called the new architecture.
_NEW = {
    "conv_first": "conv_first",
    "trunk_conv": "conv_body",
    "HRconv": "conv_hr",
    "conv_last": "conv_last",
}
_LEAF = r"\.(weight|bias)"
_NEW_BLOCK = re.compile(rf"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5]){_LEAF}")
_NEW_UP = re.compile(rf"upconv(\d){_LEAF}")
_OLD_BLOCK = re.compile(rf"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0{_LEAF}")
_OLD = re.compile(rf"model\.(?:(1)\.sub\.(\d+)|(\d+)){_LEAF}")


def basicsr_name(name: str, ups: int) -> str:
    """BasicSR's name for one of ESRGAN's, old or new; the name itself where it is none of these.

    ups: how often the old architecture doubles the sides: of its nn.Sequential, every third module
    is such a convolution, and the two after them are two apart.
    """
    if match := _NEW_BLOCK.fullmatch(name) or _OLD_BLOCK.fullmatch(name):
        block, dense, convolution, leaf = match.groups()
        return f"body.{int(block)}.rdb{dense}.conv{convolution}.{leaf}"
    if match := _NEW_UP.fullmatch(name):
        return f"conv_up{match[1]}.{match[2]}"
    stem, _, leaf = name.rpartition(".")
    if stem in _NEW and leaf in ("weight", "bias"):
        return f"{_NEW[stem]}.{leaf}"
    if match := _OLD.fullmatch(name):
        if match[1]:
            return f"conv_body.{leaf}"
        position = int(match[3])
        names = {0: "conv_first", 3 * ups + 2: "conv_hr", 3 * ups + 4: "conv_last"}
        names |= {3 * i: f"conv_up{i}" for i in range(1, ups + 1)}
        return f"{names[position]}.{leaf}" if position in names else name
    return name


class RRDBFile(NetworkFile):
    """RRDBNet as BasicSR, ESRGAN's own code or its older form saved it."""

    pipeline_class = "RRDBNet"

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__(path)
        positions = {int(m[3]) for n in self._shapes if (m := _OLD.fullmatch(n)) and m[3]}
        ups = max(0, (max(positions, default=0) - 4) // 3)
        self._names: dict[str, str] = {}
        for name in self._shapes:
            new = basicsr_name(name, ups)
            if new in self._names:
                raise CheckpointError(
                    f"{self.source}: {show(self._names[new])} and {show(name)} are both {show(new)}"
                )
            self._names[new] = name

    def infer(self, shapes: Shapes) -> dict[str, Any]:
        shapes = {new: shapes[old] for new, old in self._names.items()}
        first = shapes.get("conv_first.weight", ())
        grown = shapes.get("body.0.rdb1.conv1.weight", ())
        blocks = [int(m[1]) for n in shapes if (m := re.match(r"body\.(\d{1,4})\.", n))]
        ups = sum(f"conv_up{i}.weight" in shapes for i in range(1, 10))
        unshuffle = math.isqrt(first[1] // 3) if len(first) == 4 else 1
        return {
            "model_type": "rrdbnet",
            "scale": 2**ups // max(unshuffle, 1),
            "num_feat": first[0] if first else 0,
            "num_block": max(blocks, default=-1) + 1,
            "num_grow_ch": grown[0] if grown else 0,
            "num_upsample": ups,
        }

    def tensors(self, name: str) -> TensorSource | MappedSource:
        source = super().tensors(name)
        names = getattr(self, "_names", None)
        if names is None or all(new == old for new, old in names.items()):
            return source
        assert isinstance(source, TensorSource)
        table = {new: (old, None, None) for new, old in names.items()}
        return MappedSource(source, table, self.source)


class CompactFile(NetworkFile):
    """SRVGGNetCompact as BasicSR saved it."""

    pipeline_class = "SRVGGNetCompact"

    def infer(self, shapes: Shapes) -> dict[str, Any]:
        positions = [int(m[1]) for n in shapes if (m := re.match(r"body\.(\d{1,4})\.weight$", n))]
        last = max(positions, default=0)
        first, end = shapes.get("body.0.weight", ()), shapes.get(f"body.{last}.weight", ())
        return {
            "model_type": "srvgg_compact",
            "num_feat": first[0] if first else 0,
            "num_conv": (last - 2) // 2,
            "upscale": math.isqrt(end[0] // 3) if end else 0,
        }
