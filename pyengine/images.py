"""Pictures in and out: PIL, NumPy and torch, checked, to and from the models' [-1, 1] tensors.

Pictures come from strangers: sizes are bounded before pixels are decoded, and every refusal is a
RequestError that names the argument.
"""

import io
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import RequestError
from .weights.text import show

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 1 << 26  # of a picture that is read: 8192 x 8192
MAX_FILE = 256 << 20  # bytes of a picture file
MAX_SIDE = 1 << 15
READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


# --- files ----------------------------------------------------------------------------------------


def open_image(path: str | os.PathLike, field: str = "image") -> Image.Image:
    """A picture file's header and text chunks; pixels are decoded later, and are few enough then.

    Raises RequestError if there is no such file, it is no picture of a common format, or it
    declares more than MAX_PIXELS pixels.
    """
    try:
        if not os.path.isfile(path):
            raise RequestError(f"{field}: no such file: {show(os.fspath(path))}")
        if os.path.getsize(path) > MAX_FILE:
            raise RequestError(f"{field}: {show(os.fspath(path))}: expected at most {MAX_FILE}"
                               f" bytes, found {os.path.getsize(path)}")  # fmt: skip
        with warnings.catch_warnings():  # Pillow warns of a bomb above MAX_PIXELS of its own
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=READ_FORMATS)
    except RequestError:
        raise
    except UnidentifiedImageError:
        raise RequestError(f"{field}: {show(os.fspath(path))} is no picture that Pillow reads"
                           f" ({', '.join(READ_FORMATS)})") from None  # fmt: skip
    except Exception as e:  # a damaged header: Pillow raises SyntaxError, ValueError, struct.error
        raise RequestError(
            f"{field}: {show(os.fspath(path))} cannot be opened: {show(str(e))}"
        ) from e
    check_size(image, field)
    return image


def load_image(path: str | os.PathLike, field: str = "image") -> Image.Image:
    """The decoded RGB picture in a file, turned upright by its EXIF orientation.

    A transparent one is laid on white. Raises RequestError; see `open_image`.
    """
    return to_rgb(decode(open_image(path, field), field, upright=True), field)


def load_mask(path: str | os.PathLike, field: str = "mask_image") -> Image.Image:
    """The decoded grey picture in a file; white is made anew. Raises RequestError."""
    return to_rgb(decode(open_image(path, field), field, upright=True), field).convert("L")


