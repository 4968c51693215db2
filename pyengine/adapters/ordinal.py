"""cloneofsimo's LoRA format, which numbers layers instead of naming them.

"unet:7:down" is A of the eighth layer in the order in which that project's code comes upon them:
the U-Net's way down, its way up, then its middle, and in each transformer block attn1's q, k, v and
out, the feed-forward's GEGLU, then attn2's; in a text encoder k, v, q and out of every layer. There
is no alpha. The metadata's "unet" lists the classes whose layers were counted; learnt tokens lie
beside them as tensors "<token>", told by the metadata.
"""

import json
import re
from collections.abc import Iterable, Mapping

from ..errors import CheckpointError
from ..weights.text import show
from .keys import TEXT, UNET, Key

_NAME = re.compile(r"(unet|text_encoder):(\d{1,6}):(down|up)")
#: Classes whose layers may have been counted: of the attentions one, under an old or a new name.
_ATTENTION = {UNET: {"Attention", "CrossAttention"}, TEXT: {"CLIPAttention"}}
_FEED_FORWARD = "GEGLU"
_SIDES = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
_IN_BLOCK = (
    *(f"attn1.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")),
    "ff.net.0.proj",
    *(f"attn2.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")),
)
_IN_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
_BLOCK = re.compile(
    r"(?:(down_blocks|up_blocks)\.(\d+)|(mid_block))"
    r"\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.(.+)"
)
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.(.+)")


def is_ordinal(names: Iterable[str]) -> bool:
    """Whether a file's tensors are numbered so."""
    return any(_NAME.fullmatch(name) for name in names)


def is_token(name: str, metadata: Mapping[str, str]) -> bool:
    """Whether a tensor is the embedding of a learnt token."""
    return metadata.get(name) == "<embed>"


def ordered(part: str, layers: Iterable[str], metadata: Mapping[str, str], where: str) -> list[str]:
    """The names of a part's layers that are counted, in order. Raises CheckpointError where the
    metadata lists classes whose order is not known.
    """
    counted = _counted(part, metadata, where)
    found: list[tuple[tuple[int, ...], str]] = []
    for name in layers:
        if part == UNET and (match := _BLOCK.fullmatch(name)) and match[6] in counted:
            side, level, middle, attention, block, rest = match.groups()
            place = (_SIDES[side or middle], int(level or 0), int(attention), int(block))
            found.append(((*place, counted.index(rest)), name))
        elif part == TEXT and (match := _LAYER.fullmatch(name)) and match[2] in counted:
            found.append(((int(match[1]), counted.index(match[2])), name))
    return [name for _, name in sorted(found)]


def _counted(part: str, metadata: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The layers of a block that are counted, in order."""
    everything = _IN_BLOCK if part == UNET else _IN_TEXT
    said = metadata.get(part)
    if said is None:
        return everything
    try:
        classes = set(json.loads(said)) if len(said) < 10_000 else set()
    except (ValueError, TypeError, RecursionError):
        classes = set()
    optional = {_FEED_FORWARD} if part == UNET else set()
    if not classes & _ATTENTION[part] or not classes <= _ATTENTION[part] | optional:
        raise CheckpointError(
            f"{where}: metadata {part}: expected the classes whose layers are numbered, of"
            f" {', '.join(sorted(_ATTENTION[part] | optional))}, found {show(said)}"
        )
    return tuple(n for n in everything if _FEED_FORWARD in classes or not n.startswith("ff."))


def parse_ordinal(name: str, layers: Mapping[str, list[str]], where: str) -> Key | None:
    """What a tensor is; None for one of a part that is not there, or of none of this format.

    layers: by part the names of `ordered`. Raises CheckpointError for a number beyond them.
    """
    if (match := _NAME.fullmatch(name)) is None or match[1] not in layers:
        return None
    part, number, leaf = match.groups()
    known = layers[part]
    if int(number) >= len(known):
        raise CheckpointError(
            f"{where}: {show(name)}: expected a number below {len(known)}, of the layers that the"
            f" model's {part} has"
        )
    return Key(part, known[int(number)], False, leaf)
