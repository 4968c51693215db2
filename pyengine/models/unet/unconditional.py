"""The noise predictor of pixel diffusion: DDPM, improved DDPM, and class-conditional ones.

Ho et al. 2020, arXiv:2006.11239; Nichol & Dhariwal 2021, arXiv:2102.09672.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Embedding, GroupNorm
from ...ops import Recordings
from ..base import Output, to_nchw
from ..blocks.embeddings import TimestepEmbedding, sinusoids
from ..blocks.resnet import ResnetBlock2D
from ..blocks.transformer import PictureAttention
from ..unprompted import UnpromptedModel
from .blocks import DOWN_BLOCKS, UP_BLOCKS, Block, Conditioning
from .context import TimeEmbedding
from .unconditional_config import UNet2DConfig


@dataclass
class UNet2DOutput(Output):
    """sample: [N, out_channels, H, W]: noise, v or the clean sample, as the model was trained; with
    twice in_channels, the second half says something of the variance.
    """

    sample: Tensor


class _MidBlock(Block):
    """Two residual blocks, with attention between them where add_attention is set."""

    attends = "self"

    def __init__(self, config: UNet2DConfig):
        level = config.levels - 1
        channels = [config.block_out_channels[level]] * 2
        super().__init__(config, level, channels, [1] if config.add_attention else [])

    def _attention(self, config: UNet2DConfig, level: int, depth: int) -> nn.Module:
        return PictureAttention(
            config.block_out_channels[level],
            config.mid_attention_groups,
            config.norm_eps,
            config.heads(level),
        )

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        for i in range(len(self.resnets)):
            x = self._layer(i, x, None, given)
        return x


class UNet2DModel(UnpromptedModel):
    """diffusers' UNet2DModel for the configs that unconditional_config.py accepts."""

    config_class = UNet2DConfig
    config: UNet2DConfig

    def __init__(self, config: UNet2DConfig):
        super().__init__(config)
        c, channels, levels = config, config.block_out_channels, range(config.levels)
        self.conv_in = Conv2d(c.in_channels, channels[0])
        self.time_embedding = TimestepEmbedding(channels[0], c.time_dim)
        self.class_embedding = self._class_embedding()
        self.down_blocks = nn.ModuleList(DOWN_BLOCKS[c.down_block_types[i]](c, i) for i in levels)
        self.mid_block = None if c.mid_block_type is None else _MidBlock(c)
        self.up_blocks = nn.ModuleList(
            UP_BLOCKS[kind](c, i)
            for kind, i in zip(c.up_block_types, reversed(levels), strict=True)
        )
        self.conv_norm_out = GroupNorm(c.norm_num_groups, channels[0], c.norm_eps)
        self.conv_out = Conv2d(channels[0], c.out_channels)
        self.recordings = Recordings()
        self._resnets = tuple(m for m in self.modules() if isinstance(m, ResnetBlock2D))
        for slot, resnet in enumerate(self._resnets):
            resnet.slot = slot

    def _class_embedding(self) -> nn.Module | None:
        c = self.config
        if c.num_class_embeds is not None:
            return Embedding(c.num_class_embeds, c.time_dim)
        if c.class_embed_type == "timestep":
            return TimestepEmbedding(c.block_out_channels[0], c.time_dim)
        return nn.Identity() if c.class_embed_type == "identity" else None

    # --- what depends on the schedule and the class alone -----------------------------------------

    def _waves(self, values: Tensor) -> Tensor:
        c = self.config
        return sinusoids(values, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)

    def _embed(self, t: Tensor, labels: Tensor | None) -> TimeEmbedding:
        """t: [..., N or 1]."""
        emb = self.time_embedding(self._waves(t).to(self.dtype))
        rows = self._class_rows(labels)
        if rows is not None:
            emb = emb + rows
        return TimeEmbedding(tuple(_projected(m, emb) for m in self._resnets))

    def _class_rows(self, labels: Tensor | None) -> Tensor | None:
        """[N, time_dim] for class_labels: ids [N], times [N] or [N, time_dim], by config."""
        c = self.config
        if self.class_embedding is None:
            if labels is not None:
                raise RequestError("class_labels: expected None, this model knows no classes")
            return None
        if labels is None:
            raise RequestError("class_labels: this model needs them, got None")
        labels = torch.as_tensor(labels, device=self.device)
        want = [2, c.time_dim] if c.class_embed_type == "identity" else [1, len(labels)]
        if labels.dim() != want[0] or labels.shape[-1] != want[1]:
            form = f"[N, {c.time_dim}]" if c.class_embed_type == "identity" else "[N]"
            raise RequestError(f"class_labels: expected {form}, got {list(labels.shape)}")
        if c.num_class_embeds is not None:
            whole = not labels.is_floating_point()
            if not labels.is_meta and not (
                whole and 0 <= int(labels.min()) <= int(labels.max()) < c.num_class_embeds
            ):
                raise RequestError(
                    f"class_labels: expected integers from 0 to {c.num_class_embeds - 1}, got"
                    f" {labels.tolist()}"
                )
        elif c.class_embed_type == "timestep":
            labels = self._waves(labels)
        rows: Tensor = self.class_embedding(
            labels if c.num_class_embeds is not None else labels.to(self.dtype)
        )
        return rows

    # --- one evaluation ---------------------------------------------------------------------------

    @inference
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """One evaluation of the network, in its dtype.

        Args:
            sample: [N, in_channels, H, W], any H and W.
            timestep: a number, [N], or a row of `embed_timesteps`.
            class_labels: by config, classes [N], times [N], or vectors [N, time_dim].
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, H, W], as `sample` of the result.

        Raises:
            RequestError: for what does not fit the config.
        """
        self._check_sample(sample)
        n = len(sample)
        given = Conditioning(self._told(timestep, class_labels).for_pictures(n), ())
        sample = sample.to(device=self.device, dtype=self.dtype)
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        with self.arena.use():
            x = sample.permute(0, 2, 3, 1).contiguous()
            out = to_nchw(self.recordings(self, self._recorded, x, given.time))
        return UNet2DOutput(out) if return_dict else (out,)

    def _check_sample(self, sample: Tensor) -> None:
        c = self.config
        if sample.dim() != 4 or sample.shape[1] != c.in_channels or not sample.numel():
            raise RequestError(
                f"sample: expected [N, {c.in_channels}, H, W], got {list(sample.shape)}"
            )
        # Without padding a convolution of stride 2 halves down to 0, as the mean of 2x2 does.
        least = 2 ** (c.levels - 1)
        if min(sample.shape[2:]) < least:
            raise RequestError(
                f"sample: expected at least {least}x{least}, got {list(sample.shape[2:])}"
            )

    def _recorded(self, x: Tensor, time: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        return self._run(x, Conditioning(time, ()))

    def _run(self, x: Tensor, given: Conditioning) -> Tensor:
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, given, skips)
        if self.mid_block is not None:
            x = self.mid_block(x, given)
        for block in self.up_blocks:
            x = block(x, given, skips)
        out: Tensor = self.conv_out(x, **self.conv_norm_out.scale_shift(x), silu=True)
        return out


def _projected(resnet: ResnetBlock2D, emb: Tensor) -> Tensor:
    assert resnet.time_emb_proj is not None  # every block of this network has one
    projected: Tensor = resnet.time_emb_proj(emb, silu=True)
    return projected
