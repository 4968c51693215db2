"""The U-Net's part of a denoising step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cuda import Graphs, Record, Recorder
from ..models import UNet2DConditionModel
from ..models.unet import TextContext, TimeEmbedding
from ..ops import sampler_step
from ..schedules.plan import Rows, State, scaled, step_rows


class Evaluator:
    """The U-Net's part of a step, or all of it, on a GPU as a CUDA graph: the same kernels in one
    launch.

    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, unet: UNet2DConditionModel, record: Record | None = None):
        self.unet = unet
        self.graphs = self.steps = None
        if record is not None or unet.device.type == "cuda":
            record = record or Recorder()
            self.graphs = Graphs(self._run, record=record)
            self.steps = Graphs(self._run_step, record=record)

    def __call__(self, x: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """unet(x, times, context); with graphs overwritten by the next call."""
        if self.graphs is None:
            return self.unet(x, times, context, return_dict=False)[0]
        return self.graphs([x, *times.rows], context.tensors())

    def _run(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        x, *rows = changing
        times, context = TimeEmbedding(tuple(rows)), TextContext.of(kept)
        return self.unet(x, times, context, return_dict=False)[0]

    def step(
        self, state: State, rows: Rows, times: TimeEmbedding, context: TextContext,
        extra: Tensor | None, noise: Tensor | None, rescale: float | Sequence[float],
        unguided: Sequence[int] = (),
    ) -> State:  # fmt: skip
        """The state after a model evaluation and the update that rows tell.

        extra: [N or 2 N, ...], what the U-Net is given besides the latents, or None. noise,
        rescale: as schedules.plan.step_rows takes them. unguided: pictures of a guided batch that
        are to come out as without guidance.
        """
        depends = any(rescale) if isinstance(rescale, Sequence) else rescale
        if self.steps is None or depends or unguided or any(rows.thresholds):
            out = self.output(state, rows, times, context, extra)
            if unguided:  # u + g (c - u) is c, to the bit, where u is c
                index = torch.tensor(unguided, device=out.device)
                out[index] = out[index + len(state.x)]
            return step_rows(state, out, rows, noise, rescale)
        x = state.x.contiguous()
        # What is not there counts as zero, so that one graph serves every sampler and step.
        zero = torch.zeros_like(x)
        past = [zero if t is None else t for t in (state.d1, state.d2, state.d3, state.base, noise)]
        given = [x, *rows.tensors(x), *(t.to(x.dtype) for t in past), *times.rows]
        kept = [*([] if extra is None else [extra]), *context.tensors()]
        # Cloned, since they are overwritten by the next step.
        return rows.next_state(state, *(t.clone() for t in self.steps(given, kept)))

    def output(
        self, state: State, rows: Rows, times: TimeEmbedding, context: TextContext,
        extra: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """What the U-Net gives at a state; arguments as of `step`."""
        return self(self._model_input(rows.scale_input(state.x), extra, context), times, context)

    def _run_step(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, scale, coeffs, d1, d2, d3, base, noise, *rows = changing
        # Keys and values come in pairs: one more is `extra`.
        extra, rest = (kept[0], kept[1:]) if len(kept) % 2 else (None, kept)
        context = TextContext.of(rest)
        given = self._model_input(scaled(x, scale), extra, context)
        out = self.unet(given, TimeEmbedding(tuple(rows)), context, return_dict=False)[0]
        return sampler_step(x, out, coeffs, d1, d2, d3, base, noise)

    @staticmethod
    def _model_input(x: Tensor, extra: Tensor | None, context: TextContext) -> Tensor:
        n = len(x)
        if extra is not None and len(extra) == n:
            x = torch.cat([x, extra], dim=1)
        if len(context) == 2 * n:
            x = torch.cat([x, x])
        return torch.cat([x, extra], dim=1) if extra is not None and len(extra) == 2 * n else x

    def clear(self) -> None:
        """Frees what was recorded."""
        for graphs in (self.graphs, self.steps):
            if graphs is not None:
                graphs.clear()
