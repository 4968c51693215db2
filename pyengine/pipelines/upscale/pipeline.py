"""Enlarging pictures: whole, or tile by tile."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import images as pictures
from ...errors import RequestError
from ...finite import all_finite, kind, not_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.job import Call, Job
from ...jobs.output import PipelineOutput, Report
from ...jobs.request import CallRequest
from ...jobs.runs import Run
from ...models.base import Model
from ...models.upscale.base import Upscaler
from ...pixels import MAX_PIXELS
from ..base import NetworkPipeline
from ..keywords import refuse_others
from ..one_pass import OnePassDefaults
from .tiles import Tile, overlap_of, tiles

MAX_TILE = 1 << 15
CALLBACK_TENSORS = ("images",)


@dataclass(kw_only=True)
class UpscaleRequest(CallRequest):
    """A call's arguments, checked. items: pictures of images.as_list; sizes: (height, width) of
    each. height, width: of the first result, in pixels.
    """

    items: list[Any]
    sizes: list[tuple[int, int]]
    height: int
    width: int
    tile: int | None
    overlap: int
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.items)


class UpscaleJob(Job):
    """A picture that is enlarged, a tile a step. canvas: [3, H * scale, W * scale] in 0..1, float32
    on the CPU; grey where no tile is made yet.
    """

    def __init__(
        self, run: Run, index: int, seed: int | None, image: Tensor, tiles: list[Tile], scale: int
    ):
        super().__init__(run, index, seed)
        self.image, self.tiles = image, tiles
        height, width = image.shape[1] * scale, image.shape[2] * scale
        self.canvas = torch.full((3, height, width), 0.5)

    @property
    def complete(self) -> bool:
        return self.steps == len(self.tiles)

    @property
    def left(self) -> int:
        return len(self.tiles) - self.steps

    @property
    def shape(self) -> Hashable:
        return tuple(self.image.shape)


class UpscaleCall(Call[UpscaleRequest, UpscaleJob]):
    """The pictures of one call: a step makes a tile of each."""

    stage: ClassVar[str] = "upscale"
    title: ClassVar[str] = "tiles"

    def __init__(
        self, pipe: "UpscalePipeline", r: UpscaleRequest, report: Report, jobs: list[UpscaleJob]
    ):
        super().__init__(r, report, jobs)
        self._pipe = pipe

    @property
    def total(self) -> int:
        return sum(len(job.tiles) for job in self.jobs)

    def stepped(self, jobs: Sequence[UpscaleJob]) -> int:
        self.raise_error()
        self.report.steps = max(job.steps for job in self.jobs)
        self.report.evaluations += len(jobs)
        if self.request.callback is not None:
            images, _ = self.seen()
            checks.call_back(self._pipe, self.request, self.report.steps - 1, 0, {"images": images})
        return len(jobs)

    def tally(self) -> None:
        super().tally()
        self.report.evaluations = sum(job.evaluations for job in self.jobs)

    def seen(self) -> tuple[Tensor, Any]:
        """The pictures as they are, [N, 3, H, W]; the first alone where they differ in size."""
        made = [job.canvas for job in self.jobs if isinstance(job, UpscaleJob)]
        same = [canvas for canvas in made if canvas.shape == made[0].shape]
        return torch.stack(same if len(same) == len(made) else made[:1]), 0


class UpscalePipeline(NetworkPipeline[UpscaleRequest, UpscaleJob]):
    """Enlarges pictures by an upscaler's network; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = OnePassDefaults
    takes_prompt: ClassVar[bool] = False
    sampler: ClassVar[str] = "upscale"

    def __init__(self, model: Upscaler, checkpoint: Any, source: str, defaults: Any):
        """source: the path or Hub id it was loaded from."""
        super().__init__()
        self.model, self.checkpoint = model, checkpoint
        self.source, self.defaults = source, defaults

    @property
    def scale(self) -> int:
        """Pixels of a result for each pixel, along each side."""
        return self.model.scale

    @property
    def network(self) -> Model:
        return self.model

    @property
    def components(self) -> dict[str, Any]:
        return {"model": self.model}

    @inference
    def __call__(
        self,
        image: Any,
        tile: int | None = None,
        overlap: int | None = None,
        *,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """The pictures, `scale` times as high and wide.

        Args:
            image: a picture or several, of any sizes; of one size for output_type "np" and "pt".
            tile: the side in pixels of the tiles that a picture is cut into, which bounds the
                memory; None: whole up to 512 x 512 pixels, else 384.
            overlap: pixels around a tile that are read with it; None: all that the network reaches
                where these are at most 64, so that tiles change nothing but the last bits, else 32
                (docs/generators.md).
            num_images_per_prompt: 1: there is one result of each picture.
            seed, generator: checked; nothing is drawn, so they change no pixel.
            output_type: "pil", "np" or "pt" (0 to 1).
            callback_on_step_end: called as (pipe, step, timestep, {"images": [N, 3, H, W]}) after
                every tile, in 0..1, to look at.
            callback_on_step_end_tensor_inputs: what of these it is given: images.
            progress: a bar on standard error; None shows one on a terminal.
            return_dict: False gives a tuple in place of a PipelineOutput.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        Returns:
            The pictures, with their seeds and a report.

        Raises:
            RequestError: that names the argument.
            BusyError: where `timeout` is over first.
            NotFiniteError: where the network's numbers are not finite.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> UpscaleRequest:
        return self._check(**arguments)

    def _check(
        self,
        *,
        image: Any,
        tile: Any,
        overlap: Any,
        num_images_per_prompt: Any,
        seed: Any,
        generator: Any,
        output_type: Any,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: Any,
        return_dict: Any,
        timeout: Any,
        run: Any,
        others: dict[str, Any],
    ) -> UpscaleRequest:
        refuse_others(others, self.__call__)
        checks.integer("num_images_per_prompt", num_images_per_prompt, 1, 1)
        if image is None:
            raise RequestError("image: expected a picture or several, given none")
        items = pictures.as_list(image, "image")
        sizes = [pictures.size_of(item) for item in items]
        output_type = checks.choice("output_type", output_type, ("pil", "np", "pt"))
        self.check_sizes(sizes, one_size=output_type != "pil")
        seeds, _ = checks.seeds_and_generators(seed, generator, len(items), self.device)
        return UpscaleRequest(
            items=items,
            sizes=sizes,
            height=sizes[0][0] * self.scale,
            width=sizes[0][1] * self.scale,
            tile=None if tile is None else checks.integer("tile", tile, 1, MAX_TILE),
            overlap=overlap_of(self.model.reach)
            if overlap is None
            else checks.integer("overlap", overlap, 0, MAX_TILE),
            output_type=output_type,
            seeds=seeds,
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **checks.manners(run, timeout, return_dict),
        )

    def check_sizes(self, sizes: list[tuple[int, int]], one_size: bool) -> None:
        """Refuses what would take too much memory, before any is taken.

        Args:
            sizes: (height, width) of each picture, before it is enlarged.
            one_size: whether all have to be the same.

        Raises:
            RequestError: where a picture is too large, or all together, or sizes differ.
        """
        if min(min(size) for size in sizes) < 1:
            raise RequestError("image: expected at least one pixel, given none")
        if len(sizes) > checks.MAX_PICTURES:
            raise checks.refuse("image", f"at most {checks.MAX_PICTURES} pictures", len(sizes))
        if one_size and len(set(sizes)) > 1:
            raise RequestError("image: expected pictures of one size for this output_type")
        made = [(h * self.scale, w * self.scale) for h, w in sizes]
        total = sum(h * w for h, w in made)
        if total > MAX_PIXELS or max(map(max, made)) > pictures.MAX_SIDE:
            raise RequestError(
                f"image: {self.scale} times as high and wide, expected at most {MAX_PIXELS} pixels"
                f" together and sides up to {pictures.MAX_SIDE}, given {total} pixels, the first"
                f" picture's {made[0][0]}x{made[0][1]}"
            )

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: UpscaleRequest) -> Report:
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=self.sampler,
            height=r.height,
            width=r.width,
            guidance_scale=1.0,
            weights=self.model.weights,
        )

    def _begin(self, r: UpscaleRequest, report: Report) -> UpscaleCall:
        jobs = []
        for k, (item, (height, width)) in enumerate(zip(r.items, r.sizes, strict=True)):
            image = pictures.to_unit([item], height, width, "image", report.warnings)[0]
            cut = tiles(height, width, r.tile, r.overlap, self.model.multiple)
            jobs.append(UpscaleJob(r.run, k, r.seeds[k], image, cut, self.scale))
        return UpscaleCall(self, r, report, jobs)

    def _step(self, jobs: Sequence[UpscaleJob]) -> None:
        for job in jobs:
            made = self.enlarge_tile(job.image, job.tiles[job.steps], job.canvas)
            if not all_finite(made):
                where = f"picture {job.index}"
                job.error = not_finite(f"{self.source}: upscaler", kind(made), where, made.dtype)
            job.evaluations += 1
            job.steps += 1

    def enlarge_tile(self, image: Tensor, tile: Tile, canvas: Tensor) -> Tensor:
        """Enlarges a tile into its position in a canvas.

        Args:
            image: [3, H, W] in 0..1.
            tile: the part of it.
            canvas: [3, H * scale, W * scale], which the tile is written to.

        Returns:
            What the network made of it.
        """
        (top, bottom, read_top, read_bottom), (left, right, read_left, read_right) = tile
        s = self.scale
        made: Tensor = self.model(image[None, :, read_top:read_bottom, read_left:read_right])[0]
        kept = made[
            :,
            (top - read_top) * s : (bottom - read_top) * s,
            (left - read_left) * s : (right - read_left) * s,
        ]
        canvas[:, top * s : bottom * s, left * s : right * s] = kept.float().cpu()
        return kept

    def _picture(self, job: UpscaleJob) -> Any:
        return self._preview(job.canvas[None], job.request.output_type)[0]

    def _preview(self, images: Tensor, output_type: str) -> Any:
        return pictures.from_unit(images, output_type)

    def _trim(self) -> None:
        self.model.arena.trim()

    def _output(self, call: Call[UpscaleRequest, UpscaleJob]) -> PipelineOutput:
        made = [self._picture(job) for job in call.jobs]
        kind_of = call.request.output_type
        if kind_of == "pt":
            made = torch.stack(made)  # type: ignore[assignment] # a tensor then
        elif kind_of == "np":
            import numpy as np

            made = np.stack(made)  # type: ignore[assignment]
        return PipelineOutput(made, call.request.seeds, call.report)
