"""What /openapi.json says of that web UI's API."""

from typing import Any

from ...pipelines.argument_kinds import Choice, Kind, Real, Whole
from .. import schema
from ..schema import Answer, body, nullable
from .fields import FLAG, IDLE, OF_PICTURES, REFUSED, SHARED
from .state import CHANGED

_PICTURE = {"type": "string", "description": "A picture: base64 or a data: URL."}


class A1111Error(Answer):
    """error: the kind. detail and errors: in words. body: empty."""

    error: str
    detail: str
    body: str
    errors: str


def refusals() -> dict[int | str, dict[str, Any]]:
    return schema.refusals(A1111Error)


def drawing_body(with_pictures: bool) -> dict[str, Any]:
    """The body of txt2img or img2img. Names that are not here are told in the answer's info."""
    properties = {name: _field(kind) for name, kind in SHARED.items()}
    if with_pictures:
        properties |= {name: _field(kind) for name, kind in OF_PICTURES.items()}
        properties |= {
            "init_images": {"type": "array", "items": _PICTURE, "minItems": 1, "maxItems": 1},
            "mask": nullable(_PICTURE),
        }
    properties |= {name: {"enum": [*neutral, None]} for name, neutral in REFUSED.items()}
    properties |= {name: {"description": "Has no effect."} for name in sorted(IDLE)}
    properties["override_settings"] = nullable(_options())
    required = ["init_images"] if with_pictures else []
    return _json({"type": "object", "properties": properties, "required": required})


def options_body() -> dict[str, Any]:
    return _json(_options())


def picture_body() -> dict[str, Any]:
    return _json({"type": "object", "properties": {"image": _PICTURE}, "required": ["image"]})


def _json(found: dict[str, Any]) -> dict[str, Any]:
    return body({"application/json": found})


def _options() -> dict[str, Any]:
    checkpoint = {"type": "string", "description": "The name of a model that is served."}
    properties = {"sd_model_checkpoint": nullable(checkpoint)}
    properties |= {name: _field(kind) for name, kind in CHANGED.items()}
    return {"type": "object", "properties": properties}


def _field(kind: Kind | str) -> dict[str, Any]:
    if kind == FLAG:
        return {"type": ["boolean", "null"]}
    if isinstance(kind, Whole | Real | Choice):
        return nullable(kind.schema())
    return {"type": ["string", "null"]}
