"""Pictures in, from base64, data URLs and bytes, and out, as PNG, JPEG or WebP.

Sizes are checked before anything is decoded: base64 by its length, a picture by its header.
"""

import base64
import binascii
import io
import re
from typing import Any

from PIL import Image, ImageChops

from ..errors import RequestError
from ..images import decode, open_bytes
from ..metadata import Settings, png_info
from ..pixels import to_grey, to_rgb
from .errors import Refusal
from .settings import ServerSettings

FORMATS = ("png", "jpeg", "webp")
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_DATA_URL = re.compile(r"data:([\w.+-]{1,40}/[\w.+-]{1,80})?(;[\w=.+-]{1,80})*;base64,", re.ASCII)


def from_text(text: Any, field: str, settings: ServerSettings) -> bytes:
    """A picture file's bytes from base64 or a data URL. Raises Refusal.

    A URL of any other kind is refused: the server fetches none.
    """
    if not isinstance(text, str):
        raise RequestError(
            f"{field}: expected a picture as base64 or a data: URL, given {type(text).__name__}"
        )
    begin = 0
    if text[:5].lower() == "data:":
        found = _DATA_URL.match(text[:1000])
        if found is None:
            raise RequestError(f"{field}: expected a data: URL with ;base64, given another")
        begin = found.end()
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://", text[:32]):
        raise RequestError(
            f"{field}: expected the picture itself, as base64 or a data: URL; this"
            " server fetches no URL"
        )
    check_bytes((len(text) - begin) * 3 // 4 - 2, field, settings)
    try:
        data = base64.b64decode(text[begin:].translate(_BLANKS), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{field}: expected base64, given something else") from None
    check_bytes(len(data), field, settings)
    return data


_BLANKS = {ord(c): None for c in " \t\r\n"}


def check_bytes(count: int, field: str, settings: ServerSettings) -> None:
    if count > settings.max_file:
        raise Refusal(
            413,
            f"{field}: expected a picture of at most {settings.max_file} bytes, given {count}",
            field,
            "too_large",
        )


def opened(data: bytes, field: str, settings: ServerSettings) -> Image.Image:
    """A picture whose header was read and has few enough pixels; what they are comes later."""
    check_bytes(len(data), field, settings)
    image = open_bytes(data, field)
    width, height = image.size
    if width * height > settings.max_pixels:
        raise Refusal(
            413,
            f"{field}: expected at most {settings.max_pixels} pixels, given {width}x{height}",
            field,
            "too_large",
        )
    return image


def to_picture(data: bytes, field: str, settings: ServerSettings) -> Image.Image:
    """The decoded RGB picture, upright; a transparent one is laid on white."""
    return to_rgb(decode(opened(data, field, settings), field, upright=True), field)


def to_mask(data: bytes, field: str, settings: ServerSettings) -> Image.Image:
    """The decoded grey picture: white is made anew."""
    return to_grey(decode(opened(data, field, settings), field, upright=True), field)


def alpha_mask(data: bytes, field: str, settings: ServerSettings) -> Image.Image | None:
    """OpenAI's mask, transparent where it is to be made anew, as one of ours: white there. None
    where the picture has no transparency.
    """
    image = decode(opened(data, field, settings), field, upright=True)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    return ImageChops.invert(image.convert("RGBA").getchannel("A"))


def encoded(
    image: Image.Image,
    settings: Settings | None,
    kind: str = "png",
    compression: int | None = None,
) -> bytes:
    """The file of a picture; a PNG carries its settings, where it has any.

    kind: of FORMATS. compression: 0 to 100, OpenAI's: quality of JPEG and WebP, 100 the best.
    """
    data = io.BytesIO()
    quality = 100 if compression is None else compression
    if kind == "png":
        # zlib's level 1 of 0 to 9: 2 to 4 times as fast as 6, for files a tenth larger.
        info = None if settings is None else png_info(settings)
        image.save(data, "PNG", pnginfo=info, compress_level=1)
    elif kind == "jpeg":
        image.save(data, "JPEG", quality=max(1, min(quality, 95)))
    else:
        image.save(data, "WEBP", quality=quality)
    return data.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def data_url(data: bytes, kind: str) -> str:
    return f"data:{MEDIA[kind]};base64,{base64_of(data)}"
