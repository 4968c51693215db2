"""What a call shows ControlNets and T2I-Adapters: its arguments, checked, and made for the steps.

Names and meaning are those of diffusers' ControlNet and adapter pipelines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.controls import Control, Features
from ...diffusion.request import Request
from ...errors import RequestError
from ...jobs import checks
from ...models.control.t2i import T2IAdapter, weighted
from ...models.control.union import ControlNetUnionModel
from ...weights.text import show
from ..arguments import BY_NAME, check
from .parts import Parts

_CONTROLNET = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
    "guess_mode",
    "control_mode",
)
_ADAPTER = ("adapter_conditioning_scale", "adapter_conditioning_factor")
NAMES = ("control_image", *_CONTROLNET, *_ADAPTER)
#: What a ControlNet counts unless told, by task; in SDXL's inpainting 1.
SCALES = {"text": 1.0, "image": 0.8, "inpaint": 0.5}
#: A number, or a list of them, of each picture: [count][columns].
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Shown:
    """The pictures that one network is shown: of a union of several kinds, else of one.

    items: for each kind the pictures, as pyengine.images.as_list gives them. modes: the kinds.
    """

    items: tuple[tuple[Any, ...], ...]
    modes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ControlGiven:
    """What came, before it is known how many pictures are drawn; see `take`."""

    networks: tuple[Any, ...]
    image: Any
    values: dict[str, Any]

    @property
    def field(self) -> str:
        """What errors call the pictures."""
        return "control_image"

    def size(self, factor: int) -> tuple[int, int]:
        """(height, width) of the first picture, down to multiples of what the networks take."""
        for network in self.networks:
            if isinstance(network, T2IAdapter):
                factor = max(factor, network.downscale_factor)
        first = self.image
        while isinstance(first, list | tuple) and first:
            first = first[0]
        height, width = pictures.size_of(pictures.as_list(first, self.field)[0])
        if min(height, width) < factor:
            raise checks.refuse(
                self.field, f"at least {factor}x{factor} pixels", f"{height}x{width}"
            )
        return height - height % factor, width - width % factor

    def checked(self, r: Request, xl: bool) -> "ControlRequest":
        """For the request of the same call. Raises RequestError that names the argument."""
        batch = r.texts.batch
        if isinstance(self.networks[0], T2IAdapter):
            shown = [Shown((items,)) for items in self._of_each(r)]
            scales = self._matrix("adapter_conditioning_scale", len(shown), r)
            factors = self._matrix("adapter_conditioning_factor", 1, r)
            return ControlRequest(self.networks, tuple(shown), scales, ends=factors)
        single_union = len(self.networks) == 1 and isinstance(
            self.networks[0], ControlNetUnionModel
        )
        shown = self._kinds(r) if self._unions else [Shown((items,)) for items in self._of_each(r)]
        columns = len(shown[0].modes) if single_union else len(self.networks)
        starts = self._matrix("control_guidance_start", columns, r, 0.0)
        ends = self._matrix("control_guidance_end", columns, r)
        for begin, end in zip(sum(starts, ()), sum(ends, ()), strict=True):
            if begin >= end:
                raise checks.refuse(
                    "control_guidance_start", f"less than control_guidance_end {end:g}", begin
                )
        task = "text" if r.images is None else "image" if r.masks is None else "inpaint"
        default = 1.0 if xl and task == "inpaint" else SCALES[task]
        scales = self._matrix("controlnet_conditioning_scale", columns, r, default)
        guess = _flags("guess_mode", self.values["guess_mode"], r.count, batch)
        return ControlRequest(self.networks, tuple(shown), scales, starts, ends, guess)

    @property
    def _unions(self) -> bool:
        return any(isinstance(network, ControlNetUnionModel) for network in self.networks)

    def _matrix(self, name: str, columns: int, r: Request, default: float = 1.0) -> Matrix:
        value = self.values[name]
        return spread(name, default if value is None else value, columns, r.count, r.texts.batch)

    def _of_each(self, r: Request) -> list[tuple[Any, ...]]:
        """The pictures for each network."""
        count = len(self.networks)
        if count == 1:
            return [self._list(self.image, r)]
        given = self.image
        expected = f"a list of {count}, for each of what was loaded"
        if not isinstance(given, list | tuple):
            raise checks.refuse(self.field, expected, type(given).__name__)
        if (
            given
            and all(isinstance(item, list | tuple) and len(item) == count for item in given)
            and len(given) in (r.texts.batch, r.count)
            and len(given) != count
        ):
            given = list(zip(*given, strict=True))  # for each prompt a list
        if len(given) != count:
            raise checks.refuse(self.field, expected, f"{len(given)} of them")
        return [self._list(item, r) for item in given]

    def _kinds(self, r: Request) -> list[Shown]:
        """For networks of which some are for several kinds of pictures."""
        count = len(self.networks)
        image, modes = self.image, self.values["control_mode"]
        if count == 1:
            image, modes = [image if isinstance(image, list | tuple) else [image]], [modes]
        if not isinstance(image, list | tuple) or len(image) != count:
            raise checks.refuse(self.field, f"a list of {count}, for each ControlNet", image)
        if not isinstance(modes, list | tuple) or len(modes) != count:
            raise checks.refuse("control_mode", f"a list of {count}, for each ControlNet", modes)
        found = []
        for network, own, kinds in zip(self.networks, image, modes, strict=True):
            if not isinstance(network, ControlNetUnionModel):
                found.append(Shown((self._list(own, r),)))
                continue
            own = list(own) if isinstance(own, list | tuple) else [own]
            kinds = list(kinds) if isinstance(kinds, list | tuple) else [kinds]
            most = network.config.num_control_type - 1
            kinds = [checks.integer("control_mode", kind, 0, most) for kind in kinds]
            if len(own) != len(kinds):
                raise checks.refuse(
                    "control_mode",
                    f"one for each control_image: {len(own)}",
                    f"{len(kinds)} of them",
                )
            found.append(Shown(tuple(self._list(item, r) for item in own), tuple(kinds)))
        return found

    def _list(self, image: Any, r: Request) -> tuple[Any, ...]:
        items = pictures.as_list(image, self.field)
        if len(items) not in (1, r.texts.batch, r.count):
            raise checks.refuse(
                self.field,
                f"one, or one for each of {r.texts.batch} prompts or {r.count} pictures",
                f"{len(items)} of them",
            )
        return tuple(items)


@dataclass(frozen=True)
class ControlRequest:
    """What a call shows its networks. shown: for each; scales, starts, ends: see Control, or of an
    adapter the scale for each and, in `ends`, its share of the steps.
    """

    networks: tuple[Any, ...]
    shown: tuple[Shown, ...]
    scales: Matrix
    starts: Matrix = ()
    ends: Matrix = ()
    guess: tuple[bool, ...] = ()

    def controls(self, r: Request) -> tuple[Control, ...]:
        """The ControlNets, each with its pictures embedded."""
        several = len(self.networks) > 1
        # As in diffusers, the first one's config decides for all.
        pooled = bool(self.networks[0].config.global_pool_conditions)
        guess = [g or pooled for g in self.guess]
        made = []
        for n, (network, shown) in enumerate(zip(self.networks, self.shown, strict=True)):
            columns = slice(n, n + 1) if several else slice(None)
            scales, starts, ends = (
                [row[columns] for row in rows] for rows in (self.scales, self.starts, self.ends)
            )
            embedded = tuple(
                _for_pictures(_prepared(items, r), r, network.embed_picture)[0]
                for items in shown.items
            )
            made.append(
                Control(network, embedded, scales, starts, ends, guess, shown.modes, several)
            )
        return tuple(made)

    def features(self, r: Request, steps: int) -> Features:
        """What the T2I-Adapters make of their pictures, summed; steps: of the run."""
        made = []
        for network, shown in zip(self.networks, self.shown, strict=True):
            picture = _prepared(shown.items[0], r)
            if network.config.in_channels == 1:
                picture = _grey(picture)
            made.append(_for_pictures(picture, r, network.features))
        rows = []
        for i in range(r.count):
            own = [tuple(y[i : i + 1] for y in features) for features in made]
            rows.append(weighted(own, self.scales[i]))
        blocks = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
        return Features(blocks, [int(steps * end[0]) for end in self.ends])


def take(parts: Parts, arguments: dict[str, Any]) -> ControlGiven | None:
    """Takes what is for ControlNets and T2I-Adapters out of a call's arguments; None where nothing
    is to be shown to any. The picture of text-to-image comes as `image`.
    """
    values = {name: arguments.pop(name, None) for name in NAMES}
    asked = [name for name, value in values.items() if not _is_nothing(name, value)]
    networks = parts.controlnets or parts.t2i_adapters
    if not networks:
        for name in asked:
            what = "T2I-Adapter: load one with from_pretrained(..., adapter=...)"
            if name not in _ADAPTER:
                what = "ControlNet: load one with from_pretrained(..., controlnet=...)"
            raise RequestError(f"{name}: this pipeline has no {what}")
        return None
    others = _ADAPTER if parts.controlnets else _CONTROLNET
    for name in asked:
        if name in others:
            loaded = "ControlNet" if parts.controlnets else "T2I-Adapter"
            raise RequestError(
                f"{name}: expected none of a pipeline with a {loaded}, given {show(values[name])}"
            )
    unions = any(isinstance(network, ControlNetUnionModel) for network in networks)
    if unions and values["control_mode"] is None and values["control_image"] is not None:
        raise RequestError(
            "control_mode: this ControlNet is for several kinds of pictures:"
            " expected the kind, given none"
        )
    if not unions and values["control_mode"] is not None:
        raise RequestError(
            "control_mode: expected None for a ControlNet of one kind of pictures,"
            f" given {show(values['control_mode'])}"
        )
    image = values.pop("control_image")
    if image is None and arguments.get("mask_image") is None and not unions:
        image = arguments.get("image")
        if image is not None:
            arguments["image"] = None
    if image is None:
        if asked or arguments.get("image") is not None:
            raise RequestError(
                "control_image: expected a picture for what was loaded beside the model, given none"
            )
        return None
    return ControlGiven(networks, image, values)


def spread(name: str, value: Any, columns: int, count: int, batch: int) -> Matrix:
    """[count][columns] of a number for all; a list with one for each column; or a list with one, or
    such a list, for each picture or prompt. Where a list could be either, it is of the columns.

    Raises RequestError; `name` is an argument of the table.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return ((check(name, value),) * columns,) * count
    flat = not any(isinstance(item, list | tuple) for item in value)
    if flat and len(value) == columns:
        return (tuple(check(name, item) for item in value),) * count
    if len(value) not in (count, batch):
        raise checks.refuse(
            name,
            f"a number, {columns} of them, or one for each of {count} pictures",
            f"{len(value)} of them",
        )
    each = count // len(value)
    rows = []
    for item in value:
        own = item if isinstance(item, list | tuple) else [item] * columns
        if len(own) != columns:
            raise checks.refuse(name, f"{columns} numbers for a picture", f"{len(own)} of them")
        rows += [tuple(check(name, number) for number in own)] * each
    return tuple(rows)


