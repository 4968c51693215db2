"""What /openapi.json says of the images API."""

from typing import Any

from pydantic import BaseModel

from ...pipelines.argument_kinds import Choice, Real, Whole
from ..schema import Answer, body, call_properties, nullable, refusals
from .fields import FIELDS


class ImageData(Answer):
    """b64_json or url: the picture, as it was asked for. seed: redraws it alone."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: int | None = None


class InputDetails(Answer):
    text_tokens: int
    image_tokens: int


class Usage(Answer):
    """text_tokens: of the prompts. Pictures that are no tokens: one for each 8x8 pixels."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails


class ImagesAnswer(Answer):
    created: int
    data: list[ImageData]
    size: str
    quality: str
    output_format: str
    background: str
    usage: Usage


def answers(stream: str | None, model: type[BaseModel] = ImagesAnswer) -> dict[int | str, Any]:
    """A route's `responses`. stream: how its events' types begin, where it can stream."""
    found: dict[int | str, Any] = {200: {"model": model, "description": "The pictures."}}
    if stream is not None:
        text = f"{stream}.partial_image and {stream}.completed, or an error's body as data."
        found[200]["content"] = {
            "text/event-stream": {"schema": {"type": "string", "description": text}}
        }
    return {**found, **refusals()}


def own_properties() -> dict[str, Any]:
    """Schemas of OpenAI's own fields."""
    found: dict[str, Any] = {
        "model": {"type": ["string", "null"], "description": "The first that is served."},
        "size": {"type": ["string", "null"], "description": '"auto" or such as "512x512".'},
        "stream": {"type": ["boolean", "null"]},
        "user": {"type": ["string", "null"], "maxLength": 1024, "description": "Is not read."},
    }
    for name, kind in FIELDS.items():
        assert isinstance(kind, Whole | Real | Choice)
        found[name] = nullable(kind.schema())
    return found


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def generation_body() -> dict[str, Any]:
    properties = call_properties() | own_properties()
    properties["prompt"] = {"type": ["string", "null"], "maxLength": 100_000}
    return body({"application/json": _object(properties)})


def _form(*required: str) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    found = call_properties(file) | own_properties() | {"image": file, "mask": file}
    return _object(found | {"image[]": file}, *required)


def edit_body() -> dict[str, Any]:
    place = {
        "type": "object",
        "properties": {"image_url": {"type": "string"}},
        "required": ["image_url"],
        "additionalProperties": False,
    }
    images = {"type": "array", "items": place, "minItems": 1, "maxItems": 1}
    own = call_properties() | own_properties() | {"images": images, "mask": place}
    return body({"multipart/form-data": _form("image"), "application/json": _object(own)})


def variation_body() -> dict[str, Any]:
    return body({"multipart/form-data": _form("image")})
