"""Pictures in and out: PIL, NumPy and torch, checked, to and from the models' [-1, 1] tensors.

Pictures come from strangers: sizes are bounded before pixels are decoded, and every refusal is a
RequestError that names the argument.
"""

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import RequestError
from .pixels import (
    MAX_PIXELS,
    Numbers,
    is_tensor,
    made,
    mend_key,
    read_array,
    read_image,
    to_grey,
    to_rgb,
    warn_of_dark,
    warn_of_mask,
)
from .weights.text import show

if TYPE_CHECKING:
    import torch

MAX_FILE = 256 << 20  # bytes of a picture file
MAX_SIDE = 1 << 15
#: EXIF's tag, and what turns a picture upright for each of its values but 1.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


# --- files ----------------------------------------------------------------------------------------


def open_image(path: str | os.PathLike[str], field: str = "image") -> Image.Image:
    """A picture file's header and text chunks; pixels are decoded later, and are few enough then.

    Args:
        path: the file.
        field: the argument that errors name.

    Raises:
        RequestError: if there is no such file, it is no picture of a common format, or it declares
            more than MAX_PIXELS pixels.
    """
    name = show(os.fspath(path))
    try:
        if not os.path.isfile(path):
            raise RequestError(f"{field}: no such file: {name}")
        size = os.path.getsize(path)
    except RequestError:
        raise
    except Exception as e:
        raise RequestError(f"{field}: {name} cannot be opened: {show(str(e))}") from e
    if size > MAX_FILE:
        raise RequestError(f"{field}: {name}: expected at most {MAX_FILE} bytes, found {size}")
    return _open(path, name, field)


def open_bytes(data: bytes, field: str = "image") -> Image.Image:
    """As `open_image`, of a file's bytes."""
    if len(data) > MAX_FILE:
        raise RequestError(f"{field}: expected at most {MAX_FILE} bytes, given {len(data)}")
    return _open(io.BytesIO(data), f"{len(data)} bytes", field)


def _open(source: Any, name: str, field: str) -> Image.Image:
    try:
        with warnings.catch_warnings():  # Pillow warns of a bomb above a bound of its own
            warnings.simplefilter("ignore")  # and of EXIF that is damaged
            image = Image.open(source, formats=READ_FORMATS)
    except UnidentifiedImageError:
        raise RequestError(
            f"{field}: {name} is no picture that Pillow reads ({', '.join(READ_FORMATS)})"
        ) from None
    except Exception as e:  # a damaged header: Pillow raises SyntaxError, ValueError, struct.error
        raise RequestError(f"{field}: {name} cannot be opened: {show(str(e))}") from e
    check_size(image, field)
    return image


def load_image(path: str | os.PathLike[str], field: str = "image") -> Image.Image:
    """The decoded RGB picture in a file, turned upright by its EXIF orientation; a transparent one
    is laid on white.

    Args:
        path: the file.
        field: the argument that errors name.

    Raises:
        RequestError: as open_image, and for pixels that cannot be decoded.
    """
    with open_image(path, field) as image:
        return to_rgb(decode(image, field, upright=True), field)


def load_mask(path: str | os.PathLike[str], field: str = "mask_image") -> Image.Image:
    """The decoded grey picture in a file: white is made anew; black, and what is transparent, is
    kept.

    Args:
        path: the file.
        field: the argument that errors name.

    Raises:
        RequestError: as open_image, and for pixels that cannot be decoded.
    """
    with open_image(path, field) as image:
        return to_grey(decode(image, field, upright=True), field)