def _flags(name: str, value: Any, count: int, batch: int) -> tuple[bool, ...]:
    value = False if value is None else value
    items = list(value) if isinstance(value, list | tuple) else [value] * count
    if not all(isinstance(item, bool) for item in items):
        raise checks.refuse(name, "True or False, or one for each picture", value)
    if len(items) not in (count, batch):
        raise checks.refuse(
            name, f"one, or one for each of {count} pictures", f"{len(items)} of them"
        )
    return tuple(item for item in items for _ in range(count // len(items)))


def _is_nothing(name: str, value: Any) -> bool:
    """Whether an argument asks for nothing."""
    nothing = BY_NAME[name].nothing
    return value is None or (type(value) in (int, float, bool) and value == nothing)


def _prepared(items: Sequence[Any], r: Request) -> Tensor:
    """[n, 3, height, width] in [0, 1] of the request's size."""
    if r.part is not None:
        items = [r.part.of(item, "control_image") for item in items]
    # A picture of edges may well be nearly black, which is no sign of a wrong scale: not warned of.
    return pictures.to_unit(items, r.height, r.width, "control_image", [])


def _for_pictures(shown: Tensor, r: Request, make: Callable[[Tensor], Any]) -> tuple[Tensor, ...]:
    """make(picture) for each of `shown`, as rows of all the call's pictures."""
    found = [make(picture[None]) for picture in shown]
    parts = [(f,) if isinstance(f, Tensor) else f for f in found]
    rows = [i for i in range(len(shown)) for _ in range(r.count // len(shown))]
    return tuple(torch.cat([own[i] for i in rows]) for own in zip(*parts, strict=True))


def _grey(picture: Tensor) -> Tensor:
    """[N, 1, H, W] of [N, 3, H, W], by ITU-R BT.601 as Pillow's; grey ones keep their bits."""
    red, green, blue = picture[:, 0:1], picture[:, 1:2], picture[:, 2:3]
    if torch.equal(red, green) and torch.equal(green, blue):
        return red
    grey: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey
