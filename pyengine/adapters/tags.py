"""AUTOMATIC1111's `<lora:name:0.8>` in prompts."""

import re
from dataclasses import dataclass

from ..errors import RequestError
from ..weights.text import show

#: Weights that a LoRA may be given.
MAX_SCALE = 100.0
#: That web UI takes lyco for the same.
_TAG = re.compile(r"<(?:lora|lyco):([^<>\n]*)>")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_WORDS = {"te": "text", "unet": "unet"}


@dataclass(frozen=True)
class Tag:
    """One tag: the LoRA's name, and what it counts in the text encoders and in the U-Net."""

    name: str
    text: float = 1.0
    unet: float = 1.0


def find_tags(prompt: str) -> tuple[str, list[Tag]]:
    """(the prompt without its tags, the tags in order).

    <lora:name>, <lora:name:weight>, <lora:name:text:unet>; a weight may be named: te=, unet=.
    Raises RequestError for a tag that is none of these.
    """
    tags = [_read(match[1]) for match in _TAG.finditer(prompt)]
    if not tags:
        return prompt, []
    return re.sub(r"  +", " ", _TAG.sub("", prompt)).strip(), tags


def has_tags(prompt: str) -> bool:
    return _TAG.search(prompt) is not None


def _read(text: str) -> Tag:
    name, *weights = text.split(":")
    values: dict[str, float] = {}
    given = []
    for word in weights:
        key, equals, number = word.partition("=")
        if equals:
            if key.strip() not in _WORDS:
                raise _wrong(text)
            values[_WORDS[key.strip()]] = _number(number, text)
        else:
            given.append(_number(word, text))
    if not name.strip() or len(given) > 2:
        raise _wrong(text)
    first = given[0] if given else 1.0
    values.setdefault("text", first)
    values.setdefault("unet", given[1] if len(given) == 2 else first)
    return Tag(name.strip(), **values)


def _number(word: str, text: str) -> float:
    word = word.strip()
    value = float(word) if len(word) < 40 and _NUMBER.fullmatch(word) else None
    if value is None or abs(value) > MAX_SCALE:
        raise _wrong(text)
    return value


def _wrong(text: str) -> RequestError:
    return RequestError(
        f"prompt: expected <lora:NAME:WEIGHT>, a weight from -{MAX_SCALE:g} to {MAX_SCALE:g}, given"
        f" {show(f'<lora:{text}>')}"
    )
