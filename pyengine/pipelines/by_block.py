"""Numbers by block of a U-Net, in the mapping that diffusers takes for LoRAs and IP-Adapters:

    {"down": {"block_2": [0.0, 1.0]}, "mid": 0.5, "up": {"block_0": [0.0, 1.0, 0.0], "block_1": 2}}

A block has a number for all its attentions or a list with one for each; "down" and "up" may be one
number for all their blocks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..jobs import checks


def attention_of(layer: str) -> str:
    """The attention of a U-Net that a layer is in: "down_blocks.1.attentions.0" of
    "down_blocks.1.attentions.0.proj_in".
    """
    parts = layer.split(".")
    return ".".join(parts[: 3 if parts[0] == "mid_block" else 4])


def read_by_block(
    value: Mapping[str, Any],
    attentions: Iterable[str],
    default: float,
    check: Callable[[Any], float],
    field: str,
) -> dict[str, float]:
    """{attention: number} for all of `attentions`, those that a U-Net has, of the mapping. default:
    of those that it leaves out. check: a number's. Raises RequestError that begins with `field`.
    """
    blocks = _blocks(attentions)
    found = {name: default for own in blocks.values() for name in own}
    for part, own in value.items():
        if part not in ("down", "mid", "up"):
            raise checks.refuse(field, "keys down, mid, up", part)
        if part == "mid":
            own = {"": own}
        elif not isinstance(own, Mapping):
            own = {name: own for where, name in blocks if where == part}
        for name, numbers in own.items():
            layers = blocks.get((part, name))
            if layers is None:
                known = ", ".join(n for where, n in blocks if where == part and n)
                raise checks.refuse(
                    f"{field}: {part}",
                    f"blocks with attention: {known or 'none'}",
                    name or "a number",
                )
            items = list(numbers) if isinstance(numbers, list | tuple) else [numbers]
            items = items * len(layers) if len(items) == 1 else items
            if len(items) != len(layers):
                at = ": ".join(filter(None, (field, part, name)))
                raise checks.refuse(at, f"{len(layers)} numbers", f"{len(items)} of them")
            found |= {layer: check(item) for layer, item in zip(layers, items, strict=True)}
    return found


def as_mapping(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The mapping that read_by_block reads as these numbers by attention."""
    found: dict[str, Any] = {}
    for (part, name), layers in _blocks(numbers).items():
        if part == "mid":
            found[part] = numbers[layers[0]]
        else:
            found.setdefault(part, {})[name] = [numbers[layer] for layer in layers]
    return found


def _blocks(attentions: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """The attentions by ("down", "block_1"), ("mid", "") and so on."""
    found: dict[tuple[str, str], list[str]] = {}
    for attention in dict.fromkeys(attentions):
        where, number, *_ = attention.split(".")
        block = (
            ("mid", "")
            if where == "mid_block"
            else (where.removesuffix("_blocks"), f"block_{number}")
        )
        found.setdefault(block, []).append(attention)
    return found
