"""A model's layers under every name that LoRA files give them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..branches import Target, norm_targets, targets
from .keys import UNET

_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(\w+\.\d)\.(.+)")


def original_name(name: str, layers_per_block: int, names: Iterable[str]) -> str | None:
    """What the original code (CompVis's, Stability's) calls a layer of a U-Net; None for one that
    it has not. weights.original.unet_target is the way back. names: all of the U-Net's layers.
    """
    if name in _ENDS:
        return _ENDS[name]
    if (middle := _MID.fullmatch(name)) is not None and middle[1] in _MIDDLE:
        slot = _MIDDLE[middle[1]]
        rest = middle[2] if slot == 1 else _RESNET.get(middle[2])
        return None if rest is None else f"middle_block.{slot}.{rest}"
    if (match := _BLOCK.fullmatch(name)) is None:
        return None
    side, level, kind, layer, rest = match.groups()
    per_level, down = layers_per_block + 1, side == "down"
    first = int(level) * per_level + down
    blocks = "input_blocks" if down else "output_blocks"
    if kind == "resnets" and rest in _RESNET:
        return f"{blocks}.{first + int(layer)}.0.{_RESNET[rest]}"
    if kind == "attentions":
        return f"{blocks}.{first + int(layer)}.1.{rest}"
    if kind == "downsamplers" and rest == "conv":
        return f"{blocks}.{first + layers_per_block}.0.op"
    if kind == "upsamplers" and rest == "conv":
        attends = any(other.startswith(f"up_blocks.{level}.attentions.") for other in names)
        return f"{blocks}.{first + layers_per_block}.{2 if attends else 1}.conv"
    return None


class Layers:
    """The layers of one part of a pipeline that adapters may change, found by a file's names.

    part: of keys.PARTS. model: a U-Net or a text encoder, loaded.
    """

    def __init__(self, part: str, model: nn.Module):
        self.part, self.model = part, model
        self.norms: Mapping[str, Target] = norm_targets(model)
        self.targets: Mapping[str, Target] = {**targets(model), **self.norms}
        #: (the name, whether it is the original code's) by spelling, dotted and flat.
        self._dotted: dict[str, tuple[str, bool]] = {}
        self._flat: dict[str, tuple[str, bool]] = {}
        for name in self.targets:
            self._add(name, name, False)
            if part == UNET:
                layers: Any = getattr(model, "config", None)
                layers = getattr(layers, "layers_per_block", None)
                known = isinstance(layers, int)  # the original code's U-Nets have one number
                other = original_name(name, layers, self.targets) if known else None
                if other is not None:
                    self._add(other, name, True)
            else:
                self._add(name.removeprefix("text_model."), name, False)

    def _add(self, spelled: str, name: str, original: bool) -> None:
        self._dotted.setdefault(spelled, (name, original))
        self._flat.setdefault(spelled.replace(".", "_"), (name, original))

    def find(self, module: str, flat: bool) -> tuple[str, bool] | None:
        """(the layer's name, whether it is spelled as the original code does), or None."""
        if flat:
            return self._flat.get(module)
        known = self._dotted.get(module)
        return self._dotted.get(f"{module}.0") if known is None else known  # to_out without .0
