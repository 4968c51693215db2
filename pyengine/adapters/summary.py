"""What a LoRA file holds, from its header alone: for people who ask before they load it."""

import re
from collections import Counter
from typing import Any

from .file import LoraFile
from .formulas import BESIDE, kind_of
from .keys import Key, parse
from .ordinal import is_ordinal, is_token
from .presets import METADATA

#: Keys of metadata that say what a LoRA was trained on, in the order in which they are believed.
_BASE = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")
_ORDINAL = re.compile(r"(unet|text_encoder):(\d+):(down|up)")
#: The tensors whose first size is the rank.
_RANKED = ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")


def summary(file: LoraFile) -> dict[str, Any] | None:
    """Format, parts with numbers of layers, kinds and ranks, what it was trained on, preset, learnt
    tokens, bytes and hash; None for a file of other tensors.
    """
    modules: dict[tuple[str, str], dict[str, str]] = {}
    styles: Counter[str] = Counter()
    for name in file.tensors:
        key = _ordinal(name) if is_ordinal([name]) else parse(name)
        if key is not None:
            modules.setdefault((key.part, key.module), {})[key.leaf] = name
            styles[_style(name, key)] += 1
    kinds = {module: kind_of(set(leaves)) for module, leaves in modules.items()}
    if not any(kinds.values()):
        return None
    return {
        "format": ", ".join(style for style, _ in styles.most_common()),
        "parts": _parts(file, modules, kinds),
        "base": next((file.metadata[k] for k in _BASE if file.metadata.get(k)), None),
        "preset": file.metadata.get(METADATA),
        "tokens": [name for name in file.tensors if is_token(name, file.metadata)],
        "bytes": file.tensors.nbytes(),
        "hash": file.sha256,
    }


def _parts(
    file: LoraFile,
    modules: dict[tuple[str, str], dict[str, str]],
    kinds: dict[tuple[str, str], str | None],
) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for (part, module), leaves in modules.items():
        own = parts.setdefault(part, {"modules": 0, "kinds": Counter(), "ranks": set()})
        own["modules"] += 1
        decomposed = "DoRA, " if {"dora_scale", "magnitude"} & set(leaves) else ""
        own["kinds"][decomposed + (kinds[part, module] or "incomplete")] += 1
        own["ranks"] |= {
            shape[0]
            for leaf in _RANKED
            if leaf in leaves and (shape := file.tensors.spec(leaves[leaf])[1])
        }
    return {
        part: {**own, "kinds": dict(own["kinds"]), "ranks": sorted(own["ranks"])}
        for part, own in parts.items()
    }


def _ordinal(name: str) -> Key | None:
    match = _ORDINAL.fullmatch(name)
    return None if match is None else Key(match[1], match[2], False, match[3])


def _style(name: str, key: Key) -> str:
    """The format's name."""
    if _ORDINAL.fullmatch(name):
        return "cloneofsimo"
    if key.flat:
        kohya = key.leaf in {"down", "up", "mid"} | BESIDE
        return "kohya" if kohya else "LyCORIS"
    if ".lora_A" in name or ".lora_B" in name or "magnitude" in name:
        return "peft"
    if ".processor." in name or re.search(r"to_(q|k|v|out)_lora", name):
        return "diffusers (old)"
    return "diffusers"
