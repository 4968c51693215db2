"""The noise predictor of Stable Diffusion 1.x, 2.x and XL, DeepFloyd IF, unCLIP and Kandinsky.

Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952 (SDXL); Ramesh et al.
2022, arXiv:2204.06125 (unCLIP).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, GroupNorm
from ...ops import Recordings
from ..base import Output, to_nchw
from .blocks import UP_BLOCKS, Conditioning, DownBlock2D, Residuals, UpBlock2D, added
from .config import UNet2DConditionConfig
from .context import TextContext, TimeEmbedding
from .deep import DeepFeatures
from .encoder import ConditionEncoder


@dataclass
class UNet2DConditionOutput(Output):
    """sample: [N, out_channels, H, W]: noise, v or the clean sample, as the model was trained."""

    sample: Tensor


class UNet2DConditionModel(ConditionEncoder):
    """diffusers' UNet2DConditionModel for the configs that unet_config.py accepts."""

    config_class = UNet2DConditionConfig
    tiers = ("int8", "fp8")
    # Not the projections of text and time, which run once per prompt or step; nor, by what each
    # costs alone (docs/numerics.md), the first and last convolution and the shortcuts, which read
    # what no norm has evened out. The convolutions in int8 only.
    quantized_layers = (
        *("*.attentions.*.proj_in", "*.attentions.*.proj_out", "*.transformer_blocks.*.attn1.*"),
        *("*.attn2.to_q", "*.attn2.to_out.0", "*.ff.net.*"),
        *("*.resnets.*.conv1", "*.resnets.*.conv2", "*.downsamplers.*.conv", "*.upsamplers.*.conv"),
    )
    quantizes_inputs = True

    def __init__(self, config: UNet2DConditionConfig):
        super().__init__(config)
        c, channels, levels = config, config.block_out_channels, range(config.levels)
        self.up_blocks = nn.ModuleList(
            UP_BLOCKS[kind](c, i)
            for kind, i in zip(c.up_block_types, reversed(levels), strict=True)
        )
        self.conv_norm_out = GroupNorm(c.norm_num_groups, channels[0], c.norm_eps)
        self.conv_out = Conv2d(
            channels[0], c.out_channels, c.conv_out_kernel, padding=c.conv_out_kernel // 2
        )
        self.recordings = Recordings()
        self._number()

    # --- one evaluation ---------------------------------------------------------------------------

    @inference
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        encoder_hidden_states: Tensor | TextContext | None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = True,
        *,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: Sequence[Tensor] | None = None,
        residuals: Residuals | None = None,
        deep: DeepFeatures | None = None,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """One evaluation of the network, in its dtype.

        Args:
            sample: [N, in_channels, H, W], any H and W.
            timestep: a number, [N], or a row of `embed_timesteps`.
            encoder_hidden_states: [N, L, cross_attention_dim], or what `encode_context` made of it;
                None for a model that reads pictures' embeddings alone.
            added_cond_kwargs: SDXL's text_embeds [N, C] and time_ids [N, 6], Kandinsky's
                image_embeds [N, C] and its ControlNet's hint [N, 3, 8 H, 8 W], of which the
                sample's last 4 channels are made.
            return_dict: False gives a tuple in place of an object with names.
            class_labels: by config, [N] or [N, C].
            timestep_cond: [N, time_cond_proj_dim], of latent consistency models.
            attention_mask: [N, L], 0 hides a token of the text, of models with added keys.
            down_block_additional_residuals, mid_block_additional_residual: a ControlNet's, [N, C,
                H, W] each, both or neither, added to the skips and to the middle block's result; a
                row of -0.0 keeps its bits.
            down_intrablock_additional_residuals: a T2I-Adapter's, one per block on the way down, as
                diffusers adds them.
            residuals: all of these in one, [N, H, W, C] in the model's dtype, in their place.
            deep: with features, only the layers outside of these are evaluated; without, it is
                given them; there are no residuals beside it.

        Returns:
            [N, out_channels, H, W], as `sample` of the result.

        Raises:
            RequestError: for what does not fit the config.
        """
        x, given = self._prepared(
            sample,
            timestep,
            encoder_hidden_states,
            added_cond_kwargs,
            class_labels,
            timestep_cond,
            attention_mask,
        )
        if residuals is None:
            residuals = self._residuals(
                down_block_additional_residuals,
                mid_block_additional_residual,
                down_intrablock_additional_residuals,
            )
        with self.arena.use():
            if deep is None:
                out = to_nchw(self._evaluated(x, given, residuals))
            else:
                out = to_nchw(self._evaluated_beside_deep(x, given, residuals, deep))
        return UNet2DConditionOutput(out) if return_dict else (out,)

    def evaluate(
        self,
        sample: Tensor,
        times: TimeEmbedding,
        context: TextContext,
        residuals: Residuals | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """`forward` with what was computed before.

        Args:
            sample: as `forward`'s.
            times: a row of `embed_timesteps` for each picture.
            context: of `encode_context`.
            residuals, deep: as `forward`'s.

        Returns:
            [N, out_channels, H, W].
        """
        told = {"residuals": residuals, "deep": deep}
        beside: Any = {name: value for name, value in told.items() if value is not None}
        out: Tensor = self(sample, times, context, return_dict=False, **beside)[0]  # with hooks
        return out

    def _residuals(
        self,
        skips: Sequence[Tensor] | None,
        mid: Tensor | None,
        blocks: Sequence[Tensor] | None,
    ) -> Residuals:
        """[N, C, H, W] -> [N, H, W, C] in the model's dtype, where it is."""
        if (skips is None) != (mid is None):
            raise RequestError(
                "down_block_additional_residuals: expected mid_block_additional_residual with them,"
                " or neither, got one"
            )

        def nhwc(t: Tensor) -> Tensor:
            if t.dim() != 4:
                raise RequestError(
                    f"additional residuals: expected [N, C, H, W], got {list(t.shape)}"
                )
            return t.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()

        return Residuals(
            tuple(map(nhwc, skips or ())),
            None if mid is None else nhwc(mid),
            tuple(map(nhwc, blocks or ())),
        )

    def _evaluated(self, x: Tensor, given: Conditioning, residuals: Residuals) -> Tensor:
        """`_run`, without the Python between its kernels where these have been recorded."""
        kept = _kept(given)
        if not residuals.empty or kept is None:
            return self._run(x, given, residuals)
        return self.recordings(self, self._recorded, x, given.time, kept)

    def _recorded(self, x: Tensor, time: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        return self._run(x, _conditioning(time, kept), Residuals())

    def _run(self, x: Tensor, given: Conditioning, residuals: Residuals) -> Tensor:
        return self._up(*self._down(x, given, residuals), given, (0, 0))

    def _down(
        self, x: Tensor, given: Conditioning, residuals: Residuals
    ) -> tuple[Tensor, list[Tensor]]:
        """What the way up begins with, and the skips."""
        x = self.conv_in(x)
        skips = [x]
        for i, block in enumerate(self.down_blocks):
            x = block(x, given, skips, residuals.of_block(i))
        skips = residuals.with_skips(skips)
        if self.mid_block is not None:
            x = residuals.after_mid(self.mid_block(x, given), len(self.down_blocks))
        return added(x, residuals.mid, "mid_block_additional_residual"), skips

    def _up(
        self, x: Tensor, skips: list[Tensor], given: Conditioning, place: tuple[int, int]
    ) -> Tensor:
        """The way up from a block and a layer in it on, to the result."""
        at, first = place
        x = self.up_blocks[at](x, given, skips, first)
        for block in self.up_blocks[at + 1 :]:
            x = block(x, given, skips)
        around = self.conv_norm_out.scale_shift(x)
        return self.conv_out(x, **around, input_activation=self._activation)

    # --- layers whose results are kept ------------------------------------------------------------

    @property
    def _ups(self) -> Sequence[UpBlock2D]:
        return cast(Sequence[UpBlock2D], self.up_blocks)

    @property
    def branches(self) -> int:
        """How many values DeepFeatures.branch may have, from 0 on: as many as there are skips."""
        return sum(len(block.resnets) for block in self._ups)

    def _outermost(self, branch: int) -> tuple[int, int]:
        """The block on the way up, and the layer in it, that reads the skip `branch`."""
        if not 0 <= branch < self.branches:
            raise RequestError(
                f"deep: expected a branch from 0 to {self.branches - 1}, got {branch}"
            )
        i, left = len(self._ups) - 1, branch + 1
        while left > len(self._ups[i].resnets):
            left -= len(self._ups[i].resnets)
            i -= 1
        return i, len(self._ups[i].resnets) - left

    def _evaluated_beside_deep(
        self, x: Tensor, given: Conditioning, residuals: Residuals, deep: DeepFeatures
    ) -> Tensor:
        """`_evaluated`, which sets deep.features where there are none, else reads them in place of
        all that lies below.
        """
        if not residuals.empty:
            raise RequestError("deep: expected no additional residuals beside it")
        place, kept = self._outermost(deep.branch), _kept(given)
        features = deep.features
        if features is not None:
            if kept is None:
                return self._outer(x, given, features, deep.branch, place)

            def outer(x: Tensor, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
                *time, features = changing
                return self._outer(x, _conditioning(time, kept), features, deep.branch, place)

            changing = [*given.time, features]
            return self.recordings(self, outer, x, changing, kept, ("outer", deep.branch))

        def whole(
            x: Tensor, time: Sequence[Tensor], kept: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            return self._whole(x, _conditioning(time, kept), place)

        if kept is None:
            out, features = self._whole(x, given, place)
        else:
            which = "whole", deep.branch
            out, features = self.recordings(self, whole, x, given.time, kept, which)
        deep.features = features.clone()  # out of the arena, whose memory the next call takes
        return out

    def _whole(
        self, x: Tensor, given: Conditioning, place: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """`_run` without residuals, and what the layer at that place on the way up has read."""
        at, first = place
        x, skips = self._down(x, given, Residuals())
        for block in self.up_blocks[:at]:
            x = block(x, given, skips)
        features = self.up_blocks[at](x, given, skips, end=first)
        return self._up(features, skips, given, place), features

    def _outer(
        self,
        x: Tensor,
        given: Conditioning,
        features: Tensor,
        branch: int,
        place: tuple[int, int],
    ) -> Tensor:
        """The same from features on: of the way down what makes the skips up to `branch`."""
        x = self.conv_in(x)
        skips = [x]
        for block in cast(Sequence[DownBlock2D], self.down_blocks):
            x = block.begin(x, given, skips, branch + 1)
        return self._up(features, skips, given, place)


def _kept(given: Conditioning) -> list[Tensor] | None:
    """What stays over the steps, as recordings take it; None where something else is attended to
    besides the text.
    """
    pairs = [attended for attended in given.context if len(attended) == 2]
    if len(pairs) < len(given.context):
        return None
    tensors = [cast(Tensor, t) for pair in pairs for t in pair]
    return tensors if given.mask is None else [*tensors, given.mask]


def _conditioning(time: Sequence[Tensor], kept: Sequence[Tensor]) -> Conditioning:
    context = TextContext.of(kept)
    return Conditioning(time, context.attended(), context.mask)