def decode(image: Image.Image, field: str, upright: bool = False) -> Image.Image:
    """The image with its pixels read; upright: turned as its EXIF says. Raises RequestError."""
    check_size(image, field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mend_key(image)
            image.load()
    except Exception as e:  # truncated or damaged data, many kinds of exception
        raise RequestError(f"{field}: the picture cannot be decoded: {show(str(e))}") from e
    return _upright(image) if upright else image


def _upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation; as it is where that cannot be read: the pixels are whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of corrupt EXIF
            method = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever a damaged EXIF makes Pillow raise: SyntaxError, struct.error...
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        turned.info.pop(name, None)  # which would say that it is to be turned
    return turned


def check_size(image: Image.Image, field: str) -> None:
    width, height = image.size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise RequestError(
            f"{field}: expected at most {MAX_PIXELS} pixels and sides of 1 to {MAX_SIDE},"
            f" given {width}x{height}"
        )


def save_atomically(image: Image.Image, path: str | os.PathLike[str], **options: Any) -> Path:
    """Writes a picture so that `path` holds either what it held before or the whole new one.

    Args:
        image: a PIL picture.
        path: where to; its ending is the format.
        options: for PIL's save.

    Raises:
        RequestError: if the folder or file cannot be written.
    """
    _save(image, Path(path), os.replace, options)
    return Path(path)


def save_new(image: Image.Image, path: str | os.PathLike[str], **options: Any) -> bool:
    """Writes a picture where nothing is yet: two processes never write one file.

    Args:
        image: a PIL picture.
        path: where to; its ending is the format.
        options: for PIL's save.

    Returns:
        Whether it was written.

    Raises:
        RequestError: if the folder or file cannot be written.
    """
    try:
        _save(image, Path(path), _move_to_new, options)
    except FileExistsError:
        return False
    return True


def _move_to_new(temporary: str, path: Path) -> None:
    """Raises FileExistsError where `path` is there."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: a moment when the file is there and empty
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _save(
    image: Image.Image,
    path: Path,
    move: Callable[[str, Path], None],
    options: dict[str, Any],
) -> None:
    """Writes a temporary file beside `path` and moves it there."""
    data = io.BytesIO()
    try:
        image.save(data, format=Image.registered_extensions()[path.suffix.lower()], **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.stem[:20]}-", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data.getbuffer())
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o666 & ~current_umask())
            move(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except KeyError:
        raise RequestError(
            f"output: expected a file name such as heart.png, given {show(path.name)}"
        ) from None
    except FileExistsError:
        if move is os.replace:  # a file where a folder is expected
            raise RequestError(f"output: {path} cannot be written: it lies below a file") from None
        raise
    except OSError as e:
        raise RequestError(f"output: {path} cannot be written: {e.strerror or e}") from e


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- into the models ------------------------------------------------------------------------------


def as_list(images: Any, field: str, grey: bool = False) -> list[Any]:
    """The pictures of an `image` argument, one by one: PIL, [H, W(, C)] arrays, [C, H, W] tensors.

    A batch is a list, an array [N, H, W, C], a tensor [N, C, H, W], or a list of such. grey: masks,
    whose batches may also be [N, H, W].
    """
    items = list(images) if isinstance(images, list | tuple) else [images]
    items = [part for item in items for part in _parts(item, grey)]
    if not items:
        raise RequestError(f"{field}: expected a picture or a list of them, given an empty list")
    for i, item in enumerate(items):
        if not (isinstance(item, Image.Image | np.ndarray) or is_tensor(item)):
            raise RequestError(
                f"{field}: expected a PIL picture, a NumPy array, a torch tensor or a list of one"
                f" of these, given {type(item).__name__} at position {i}"
            )
        if isinstance(item, np.ndarray) and (item.ndim < 2 or item.dtype.kind not in "fuib"):
            raise RequestError(
                f"{field}: expected an array [H, W, C] of floats in [0, 1] or of whole numbers,"
                f" given {item.dtype} {list(item.shape)}"
            )
        if isinstance(item, Image.Image):
            check_size(item, field)
        if is_tensor(item) and item.ndim < 2:
            raise RequestError(f"{field}: expected a tensor [C, H, W], given {list(item.shape)}")
    return items


def _parts(item: Any, grey: bool) -> list[Any]:
    """The pictures of one batch, or the one."""
    if not (isinstance(item, np.ndarray) or is_tensor(item)):
        return [item]
    masks = grey and item.ndim == 3
    if is_tensor(item):
        masks = masks and item.shape[0] != 1
    else:
        masks = masks and item.shape[-1] not in (1, 3, 4)
    return list(item) if item.ndim == 4 or masks else [item]


def size_of(item: Any) -> tuple[int, int]:
    """(height, width) of one of `as_list`'s pictures."""
    if isinstance(item, Image.Image):
        return item.size[1], item.size[0]
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    return item.shape[-2], item.shape[-1]


def is_latents(item: Any, channels: int) -> bool:
    return is_tensor(item) and item.ndim == 3 and item.shape[0] == channels


def to_tensor(
    items: Sequence[Any],
    height: int,
    width: int,
    field: str,
    warned: list[str] | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> "torch.Tensor":
    """[N, 3, height, width] float32 in [-1, 1] from `as_list`'s pictures; see `to_unit`."""
    return 2.0 * to_unit(items, height, width, field, warned, resample) - 1.0


def to_unit(
    items: Sequence[Any],
    height: int,
    width: int,
    field: str,
    warned: list[str] | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> "torch.Tensor":
    """Pictures as a tensor in [0, 1].

    What their numbers mean, and what becomes of transparency: see pyengine.pixels.

    Args:
        items: PIL pictures, arrays [H, W, 3] or tensors [3, H, W], as `as_list` gives them.
        height, width: of the result, in pixels.
        field: the argument that errors name.
        warned: gets the warnings; None: they are issued.
        resample: how PIL pictures are resized; arrays and tensors are taken at the nearest pixel,
            as diffusers does.

    Returns:
        [N, 3, height, width] float32.

    Raises:
        RequestError: for other shapes and values.
    """
    import torch

    rows = []
    for picture in made([numbers_of(item, field, 3) for item in items], field, mask=False):
        if isinstance(picture, Image.Image):
            rows.append(from_uint8(np.asarray(resize(picture, height, width, resample))))
        else:
            rows.append(to_size(picture, height, width))
        warn_of_dark(rows[-1], field, warned)
    return torch.cat(rows)


def to_mask(
    items: Sequence[Any],
    height: int,
    width: int,
    field: str,
    warned: list[str] | None = None,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> "torch.Tensor":
    """Masks as a tensor: what is at least mid-grey is made anew.

    Transparent parts are kept, whatever colour lies under them. A mask that comes out all 0 or all
    1 is warned of.

    Args:
        items: PIL pictures, arrays [H, W] or tensors [1, H, W], as `as_list` gives them.
        height, width: of the result, in pixels.
        field: the argument that errors name.
        warned: gets the warnings; None: they are issued.
        resample: how PIL pictures are resized; arrays and tensors are taken at the nearest pixel,
            as diffusers does.

    Returns:
        [N, 1, height, width] float32 of 0 (keep) and 1 (make anew).

    Raises:
        RequestError: for other shapes and values.
    """
    import torch

    rows = []
    for mask in made([numbers_of(item, field, 1) for item in items], field, mask=True):
        if isinstance(mask, Image.Image):
            grey = resize(mask, height, width, resample).convert("L")
            row = from_uint8(np.asarray(grey)[..., None])
        else:
            row = to_size(mask, height, width)
        rows.append((row >= 0.5).float())
    masks = torch.cat(rows)
    warn_of_mask(masks, field, warned)
    return masks


def numbers_of(item: Any, field: str, channels: int) -> Numbers:
    """One of `as_list`'s pictures, of 3 channels, or 1: a mask."""
    if isinstance(item, Image.Image):
        return read_image(decode(item, field), field, mask=channels == 1)
    return read_array(item, field, channels)


def resize(
    image: Image.Image,
    height: int,
    width: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    return image.resize((width, height), resample=resample)


def from_uint8(pixels: np.ndarray) -> "torch.Tensor":
    """[1, C, H, W] float32 in [0, 1] from [H, W, C] bytes."""
    import torch

    values = pixels.astype(np.float32) / 255.0
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def to_size(value: "torch.Tensor", height: int, width: int) -> "torch.Tensor":
    import torch

    if value.shape[-2:] == (height, width):
        return value
    return torch.nn.functional.interpolate(value, size=(height, width))


# --- out of the models ----------------------------------------------------------------------------


def from_tensor(pictures: "torch.Tensor", output_type: str) -> Any:
    """Pictures as callers get them.

    Args:
        pictures: [N, 3, H, W] in [-1, 1]; what lies beyond is clamped.
        output_type: "pt", "np" or "pil".

    Returns:
        "pt": [N, 3, H, W] in [0, 1]; "np": [N, H, W, 3] float32; "pil": a list of pictures.
    """
    return from_unit(pictures * 0.5 + 0.5, output_type)


def from_unit(pictures: "torch.Tensor", output_type: str) -> Any:
    """As `from_tensor`, from [N, 3, H, W] in [0, 1]."""
    pictures = pictures.clamp(0, 1)
    if output_type == "pt":
        return pictures
    array = pictures.cpu().permute(0, 2, 3, 1).float().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(p) for p in (array * 255).round().astype("uint8")]


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures side by side in rows, as square as it gets, two pixels of white between."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet
