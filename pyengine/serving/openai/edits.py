"""What a request for an edit says, as a form or as JSON, brought to fields of one kind."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from ...errors import RequestError
from ...pipelines.argument_kinds import Data, Kind, Picture, Real, Whole
from ...pipelines.arguments import BY_NAME
from ...weights.text import show
from .. import pictures
from ..bodies import Form
from ..drawing import ALIASES
from ..errors import Refusal
from ..settings import ServerSettings
from .fields import FIELDS

#: Fields of OpenAI's that hold pictures, besides pyengine's own.
IMAGES, MASK = ("image", "image[]"), "mask"


def from_json(body: Mapping[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """images: [{"image_url": "data:..."}], mask: the same without a list; pictures are base64 or
    data: URLs elsewhere too. Raises Refusal or RequestError.
    """
    given = dict(body)
    if given.get("images") is not None:
        if given.get("image") is not None:
            raise RequestError("images: expected no image beside them")
        given["image"] = _only("images", given.pop("images"))
    given.pop("images", None)
    if isinstance(given.get("image"), list):
        given["image"] = _only("image", given["image"])
    for name in ("image", MASK):
        value = given.get(name)
        if isinstance(value, dict):
            if set(value) != {"image_url"}:
                raise RequestError(
                    f"{name}: expected image_url alone, a data: URL, given {show(sorted(value))}"
                )
            value = value["image_url"]
        if value is not None:
            given[name] = pictures.from_text(value, name, settings)
    return given


def _only(name: str, items: Any) -> Any:
    if not isinstance(items, list) or len(items) != 1:
        found = f"{len(items)} of them" if isinstance(items, list) else show(items)
        raise RequestError(f"{name}: expected a list of one picture, given {found}")
    return items[0]


def from_form(form: Form) -> dict[str, Any]:
    """Files by name, the other fields by their kinds. Raises RequestError."""
    given: dict[str, Any] = {name: typed(name, text) for name, text in form.fields.items()}
    sent = [data for name in IMAGES for data in form.files.pop(name, [])]
    if len(sent) > 1:
        raise RequestError(f"image: expected one picture, given {len(sent)} of them")
    if sent:
        given["image"] = sent[0]
    for name, files in form.files.items():
        row = BY_NAME.get(name)
        if name != MASK and not (row is not None and isinstance(row.kind, Picture)):
            raise Refusal(
                400,
                f"{show(name)[1:-1]}: expected no file of that name",
                name[:64],
                "unknown_parameter",
            )
        given[name] = _only(name, files)
    return given


def typed(name: str, text: str) -> Any:
    """A form's text as JSON would have held it; an empty one is none, but for words."""
    row = BY_NAME.get(ALIASES.get(name, name))
    kind: Kind | None = FIELDS.get(name) or (None if row is None else row.kind)
    if isinstance(kind, Whole | Real):
        return _number(name, text, whole=isinstance(kind, Whole)) if text.strip() else None
    if isinstance(kind, Data):
        return _data(name, text)
    if name == "stream":
        if text.lower() not in ("true", "false", "1", "0", ""):
            raise RequestError(f"stream: expected true or false, given {show(text)}")
        return text.lower() in ("true", "1")
    return text


def _number(name: str, text: str, whole: bool) -> float | int:
    try:
        if len(text) > 64:
            raise ValueError
        return int(text) if whole else float(text)
    except ValueError:
        what = "a whole number" if whole else "a number"
        raise RequestError(f"{name}: expected {what}, given {show(text)}") from None


def _data(name: str, text: str) -> Any:
    """A number, a list of numbers with commas between, or the text."""
    parts = [part for part in text.strip(" []()").split(",") if part.strip()]
    try:
        numbers = [float(part) if "." in part or "e" in part else int(part) for part in parts]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else numbers or None


def of_variation(given: dict[str, Any]) -> dict[str, Any]:
    """A variation has no prompt of its own."""
    return {"prompt": "", **given}


def decoded(given: Mapping[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """With its pictures decoded, and OpenAI's mask as one of ours, `mask_image`: white where it is
    to be made anew. An image that is transparent somewhere is its own mask.

    Raises Refusal or RequestError: also where the mask has another size than the image, or no
    transparency.
    """
    call = dict(given)
    data, mask = call.pop("image", None), call.pop(MASK, None)
    if data is None:
        raise Refusal(400, "image: expected a picture, given none", "image", "missing")
    if isinstance(data, str):
        raise RequestError("image: expected a file of the form, given a text")
    if isinstance(mask, str):
        raise RequestError("mask: expected a file of the form, given a text")
    call["image"] = pictures.to_picture(data, "image", settings)
    if mask is None:
        own = pictures.alpha_mask(data, "image", settings)
        if own is not None and own.getextrema()[1] == 255 and call.get("mask_image") is None:
            call["mask_image"] = own
        return call
    if call.get("mask_image") is not None:
        raise RequestError("mask: expected no mask_image beside it")
    call["mask_image"] = _mask(mask, call["image"], settings)
    return call


def _mask(data: bytes, image: Image.Image, settings: ServerSettings) -> Image.Image:
    mask = pictures.alpha_mask(data, MASK, settings)
    if mask is None:
        raise RequestError(
            "mask: expected a picture that is transparent where the other is to be made anew, given"
            " one without transparency; a black and white one goes into mask_image"
        )
    if mask.size != image.size:
        raise RequestError(
            f"mask: expected the image's size, {image.width}x{image.height}, given"
            f" {mask.width}x{mask.height}"
        )
    return mask
