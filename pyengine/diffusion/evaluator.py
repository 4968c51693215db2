"""The U-Net's part of a denoising step."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor

from ..branches import adapted
from ..cuda import Graphs, Record, Recorder
from ..models.unet import DeepFeatures, Residuals, TextContext, TimeEmbedding
from ..ops import sampler_step
from ..schedules.plan import Rows, State, scaled, step_rows
from .denoiser import Denoiser, ResidualDenoiser
from .job import DenoisingJob
from .moves import Moves
from .told import Told, model_input


class Evaluator:
    """The U-Net's part of a step, or all of it, on a GPU as a CUDA graph: the same kernels in one
    launch.

    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, unet: Denoiser, record: Record | None = None):
        self.unet = unet
        self.graphs = self.steps = None
        if record is not None or unet.device.type == "cuda":
            record = record or Recorder()
            self.graphs = Graphs(self._run, record=record)
            self.steps = Graphs(self._run_step, record=record)

    def __call__(self, x: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """unet.evaluate(x, times, context); with graphs overwritten by the next call."""
        if self.graphs is None or context.further:
            return self.unet.evaluate(x, times, context)
        out: Tensor = self.graphs([x, *times.rows], context.tensors())
        return out

    def _run(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        x, *rows = changing
        return self.unet.evaluate(x, TimeEmbedding(tuple(rows)), TextContext.of(kept))

    def step(
        self,
        jobs: Sequence[DenoisingJob],
        state: State,
        rows: Rows,
        told: Told,
        times: TimeEmbedding,
        residuals: Residuals | None,
        deep: DeepFeatures | None,
        noise: Tensor | None,
        moves: Moves | None = None,
    ) -> State:
        """The state of the jobs after a model evaluation and the update that `rows` tell.

        told, times: of these jobs. residuals: of every row, what ControlNets and T2I-Adapters add.
        deep: of every row, what the deep layers gave before, or what is to be set to that.
        noise: as schedules.plan.step_rows takes it. moves: by gradients that guide some of them.
        """
        rescale = [job.guidance_rescale if job.guidance.terms else 0.0 for job in jobs]
        beside = told.adapters or told.context.further or residuals is not None
        whole = told.times_each and not beside and deep is None and not any(rescale)
        predicted = any(rows.variances)
        apart = not whole or any(rows.thresholds) or predicted or moves is not None
        if self.steps is None or apart:
            out = told.outputs(self.output(state, rows, told, times, residuals, deep), jobs)
            if not predicted:
                out = without_variance(out, state.x)
            if moves is None:
                return step_rows(state, out, rows, noise, rescale)
            out = moves.of_output(out)
            return moves.of_mean(step_rows(state, out, rows, noise, rescale), out, rows)
        x = state.x.contiguous()
        # An operand that is absent is all zeros, so that one graph serves every sampler and step.
        zero = torch.zeros_like(x)
        past = [zero if t is None else t for t in (state.d1, state.d2, state.d3, state.base, noise)]
        given = [x, *rows.tensors(x), *(t.to(x.dtype) for t in past), *times.rows]
        kept = [*([] if told.extra is None else [told.extra]), *told.context.tensors()]
        # Cloned, since they are overwritten by the next step.
        return rows.next_state(state, *(t.clone() for t in self.steps(given, kept)))

    def output(
        self,
        state: State,
        rows: Rows,
        told: Told,
        times: TimeEmbedding,
        residuals: Residuals | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """What the U-Net gives at a state, a row for each of told's; arguments as of `step`."""
        given = told.model_input(rows.scale_input(state.x))
        if not told.adapters and residuals is None and deep is None:
            return self(given, times, told.context)
        # Not recorded: recordings know the weights alone.
        with adapted(told.adapters) if told.adapters else nullcontext():
            if residuals is None and deep is None:
                return self.unet.evaluate(given, times, told.context)
            network = cast(ResidualDenoiser, self.unet)
            return network.evaluate(given, times, told.context, residuals, deep)

    def _run_step(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, scale, coeffs, d1, d2, d3, base, noise, *rows = changing
        # `extra` is a picture's, of four dimensions; keys, values and a mask have fewer.
        extra, rest = (kept[0], kept[1:]) if kept and kept[0].dim() == 4 else (None, kept)
        context = TextContext.of(rest)
        # Without a text the times tell, where guidance takes two rows a picture.
        count = len(context) or max(len(x), *(len(row) for row in rows))
        given = model_input(scaled(x, scale), extra, count)
        out = self.unet.evaluate(given, TimeEmbedding(tuple(rows)), context)
        out = without_variance(out, x)
        return sampler_step(x, out, coeffs, d1, d2, d3, base, noise)

    def clear(self) -> None:
        """Frees what was recorded."""
        for graphs in (self.graphs, self.steps):
            if graphs is not None:
                graphs.clear()


def without_variance(out: Tensor, x: Tensor) -> Tensor:
    """A network's output for latents x without the variance that it may predict beside it, in as
    many channels, where no schedule asks for that.
    """
    return out if out.shape[1] == x.shape[1] else out[:, : x.shape[1]].contiguous()
