"""IP-Adapters of a pipeline, and the pictures that a call gives them as prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import images as pictures
from ...adapters.ip_adapter import file_order
from ...clip_pictures import ClipPictureConfig, clip_pixels
from ...diffusion.image_prompts import ImagePrompt
from ...diffusion.request import Request
from ...errors import RequestError
from ...guidance import NEGATIVE, TEXT
from ...jobs import checks
from ...models import CLIPVisionModelWithProjection, UNet2DConditionModel
from ...models.image_prompts.ip_adapter import IPAdapter
from ..arguments import check
from ..by_block import attention_of, read_by_block
from .control import spread

NAMES = ("ip_adapter_image", "ip_adapter_image_embeds", "ip_adapter_scale")
#: In cross_attention_kwargs.
MASKS = "ip_adapter_masks"
#: Pictures that are one prompt.
MOST = 64
#: A number for all of an adapter's attentions, a number for each, or one for each of its pictures.
Scale = float | dict[str, float] | tuple[float, ...]


@dataclass
class ImageAdapters:
    """The IP-Adapters of one pipeline. scales: of each; encoder: of all, or None."""

    adapters: tuple[IPAdapter, ...] = ()
    encoder: CLIPVisionModelWithProjection | None = None
    scales: tuple[Scale, ...] = field(default=())

    def moved(self, unet: UNet2DConditionModel) -> "ImageAdapters":
        """The same for a pipeline with this U-Net; none where that does not take them."""
        for adapter in self.adapters:
            widths = tuple(unet.cross_attentions[name] for name in file_order(unet))
            same = adapter.config.attentions == widths and adapter.dtype == unet.dtype
            if not same or adapter.device != unet.device:
                return ImageAdapters()
        return self


@dataclass(frozen=True)
class ImageGiven:
    """What a call gives one IP-Adapter, checked.

    adapter, encoder: that were loaded when it was asked.
    items: for each of the distinct prompts the pictures that are one together; embeds: or what an
    encoder made of them, [n, pictures, ...], and negative, or None. scale: of each picture drawn, a
    Scale. masks: [1 or count, pictures, H, W], or None.
    """

    adapter: IPAdapter
    encoder: CLIPVisionModelWithProjection | None
    items: tuple[tuple[Any, ...], ...] = ()
    embeds: Tensor | None = None
    negative: Tensor | None = None
    scales: tuple[Scale, ...] = ()
    masks: Tensor | None = None


def read_scale(value: Any, unet: UNet2DConditionModel, field: str = "scale") -> Scale:
    """A Scale of what set_ip_adapter_scale is given for one adapter: a number, a list with one for
    each of its pictures, or diffusers' mapping by block, in which what is not named counts nothing:
    {"down": {"block_2": [0.0, 1.0]}, "mid": 0.5, "up": {"block_0": [0.0, 1.0, 0.0]}}.
    """
    if isinstance(value, list | tuple):
        return tuple(check("ip_adapter_scale", item) for item in value)
    if not isinstance(value, Mapping):
        return float(check("ip_adapter_scale", value))
    names = list(unet.cross_attentions)
    numbers = read_by_block(
        value, map(attention_of, names), 0.0, lambda n: float(check("ip_adapter_scale", n)), field
    )
    return {name: numbers[attention_of(name)] for name in names}


def take_prompts(
    loaded: ImageAdapters, arguments: dict[str, Any], attention: Any
) -> dict[str, Any] | None:
    """Takes what is for IP-Adapters out of a call's arguments, and out of `attention`, the call's
    cross_attention_kwargs; None where no picture is given. Raises RequestError.
    """
    given = {name: arguments.pop(name, None) for name in NAMES}
    given[MASKS] = attention.pop(MASKS, None) if isinstance(attention, dict) else None
    asked = [name for name, value in given.items() if value is not None]
    if asked and not loaded.adapters:
        raise RequestError(
            f"{asked[0]}: this pipeline has no IP-Adapter: load one with pipe.load_ip_adapter(...)"
        )
    shown = [name for name in NAMES[:2] if given[name] is not None]
    if len(shown) == 2:
        raise RequestError("ip_adapter_image: expected this or ip_adapter_image_embeds, given both")
    if asked and not shown:
        raise RequestError(
            f"{asked[0]}: expected ip_adapter_image or ip_adapter_image_embeds with"
            " it, given neither"
        )
    return given if shown else None


def check_prompts(
    loaded: ImageAdapters, given: dict[str, Any], r: Request, guided: bool
) -> tuple[ImageGiven, ...]:
    """What each adapter is given, for the request of the same call."""
    count, batch = r.count, r.texts.batch
    several = len(loaded.adapters)
    scales = [[s] * count for s in loaded.scales]
    if given["ip_adapter_scale"] is not None:
        rows = spread("ip_adapter_scale", given["ip_adapter_scale"], several, count, batch)
        scales = [list(column) for column in zip(*rows, strict=True)]
    masks = _masks(given[MASKS], several, count)
    if given["ip_adapter_image"] is not None:
        if loaded.encoder is None:
            raise RequestError(
                "ip_adapter_image: there is no image encoder: load the IP-Adapter"
                " with image_encoder=, or give ip_adapter_image_embeds"
            )
        items = _pictures(given["ip_adapter_image"], several, count, batch)
        made = [
            ImageGiven(adapter, loaded.encoder, own, scales=tuple(s), masks=m)
            for adapter, own, s, m in zip(loaded.adapters, items, scales, masks, strict=True)
        ]
        numbers = [len(own.items[0]) for own in made]
    else:
        embeds = given["ip_adapter_image_embeds"]
        if not isinstance(embeds, list | tuple) or len(embeds) != several:
            raise checks.refuse(
                "ip_adapter_image_embeds",
                f"a list of {several}, for each IP-Adapter",
                type(embeds).__name__,
            )
        made = []
        for adapter, own, s, m in zip(loaded.adapters, embeds, scales, masks, strict=True):
            text, negative = _halves(adapter, own, guided, (1, batch, count))
            made.append(ImageGiven(adapter, None, (), text, negative, tuple(s), m))
        numbers = [own.embeds.shape[1] for own in made if own.embeds is not None]
    for own, number in zip(made, numbers, strict=True):
        _check_numbers(own, number)
    return tuple(made)


def _check_numbers(own: ImageGiven, number: int) -> None:
    """Raises RequestError where masks or scales are not of as many pictures as a prompt has."""
    if own.masks is not None and own.masks.shape[1] != number:
        raise checks.refuse(
            MASKS, f"one for each picture of the prompt: {number}", f"{own.masks.shape[1]} of them"
        )
    for scale in own.scales:
        if isinstance(scale, tuple) and (own.masks is None or len(scale) != number):
            raise RequestError(
                "set_ip_adapter_scale: a list of numbers is for the pictures of a"
                f" prompt with {MASKS}: expected {number} and masks"
            )


def _pictures(
    value: Any, several: int, count: int, batch: int
) -> list[tuple[tuple[Any, ...], ...]]:
    """For each adapter the distinct prompts, each the pictures that are one together."""
    field = "ip_adapter_image"
    items = list(value) if isinstance(value, list | tuple) else [value]
    nested = any(isinstance(item, list | tuple) for item in items)
    if several == 1 and not nested and len(items) > 1:
        if len(items) not in (count, batch):
            raise checks.refuse(
                field,
                f"one, [[several as one prompt]], or one for each of {count} pictures",
                f"{len(items)} of them",
            )
        return [tuple((_one(item, field),) for item in items)]
    if len(items) != several:
        raise checks.refuse(field, f"one for each IP-Adapter: {several}", f"{len(items)} of them")
    found: list[tuple[tuple[Any, ...], ...]] = []
    for item in items:
        own = tuple(pictures.as_list(list(item) if isinstance(item, tuple) else item, field))
        if len(own) > MOST:
            raise checks.refuse(field, f"at most {MOST} pictures as one prompt", len(own))
        found.append((own,))
    return found


def _one(item: Any, field: str) -> Any:
    found = pictures.as_list(item, field)
    if len(found) != 1:
        raise checks.refuse(field, "one picture each", f"{len(found)} of them")
    return found[0]


def _halves(
    adapter: IPAdapter, value: Any, guided: bool, rows: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """(of the prompts, of the negative ones) from what ip_adapter_image_embeds has for one."""
    field = "ip_adapter_image_embeds"
    dims = 4 if adapter.reads_states else 3
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != dims:
        raise checks.refuse(
            field,
            f"float tensors of {dims} dimensions",
            getattr(value, "shape", type(value).__name__),
        )
    if value.shape[-1] != adapter.config.image_width or not value.numel():
        raise checks.refuse(
            field, f"a last dimension of {adapter.config.image_width}", list(value.shape)
        )
    if not torch.isfinite(value).all():
        raise checks.refuse(field, "finite values", "NaN or infinity")
    if guided and len(value) % 2:
        raise checks.refuse(
            field, "the negative ones before the others, as guidance needs", f"{len(value)} rows"
        )
    negative, text = value.chunk(2) if guided else (None, value)
    if len(text) not in rows:
        raise checks.refuse(field, f"{' or '.join(map(str, sorted(set(rows))))} prompts", len(text))
    return text, negative


def _masks(value: Any, several: int, count: int) -> list[Tensor | None]:
    """[1 or count, pictures, H, W] for each adapter, or None."""
    if value is None:
        return [None] * several
    if isinstance(value, Tensor) and value.dim() == 4:  # of each adapter one
        value = list(value[:, None])
    if not isinstance(value, list | tuple) or len(value) != several:
        raise checks.refuse(
            MASKS, f"a list of {several} tensors, for each IP-Adapter", type(value).__name__
        )
    found: list[Tensor | None] = []
    for mask in value:
        if mask is None:
            found.append(None)
            continue
        good = isinstance(mask, Tensor) and mask.dim() == 4 and mask.is_floating_point()
        if not good or len(mask) not in (1, count) or 0 in mask.shape:
            raise checks.refuse(
                MASKS,
                "float tensors [1, pictures, H, W]",
                getattr(mask, "shape", type(mask).__name__),
            )
        if not torch.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
            raise checks.refuse(MASKS, "numbers from 0 to 1", "others")
        if max(mask.shape[2:]) > checks.MAX_SIDE:
            raise checks.refuse(MASKS, f"sides of at most {checks.MAX_SIDE}", list(mask.shape))
        found.append(mask.float())
    return found


# --- for a run ------------------------------------------------------------------------------------


def image_prompts(
    given: Sequence[ImageGiven], r: Request, unet: UNet2DConditionModel, size: Sequence[int]
) -> tuple[ImagePrompt, ...]:
    """What the attentions read besides the texts. size: of the latents, (height, width)."""
    made: list[ImagePrompt] = []
    for own in given:
        adapter = own.adapter
        text, negative = _embedded(own)
        both = [_tokens(adapter, x) for x in (text, negative)]
        masks = own.masks
        if masks is None:
            both = [x.flatten(1, 2) for x in both]
            made.append(_prompt(adapter, both, own.scales, r.count, unet))
            continue
        lengths = _lengths(unet, (size[0], size[1]))
        for i in range(masks.shape[1]):
            part = [x[:, i] for x in both]
            scales = [s[i] if isinstance(s, tuple) else s for s in own.scales]
            small = [torch.cat([_downsampled(row[i], n) for row in masks]) for n in lengths]
            small = [_rows(m, r.count).to(unet.device, unet.dtype) for m in small]
            made.append(_prompt(adapter, part, scales, r.count, unet, small))
    return tuple(made)


def _embedded(own: ImageGiven) -> tuple[Tensor, Tensor]:
    """What the encoder makes of the prompts and of nothing: [n, pictures, ...] each."""
    if own.embeds is not None:
        negative = torch.zeros_like(own.embeds) if own.negative is None else own.negative
        return own.embeds, negative
    encoder, adapter = own.encoder, own.adapter
    assert encoder is not None
    side = encoder.config.image_size
    config = ClipPictureConfig(size=side, crop_size=side)

    def seen(pixels: Tensor) -> Tensor:
        out = encoder(pixels, output_hidden_states=adapter.reads_states)
        return out.hidden_states[-2] if adapter.reads_states else out.image_embeds  # type: ignore[no-any-return]

    rows = []
    for items in own.items:
        pixels = clip_pixels(items, config, "ip_adapter_image")
        rows.append(torch.cat([seen(p[None]) for p in pixels]))
    text = torch.stack(rows)
    if not adapter.reads_states:
        return text, torch.zeros_like(text)
    nothing = seen(torch.zeros(1, encoder.config.num_channels, side, side))
    return text, nothing[None].expand_as(text)


def _tokens(adapter: IPAdapter, embeds: Tensor) -> Tensor:
    """[n, pictures, tokens, width] of [n, pictures, ...]."""
    tokens = adapter.tokens(embeds.flatten(0, 1))
    return tokens.view(*embeds.shape[:2], *tokens.shape[1:])


def _prompt(
    adapter: IPAdapter,
    both: Sequence[Tensor],
    scales: Sequence[Scale],
    count: int,
    unet: UNet2DConditionModel,
    masks: Sequence[Tensor] | None = None,
) -> ImagePrompt:
    """both: tokens [n, L, width] of prompts and negative ones."""
    names = list(unet.cross_attentions)
    order = [file_order(unet).index(name) for name in names]
    found = []
    for tokens in both:
        keys_values = adapter.keys_values(_rows(tokens, count).contiguous())
        found.append([keys_values[i] for i in order])
    own = [
        torch.tensor(
            [s[name] if isinstance(s, dict) else s for s in scales],
            dtype=torch.float32,
            device=unet.device,
        )
        for name in names
    ]
    return ImagePrompt({TEXT: found[0], NEGATIVE: found[1]}, own, masks)


def _rows(t: Tensor, count: int) -> Tensor:
    return t if len(t) == count else t.repeat_interleave(count // len(t), dim=0)


def _lengths(unet: UNet2DConditionModel, size: tuple[int, int]) -> list[int]:
    """Pixels that each attention to the text sees, for latents of that size."""
    c = unet.config
    sizes = [size]
    for _ in range(c.levels - 1):
        sizes.append(tuple((n + c.downsample_padding) // 2 for n in sizes[-1]))
    found = []
    for name in unet.cross_attentions:
        where, number, *_ = name.split(".")
        level = c.levels - 1
        if where != "mid_block":
            level = int(number) if where == "down_blocks" else c.levels - 1 - int(number)
        found.append(sizes[level][0] * sizes[level][1])
    return found


def _downsampled(mask: Tensor, pixels: int) -> Tensor:
    """[1, pixels] of a mask [H, W], bicubic, as diffusers' IPAdapterMaskProcessor.downsample: where
    the proportions are not those of the latents it is cut off, or filled up with zeros.
    """
    height, width = mask.shape
    rows = max(1, int(math.sqrt(pixels / (width / height))))
    rows += pixels % rows != 0
    columns = max(1, pixels // rows)
    small = F.interpolate(mask[None, None], size=(rows, columns), mode="bicubic").flatten(1)
    return F.pad(small, (0, max(0, pixels - small.shape[1])))[:, :pixels]
