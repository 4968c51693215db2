"""The U-Net of Stable Diffusion's x2 latent upscaler, in k-diffusion's arrangement.

Times are embedded as random Fourier features, and the network's input and output are scaled, as in
Karras et al. 2022, arXiv:2206.00364. Names are diffusers'.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d
from ..base import Model, to_nchw
from ..blocks.embeddings import TimestepEmbedding, flat_timesteps
from ..blocks.k_blocks import (
    AdaGroupNorm,
    KCrossAttention,
    KLevel,
    doubled_smoothly,
    halved_smoothly,
)
from ..blocks.resnet_variants import gelu
from .condition import UNet2DConditionOutput
from .context import TextContext, TimeEmbedding
from .latent_upscaler_config import LatentUpscalerUNetConfig


class _FourierFeatures(nn.Module):
    """cos and sin of 2 pi w t for weights w that were drawn once."""

    def __init__(self, dim: int, flip_sin_to_cos: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // 2, device="meta"), requires_grad=False)
        self.flip = flip_sin_to_cos

    def forward(self, values: Tensor) -> Tensor:
        """[...] -> [..., dim] float32, in diffusers' order of operations. Each value by itself:
        what torch's vectors leave over has other last bits.
        """
        rows = []
        for value in values.float().reshape(-1):
            angles = value * self.weight.float() * 2 * math.pi
            halves = (angles.cos(), angles.sin()) if self.flip else (angles.sin(), angles.cos())
            rows.append(torch.cat(halves))
        return torch.stack(rows).view(*values.shape, -1)


class LatentUpscalerUNet(Model):
    """diffusers' UNet2DConditionModel for the configs that LatentUpscalerUNetConfig accepts."""

    config_class = LatentUpscalerUNetConfig

    def __init__(self, config: LatentUpscalerUNetConfig):
        super().__init__(config)
        c, channels, last = config, config.block_out_channels, config.levels - 1
        self.conv_in = Conv2d(
            c.in_channels, channels[0], c.conv_in_kernel, padding=c.conv_in_kernel // 2
        )
        self.time_proj = _FourierFeatures(c.time_dim, c.flip_sin_to_cos)
        self.time_embedding = TimestepEmbedding(
            c.time_dim, c.time_dim, c.time_cond_proj_dim, "gelu"
        )
        common: dict[str, Any] = {
            "time_dim": c.time_dim,
            "eps": c.norm_eps,
            "context_width": c.cross_attention_dim,
        }
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            first = channels[max(level - 1, 0)]
            widths = [(first, width, width), *[(width,) * 3] * (c.layers(level) - 1)]
            cross = c.down_block_types[level] == "KCrossAttnDownBlock2D"
            head_dim = c.attention_head_dim if cross else None
            self.down_blocks.append(
                KLevel(widths, head_dim=head_dim, to_itself=level == last, **common)
            )
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(c.levels)):
            cross = c.up_block_types[last - level] == "KCrossAttnUpBlock2D"
            head_dim = c.attention_head_dim if cross else None
            self.up_blocks.append(
                KLevel(_widths_up(c, level), head_dim=head_dim, to_itself=level == last, **common)
            )
        self.conv_out = Conv2d(
            channels[0], c.out_channels, c.conv_out_kernel, padding=c.conv_out_kernel // 2
        )
        self._norms = tuple(m for m in self.modules() if isinstance(m, AdaGroupNorm))
        self._crosses = tuple(m for m in self.modules() if isinstance(m, KCrossAttention))
        for slot, norm in enumerate(self._norms):
            norm.slot = slot
        for slot, cross_attention in enumerate(self._crosses):
            cross_attention.slot = slot

    # --- what depends on the prompt alone, or on the schedule alone -------------------------------

    @inference
    def encode_context(self, encoder_hidden_states: Tensor) -> TextContext:
        """The keys and values of a text for every layer.

        Args:
            encoder_hidden_states: [N, L, cross_attention_dim].
        """
        text, width = encoder_hidden_states, self.config.cross_attention_dim
        if text.dim() != 3 or text.shape[2] != width or not text.shape[1]:
            raise RequestError(
                f"encoder_hidden_states: expected [N, L, {width}], got {list(text.shape)}"
            )
        text = text.to(device=self.device, dtype=self.dtype).contiguous()
        return TextContext(tuple(m.keys_values(text) for m in self._crosses))

    @inference
    def embed_timesteps(
        self,
        timesteps: Tensor | Sequence[float],
        *,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> TimeEmbedding:
        """The embeddings of a whole schedule: pass `table[i]` as `timestep` in step i.

        Args:
            timesteps: [T], a quarter of the logarithm of each sigma.
            timestep_cond: [N, time_cond_proj_dim], the pooled text behind 64 ones and 64 zeros.
            class_labels, added_cond_kwargs: None.
        """
        if class_labels is not None or added_cond_kwargs is not None:
            raise RequestError("class_labels, added_cond_kwargs: expected None for this model")
        t = flat_timesteps(timesteps, self.device)[:, None]
        return self._embed(t, None if timestep_cond is None else timestep_cond[None])

    def _embed(self, t: Tensor, timestep_cond: Tensor | None) -> TimeEmbedding:
        """t: [..., N or 1]; timestep_cond: [..., N or 1, time_cond_proj_dim]."""
        width = self.config.time_cond_proj_dim
        if timestep_cond is None or timestep_cond.shape[-1] != width:
            given = None if timestep_cond is None else list(timestep_cond.shape)
            raise RequestError(f"timestep_cond: expected [N, {width}], got {given}")
        timestep_cond = timestep_cond.to(device=self.device, dtype=self.dtype)
        waves = self.time_proj(t).to(self.dtype)
        emb = gelu(self.time_embedding(waves, timestep_cond))
        return TimeEmbedding(tuple(m.embed_time(emb) for m in self._norms))

    # --- one evaluation ---------------------------------------------------------------------------

    @inference
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        encoder_hidden_states: Tensor | TextContext,
        timestep_cond: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """One evaluation of the network, in its dtype.

        Args:
            sample: [N, in_channels, H, W], H and W multiples of config.divisor, at least twice
                that.
            timestep: a quarter of sigma's logarithm, [N] of them, or a row of `embed_timesteps`.
            encoder_hidden_states: [N, L, cross_attention_dim], or what `encode_context` made of it.
            timestep_cond: [N, time_cond_proj_dim], unless given to `embed_timesteps`.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, H, W].

        Raises:
            RequestError: for what does not fit the config.
        """
        self._check_sample(sample)
        text = encoder_hidden_states
        context = text if isinstance(text, TextContext) else self.encode_context(text)
        if len(context) != len(sample):
            raise RequestError(
                f"encoder_hidden_states: expected {len(sample)} rows, got {len(context)}"
            )
        if not isinstance(timestep, TimeEmbedding):
            timestep = self._embed(flat_timesteps(timestep, self.device), timestep_cond)
        elif timestep_cond is not None:
            raise RequestError("timestep_cond: was to be given to embed_timesteps")
        x = sample.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()
        times = timestep.for_pictures(len(x))
        with self.arena.use():
            out = to_nchw(self._run(x, times, context))
        return UNet2DConditionOutput(out) if return_dict else (out,)

    def evaluate(self, sample: Tensor, times: TimeEmbedding, context: TextContext) -> Tensor:
        """-forward(...): v as pyengine.schedules has it, whose sign is the other one.

        The clean sample is
        x / (1 + sigma^2) + sigma / sqrt(1 + sigma^2) * forward(x / sqrt(1 + sigma^2)).

        Args:
            sample: as `forward`'s.
            times: a row of `embed_timesteps` for each picture.
            context: of `encode_context`.
        """
        out: Tensor = self(sample, times, context, return_dict=False)[0]
        return -out

    def _run(self, x: Tensor, times: Sequence[Tensor], context: TextContext) -> Tensor:
        attended = context.attended()
        x = self.conv_in(x)
        skips = []
        for level, block in enumerate(self.down_blocks):
            x = block(x, times, attended)
            if level < self.config.levels - 1:
                skips.append(x)
                x = halved_smoothly(x)
        for level, block in enumerate(self.up_blocks):
            x = block(x, times, attended, skips.pop() if level else None)
            if level < self.config.levels - 1:
                x = doubled_smoothly(x)
        y: Tensor = self.conv_out(x)
        return y

    def _check_sample(self, sample: Tensor) -> None:
        channels, divisor = self.config.in_channels, self.config.divisor
        if sample.dim() != 4 or sample.shape[1] != channels or not sample.numel():
            raise RequestError(f"sample: expected [N, {channels}, H, W], got {list(sample.shape)}")
        sides = sample.shape[2:]
        if min(sides) < 2 * divisor or any(side % divisor for side in sides):
            raise RequestError(
                f"sample: expected multiples of {divisor}, from {2 * divisor} on, got {list(sides)}"
            )


def _widths_up(c: LatentUpscalerUNetConfig, level: int) -> list[tuple[int, int, int]]:
    """(in, inner, out) of a level's residual blocks on the way up; the first but of the lowest
    level has a skip beside it.
    """
    width, layers = c.block_out_channels[level], c.layers(level)
    begin = width if level == c.levels - 1 else 2 * width
    inputs = [begin, *[width] * (layers - 1)]
    outputs = [*[width] * (layers - 1), c.below(level)]
    return list(zip(inputs, [width] * layers, outputs, strict=True))
