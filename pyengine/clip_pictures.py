"""What pictures go through before CLIP: shortest side to a size, the middle of it, normalised.

As transformers' CLIPImageProcessor does it, by the settings in preprocessor_config.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from .errors import RequestError
from .images import from_uint8, numbers_of
from .pixels import MAX_PIXELS, made
from .weights.config import read_config

if TYPE_CHECKING:
    import torch

#: CLIP's own, of all published models.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_SIDE = {"min": 1, "max": 8192}
_MEAN = {"min": -1e3, "max": 1e3}
_STD = {"min": 1e-6, "max": 1e3}
_RESAMPLE = {
    0: Image.Resampling.NEAREST,
    1: Image.Resampling.LANCZOS,
    2: Image.Resampling.BILINEAR,
    3: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ShortestEdge:
    shortest_edge: int = field(default=224, metadata=_SIDE)


@dataclass(frozen=True)
class CropSize:
    height: int = field(default=224, metadata=_SIDE)
    width: int = field(default=224, metadata=_SIDE)


@dataclass(frozen=True)
class ClipPictureConfig:
    """preprocessor_config.json; names and defaults are transformers' CLIPImageProcessor's."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset(
        {
            *("feature_extractor_type", "image_processor_type", "processor_class"),  # names of it
            *("data_format", "input_data_format", "return_tensors", "device"),  # of its results
            *("default_to_square", "disable_grouping", "pad_size", "do_pad", "use_square_size"),
            "_valid_processor_keys",
        }
    )

    do_resize: Literal[True] = True
    size: int | ShortestEdge = ShortestEdge()
    resample: Literal[0, 1, 2, 3] = 3
    do_center_crop: Literal[True] = True
    crop_size: int | CropSize = CropSize()
    do_rescale: Literal[True] = True
    rescale_factor: float = field(default=1 / 255, metadata={"min": 0.0039, "max": 0.00393})
    do_normalize: Literal[True] = True
    image_mean: tuple[float, float, float] = field(default=MEAN, metadata=_MEAN)
    image_std: tuple[float, float, float] = field(default=STD, metadata=_STD)
    do_convert_rgb: bool | None = True

    @classmethod
    def from_dict(
        cls, d: dict[str, Any], where: str = "preprocessor_config.json"
    ) -> "ClipPictureConfig":
        """From the parsed file; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        if max(self.crop) > self.short:
            raise ValueError(
                f"crop_size {self.crop[0]}x{self.crop[1]} is more than size {self.short}"
            )

    @property
    def short(self) -> int:
        """The shortest side before the crop, in pixels."""
        return self.size if isinstance(self.size, int) else self.size.shortest_edge

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of the result."""
        if isinstance(self.crop_size, int):
            return self.crop_size, self.crop_size
        return self.crop_size.height, self.crop_size.width


def clip_pixels(
    items: Sequence[Any], config: ClipPictureConfig | None = None, field: str = "image"
) -> "torch.Tensor":
    """[N, 3, height, width] float32, what CLIPVisionModelWithProjection takes, of
    pyengine.images.as_list's pictures.

    Arrays and tensors are rounded to 8 bits first: what is resized is a picture of PIL, whose
    bicubic the models were trained with. Raises RequestError for other shapes and values.
    """
    import torch

    config = ClipPictureConfig() if config is None else config
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.image_mean, config.image_std))
    rows = []
    for picture in made([numbers_of(item, field, 3) for item in items], field, mask=False):
        image = picture if isinstance(picture, Image.Image) else _image(picture)
        _check_ratio(image, config, field)
        rows.append((from_uint8(np.asarray(_cropped(image, config))) - mean) / std)
    return torch.cat(rows)


def _image(picture: "torch.Tensor") -> Image.Image:
    """Of [1, 3, H, W] in [0, 1]."""
    values = (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round()
    return Image.fromarray(values.cpu().numpy().astype(np.uint8))


def _check_ratio(image: Image.Image, config: ClipPictureConfig, field: str) -> None:
    """A picture of one pixel by thousands would be a hundred times as large between the steps."""
    short, long = sorted(image.size)
    most = MAX_PIXELS // config.short**2
    if long > most * short:
        raise RequestError(
            f"{field}: expected sides of at most {most}:1, given {image.size[0]}x{image.size[1]}"
        )


def _cropped(image: Image.Image, config: ClipPictureConfig) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    size = tuple(
        config.short if side == short else int(config.short * side / short)
        for side in (width, height)
    )
    image = image.resize((size[0], size[1]), resample=_RESAMPLE[config.resample])
    crop_height, crop_width = config.crop
    left, top = (size[0] - crop_width) // 2, (size[1] - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))