def decode(image: Image.Image, field: str, upright: bool = False) -> Image.Image:
    check_size(image, field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image.load()
            return ImageOps.exif_transpose(image) if upright else image
    except Exception as e:  # truncated or damaged data, many kinds of exception
        raise RequestError(f"{field}: the picture cannot be decoded: {show(str(e))}") from e


def check_size(image: Image.Image, field: str) -> None:
    width, height = image.size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise RequestError(
            f"{field}: expected at most {MAX_PIXELS} pixels and sides of 1 to {MAX_SIDE},"
            f" given {width}x{height}"
        )


def to_rgb(image: Image.Image, field: str) -> Image.Image:
    """`image` in mode RGB; transparent parts become white, 16-bit greys keep their brightness."""
    if image.mode == "RGB":
        return image
    try:
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return image.convert("RGB")
    except (ValueError, OSError) as e:
        raise RequestError(f"{field}: mode {image.mode} cannot be converted: {show(str(e))}") from e


def save_atomically(image: Image.Image, path: str | os.PathLike, **options: Any) -> Path:
    """Writes `image` so that `path` holds either what it held before or the whole new picture.

    options: for PIL's save. Raises RequestError if the folder or file cannot be written.
    """
    path = Path(path)
    data = io.BytesIO()
    try:
        image.save(data, format=Image.registered_extensions()[path.suffix.lower()], **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(data.getbuffer())
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o666 & ~current_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except KeyError:
        raise RequestError(
            f"output: expected a file name such as heart.png, given {show(path.name)}"
        ) from None
    except OSError as e:
        raise RequestError(f"output: {path} cannot be written: {e.strerror or e}") from e
    return path


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- into the models ------------------------------------------------------------------------------


def as_list(images: Any, field: str) -> list:
    """The pictures of an `image` argument, one by one: PIL, [H, W(, C)] arrays, [C, H, W] tensors.

    A batch is a list, an array [N, H, W, C], or a tensor [N, C, H, W].
    """
    batch = isinstance(images, np.ndarray) or is_tensor(images)
    batch = images.ndim == 4 if batch else isinstance(images, list | tuple)
    items = list(images) if batch else [images]
    if not items:
        raise RequestError(f"{field}: expected a picture or a list of them, given an empty list")
    for i, item in enumerate(items):
        if not (isinstance(item, Image.Image | np.ndarray) or is_tensor(item)):
            raise RequestError(
                f"{field}: expected a PIL picture, a NumPy array, a torch tensor or a list of one"
                f" of these, given {type(item).__name__} at position {i}"
            )
        if isinstance(item, np.ndarray) and (
            item.ndim < 2 or not (item.dtype.kind == "f" or item.dtype in (np.uint8, np.bool_))
        ):
            raise RequestError(
                f"{field}: expected an array [H, W, C] of floats in [0, 1] or of uint8, given"
                f" {item.dtype} {list(item.shape)}"
            )
        if isinstance(item, Image.Image):
            check_size(item, field)
        if is_tensor(item) and item.ndim < 2:
            raise RequestError(f"{field}: expected a tensor [C, H, W], given {list(item.shape)}")
    return items


def is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numpy")


def size_of(item: Any) -> tuple[int, int]:
    """(height, width) of one of `as_list`'s pictures."""
    if isinstance(item, Image.Image):
        return item.size[1], item.size[0]
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    return item.shape[-2], item.shape[-1]


def is_latents(item: Any, channels: int) -> bool:
    return is_tensor(item) and item.ndim == 3 and item.shape[0] == channels


def to_tensor(items: Sequence[Any], height: int, width: int, field: str) -> "torch.Tensor":
    """[N, 3, height, width] float32 in [-1, 1] from `as_list`'s pictures; see `to_unit`."""
    return 2.0 * to_unit(items, height, width, field) - 1.0


def to_unit(items: Sequence[Any], height: int, width: int, field: str) -> "torch.Tensor":
    """[N, 3, height, width] float32 in [0, 1] from `as_list`'s pictures.

    PIL pictures are resized by Lanczos, arrays and tensors (values in [0, 1], or uint8) to the
    nearest pixel, as diffusers does. Raises RequestError for other shapes and values.
    """
    import torch

    rows = []
    for item in items:
        if isinstance(item, Image.Image):
            rgb = to_rgb(decode(item, field), field)
            row = from_uint8(np.asarray(resize(rgb, height, width)))
        else:
            row = to_size(from_array(item, field, channels=3), height, width)
        rows.append(row)
    return torch.cat(rows)


def to_mask(items: Sequence[Any], height: int, width: int, field: str) -> "torch.Tensor":
    """[N, 1, height, width] float32 of 0 (keep) and 1 (make anew): what is at least mid-grey.

    Raises RequestError; see `to_tensor`.
    """
    import torch

    rows = []
    for item in items:
        if isinstance(item, Image.Image):
            image = decode(item, field)
            image = image if image.mode in ("L", "RGB") else to_rgb(image, field)
            row = from_uint8(np.asarray(resize(image, height, width).convert("L"))[..., None])
        else:
            row = to_size(from_array(item, field, channels=1), height, width)
        rows.append((row >= 0.5).float())
    return torch.cat(rows)


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    return image.resize((width, height), resample=Image.Resampling.LANCZOS)


def from_uint8(pixels: np.ndarray) -> "torch.Tensor":
    """[1, C, H, W] float32 in [0, 1] from [H, W, C] bytes."""
    import torch

    values = pixels.astype(np.float32) / 255.0
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def from_array(item: Any, field: str, channels: int) -> "torch.Tensor":
    """[1, channels, H, W] float32 in [0, 1] from an array [H, W(, C)] or a tensor [(C,) H, W]."""
    import torch

    tensor = is_tensor(item)
    if tensor:
        value = item.detach().cpu()
    else:  # torch has no uint16 and no other byte order
        keep = item.dtype.kind != "f" or item.dtype == np.float32
        value = torch.from_numpy(np.ascontiguousarray(item if keep else item.astype(np.float32)))
    shape, layout = tuple(value.shape), f"[{channels}, H, W]" if tensor else f"[H, W, {channels}]"
    if value.ndim == 2 and channels == 1:
        value = value[None] if tensor else value[..., None]
    if value.ndim != 3 or value.shape[0 if tensor else -1] != channels or 0 in shape:
        raise RequestError(f"{field}: expected shape {layout}, given {list(shape)}")
    if value.numel() > channels * MAX_PIXELS:
        raise RequestError(f"{field}: expected at most {MAX_PIXELS} pixels, given {list(shape)}")
    if value.dtype == torch.uint8:
        value = value.float() / 255.0
    elif value.dtype == torch.bool and channels == 1:
        value = value.float()
    elif not value.is_floating_point():
        raise RequestError(f"{field}: expected floats in [0, 1] or uint8, given {value.dtype}")
    value = value.float()
    low, high = value.min().item(), value.max().item()
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise RequestError(f"{field}: expected values in [0, 1], given {low:g} to {high:g}")
    return (value if tensor else value.permute(2, 0, 1))[None]


def to_size(value: "torch.Tensor", height: int, width: int) -> "torch.Tensor":
    import torch

    if value.shape[-2:] == (height, width):
        return value
    return torch.nn.functional.interpolate(value, size=(height, width))


# --- out of the models ----------------------------------------------------------------------------


def from_tensor(pictures: "torch.Tensor", output_type: str) -> Any:
    """[N, 3, H, W] in [-1, 1] to "pt": the same shape in [0, 1]; "np": [N, H, W, 3] float32;
    "pil": a list of pictures.
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
