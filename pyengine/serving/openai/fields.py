"""OpenAI's own fields of a request for pictures; every other is an argument of pyengine's calls."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import RequestError
from ...pipelines.argument_kinds import Choice, Kind, Real, Whole
from ...weights.text import show
from ..errors import Refusal
from ..pictures import FORMATS

#: Checked, and without effect where nothing else is said: there is one quality, and every picture
#: is opaque.
QUALITIES = ("auto", "standard", "hd", "low", "medium", "high")


@dataclass
class Asked:
    """A request, its fields checked. call: arguments of pyengine's calls. names: what the client
    calls some of them.
    """

    model: Any = None
    call: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    stream: bool = False
    partial_images: int = 0
    output_format: str = "png"
    compression: int | None = None
    response_format: str = "b64_json"
    quality: str = "auto"
    deadline: float | None = None


#: OpenAI's fields but prompt, model, size, stream and user, by name.
FIELDS: Mapping[str, Kind] = {
    "n": Whole(1, 10),
    "quality": Choice(QUALITIES),
    "background": Choice(("auto", "opaque", "transparent")),
    "moderation": Choice(("auto", "low")),
    "style": Choice(("vivid", "natural")),
    "input_fidelity": Choice(("high", "low")),
    "output_format": Choice(FORMATS),
    "output_compression": Whole(0, 100),
    "response_format": Choice(("b64_json", "url")),
    "partial_images": Whole(0, 3),
    "deadline": Real(0, 1e6),
}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)


def read(given: Mapping[str, Any]) -> Asked:
    """A request of a JSON object. Nulls are not given. Raises Refusal or RequestError."""
    asked, own = Asked(), {}
    for name, value in given.items():
        if value is None:
            continue
        if name in FIELDS:
            if isinstance(value, float) and value.is_integer() and isinstance(FIELDS[name], Whole):
                value = int(value)
            own[name] = FIELDS[name].check(name, value)  # type: ignore[union-attr]
        elif name == "model":
            asked.model = value
        elif name == "size":
            asked.call |= _size(value)
            asked.names |= {"width": "size", "height": "size"}
        elif name == "stream":
            asked.stream = _boolean(name, value)
        elif name == "user":
            _text(name, value)
        else:
            asked.call[name] = value
    if "n" in own:
        asked.call["num_images_per_prompt"] = own["n"]
        asked.names["num_images_per_prompt"] = "n"
    if own.get("background") == "transparent":
        raise Refusal(
            400,
            "background: expected auto or opaque: no model here draws transparency,"
            " given transparent",
            "background",
            "unsupported_value",
        )
    asked.partial_images = own.get("partial_images", 0)
    asked.output_format = own.get("output_format", "png")
    asked.compression = own.get("output_compression")
    asked.response_format = own.get("response_format", "b64_json")
    asked.quality = own.get("quality", "auto")
    asked.deadline = own.get("deadline")
    return asked


def _size(value: Any) -> dict[str, int]:
    if value == "auto":
        return {}
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise RequestError(f'size: expected "auto" or such as "512x512", given {show(value)}')
    return {"width": int(found[1]), "height": int(found[2])}


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name}: expected true or false, given {show(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1024:
        raise RequestError(
            f"{name}: expected a text of at most 1024 characters, given {show(value)}"
        )
    return value
