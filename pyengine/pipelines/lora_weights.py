"""How much a LoRA counts: a number, or one for each part of a pipeline and block of its U-Net."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..adapters.tags import MAX_SCALE
from ..errors import RequestError
from ..jobs import checks
from ..weights.jsonio import parse_object
from .by_block import as_mapping, read_by_block

#: The parts of a pipeline that LoRAs may change.
ADAPTED = ("unet", "text_encoder", "text_encoder_2")
#: In a U-Net's mapping: what its blocks do not name.
OTHER = "other"
_EXPECTED = 'a number, or {"unet": x, "text_encoder": y, "text_encoder_2": z}'


@dataclass(frozen=True)
class LoraWeight:
    """What a LoRA counts in each part.

    unet: in the U-Net, but for the attentions that `blocks` names ("down_blocks.1.attentions.0")
    with numbers of their own. text: in the text encoders; text_2: in SDXL's second, None: as text.
    """

    unet: float = 1.0
    text: float = 1.0
    text_2: float | None = None
    blocks: tuple[tuple[str, float], ...] = ()

    def of(self, part: str) -> float:
        """Of one of ADAPTED."""
        if part == "text_encoder_2" and self.text_2 is not None:
            return self.text_2
        return self.unet if part == "unet" else self.text

    def scaled(self, factor: float) -> "LoraWeight":
        if factor == 1:
            return self
        return LoraWeight(
            factor * self.unet,
            factor * self.text,
            None if self.text_2 is None else factor * self.text_2,
            tuple((name, factor * number) for name, number in self.blocks),
        )

    def plus(self, other: "LoraWeight") -> "LoraWeight":
        """What the same LoRA counts that is asked for twice."""
        own, its = dict(self.blocks), dict(other.blocks)
        blocks = tuple(
            (name, own.get(name, self.unet) + its.get(name, other.unet)) for name in own | its
        )
        second = None
        if self.text_2 is not None or other.text_2 is not None:
            second = self.of("text_encoder_2") + other.of("text_encoder_2")
        return LoraWeight(self.unet + other.unet, self.text + other.text, second, blocks)

    def of_parts(self, parts: Sequence[str]) -> "LoraWeight":
        """The same, of these parts alone."""
        unet, text, second = (self.of(part) if part in parts else 0.0 for part in ADAPTED)
        return LoraWeight(unet, text, second, self.blocks if "unet" in parts else ())

    @property
    def asked(self) -> Any:
        """The number or the mapping that read_weight reads as this."""
        if not self.blocks and self.unet == self.text == self.of("text_encoder_2"):
            return self.unet
        unet: Any = self.unet
        if self.blocks:
            unet = {**as_mapping(dict(self.blocks)), OTHER: self.unet}
        return {
            "unet": unet,
            "text_encoder": self.text,
            "text_encoder_2": self.of("text_encoder_2"),
        }

    @property
    def shown(self) -> dict[str, Any]:
        """As reports tell it."""
        told: dict[str, Any] = {"weight": self.unet, "text": self.text}
        if self.of("text_encoder_2") != self.text:
            told["text_2"] = self.of("text_encoder_2")
        if self.blocks:
            told["blocks"] = dict(self.blocks)
        return told


def shown_weight(told: Mapping[str, Any]) -> LoraWeight:
    """The weight that reports tell so."""
    blocks = tuple(told.get("blocks", {}).items())
    return LoraWeight(told["weight"], told["text"], told.get("text_2"), blocks)


def read_weight(field: str, value: Any, attentions: Sequence[str]) -> LoraWeight:
    """What a call or set_adapters says of one LoRA: a number for all parts, None for 1, or a
    mapping by part, in which what is left out is 1. The U-Net's may be diffusers' mapping by block
    (see by_block), with "other" for what no block names, 1 unless told.

    attentions: of the U-Net. Raises RequestError.
    """

    def number(value: Any, at: str = field) -> float:
        return checks.real(at, value, -MAX_SCALE, MAX_SCALE)

    if value is None:
        return LoraWeight()
    if not isinstance(value, Mapping):
        return LoraWeight(number(value), number(value))
    if set(value) - set(ADAPTED):
        raise checks.refuse(field, _EXPECTED, value)
    text, second = (number(value.get(p, 1.0), f"{field}: {p}") for p in ADAPTED[1:])
    unet, at = value.get("unet", 1.0), f"{field}: unet"
    if not isinstance(unet, Mapping):
        return LoraWeight(number(unet, at), text, second)
    other = number(unet.get(OTHER, 1.0), f"{at}: {OTHER}")
    named = {part: own for part, own in unet.items() if part != OTHER}
    blocks = read_by_block(named, attentions, other, lambda v: number(v, at), at)
    return LoraWeight(other, text, second, tuple(blocks.items()))


def read_text(text: str) -> list[tuple[str, Any]]:
    """[("a", 0.8), ("b", 1.0)] of "a:0.8,b", or of a JSON object {"a": 0.8, "b": {"unet": 1}}."""
    if text.lstrip().startswith("{"):
        found = parse_object(text.encode("utf-8", "surrogatepass"), "lora", error=RequestError)
        return list(found.items())
    pairs: list[tuple[str, Any]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, weight = item.rpartition(":")
        try:
            pairs.append((name, float(weight)) if colon else (item, 1.0))
        except ValueError:
            raise checks.refuse("lora", "NAME:WEIGHT", item) from None
    if not pairs:
        raise checks.refuse("lora", "NAME:WEIGHT, separated by commas", text)
    return pairs


def as_text(weights: Mapping[str, Any]) -> str:
    """The text that read_text reads as these."""
    plain = not any(isinstance(own, Mapping) for own in weights.values())
    if plain and not any("," in n or n.strip() != n or n.startswith("{") for n in weights):
        return ",".join(f"{name}:{weight}" for name, weight in weights.items())
    return json.dumps(weights, ensure_ascii=False)
