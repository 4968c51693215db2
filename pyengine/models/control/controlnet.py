"""ControlNet: the first half of a U-Net, which is shown a picture and adds to the U-Net's skips.

Zhang, Rao, Agrawala 2023, arXiv:2302.05543.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, PointwiseConv2d
from ..base import Output, to_nchw
from ..unet.blocks import Conditioning, Residuals
from ..unet.context import TextContext, TimeEmbedding
from ..unet.encoder import ConditionEncoder
from .config import ControlNetConfig


@dataclass
class ControlNetOutput(Output):
    """What a U-Net takes as down_block_additional_residuals and mid_block_additional_residual:
    [N, C, H, W] each.
    """

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Tensor


class _PictureEmbedding(nn.Module):
    """Convolutions from a picture to the size and width of the sample's first activations."""

    def __init__(self, channels: int, widths: Sequence[int], out_channels: int):
        super().__init__()
        self.conv_in = Conv2d(channels, widths[0])
        blocks: list[nn.Module] = []
        for width, wider in pairwise(widths):
            blocks += [Conv2d(width, width), Conv2d(width, wider, stride=2)]
        self.blocks = nn.ModuleList(blocks)
        self.conv_out = Conv2d(widths[-1], out_channels)

    def forward(self, picture: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, h, w, out_channels]."""
        x = self.conv_in(picture)
        for block in self.blocks:
            x = block(x, silu=True)
        y: Tensor = self.conv_out(x, silu=True)
        return y


class ControlNetModel(ConditionEncoder):
    """diffusers' ControlNetModel.

    What a picture is embedded as does not depend on the step: `embed_picture` computes it once,
    `evaluate` takes it in every step.
    """

    config_class: ClassVar[type[Any]] = ControlNetConfig

    def __init__(self, config: ControlNetConfig):
        super().__init__(config)
        c = config
        self.controlnet_cond_embedding = _PictureEmbedding(
            c.conditioning_channels,
            c.conditioning_embedding_out_channels,
            c.block_out_channels[0],
        )
        self.controlnet_down_blocks = nn.ModuleList(
            PointwiseConv2d(width, width) for width in c.skip_channels
        )
        self.controlnet_mid_block = PointwiseConv2d(
            c.block_out_channels[-1], c.block_out_channels[-1]
        )
        self._number()

    @inference
    def embed_picture(self, picture: Tensor) -> Tensor:
        """A picture as `evaluate` takes it.

        Args:
            picture: [N, 3, H, W] in [0, 1].

        Returns:
            [N, H / factor, W / factor, C].

        Raises:
            RequestError: for other shapes.
        """
        c: ControlNetConfig = self.config
        fits = picture.dim() == 4 and picture.shape[1] == c.conditioning_channels
        if not fits or any(side < 1 or side % c.factor for side in picture.shape[2:]):
            raise RequestError(
                f"controlnet_cond: expected [N, {c.conditioning_channels}, H, W] with multiples of"
                f" {c.factor}, got {list(picture.shape)}"
            )
        if c.controlnet_conditioning_channel_order == "bgr":
            picture = picture.flip(1)
        x = picture.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()
        with self.arena.use():
            embedded: Tensor = self.controlnet_cond_embedding(x)
            return embedded.clone()

    @inference
    def evaluate(
        self,
        sample: Tensor,
        times: TimeEmbedding,
        context: TextContext,
        pictures: Sequence[Tensor],
        scales: Tensor,
        guess: Sequence[bool],
    ) -> Residuals:
        """What is added to the U-Net's skips and middle; a row does not depend on the others.

        Args:
            sample, times, context: as UNet2DConditionModel.evaluate takes them, N rows.
            pictures: one, as embedded, of N rows.
            scales: [N, 1], what the result counts in each row.
            guess: of each row, whether it is in guess mode, where the finer skips count less.

        Returns:
            [N, H, W, C] each.
        """
        x, given = self._prepared(sample, times, context, None)
        with self.arena.use():
            return self._residuals(self._entry(x, pictures[0]), given, scales[:, 0], guess)

    def _entry(self, x: Tensor, picture: Tensor) -> Tensor:
        """The first activations, with the picture."""
        if picture.shape[:3] != x.shape[:3]:
            (n, h, w), (n2, h2, w2) = x.shape[:3], picture.shape[:3]
            raise RequestError(
                f"controlnet_cond: expected {n} pictures that make {h}x{w}, got {n2} of {h2}x{w2}"
            )
        y: Tensor = self.conv_in(x, residual=picture)
        return y

    def _residuals(
        self, x: Tensor, given: Conditioning, scales: Tensor, guess: Sequence[bool]
    ) -> Residuals:
        """From the first activations x [N, H, W, C]; scales: [N]."""
        skips = [x]
        for block in self.down_blocks:
            x = block(x, given, skips)
        if self.mid_block is not None:
            x = self.mid_block(x, given)
        made = [layer(skip) for layer, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        made.append(self.controlnet_mid_block(x))
        if self.config.global_pool_conditions:
            guess = [False] * len(scales)
        factors = _factors(scales, guess, len(made), x.dtype, x.device)
        made = [y if f is None else y * f for y, f in zip(made, factors, strict=True)]
        if self.config.global_pool_conditions:
            made = [_pooled(y) for y in made]
        return Residuals(tuple(made[:-1]), made[-1])

    @inference
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """As diffusers' ControlNetModel is called.

        Args:
            sample: [N, in_channels, H, W].
            timestep: a number or [N].
            encoder_hidden_states: [N, L, C].
            controlnet_cond: [N, 3, H * factor, W * factor] in [0, 1].
            conditioning_scale: what the result is multiplied by.
            class_labels, added_cond_kwargs: as UNet2DConditionModel's.
            guess_mode: whether the finer skips count less.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            down_block_res_samples and mid_block_res_sample, [N, C, H, W] each.

        Raises:
            RequestError: for what does not fit the config.
        """
        picture = self.embed_picture(controlnet_cond)
        x, given = self._prepared(
            sample, timestep, encoder_hidden_states, added_cond_kwargs, class_labels
        )
        scales = torch.full((len(sample),), float(conditioning_scale))
        with self.arena.use():
            found = self._residuals(
                self._entry(x, picture), given, scales, [guess_mode] * len(sample)
            )
            return control_output(found, return_dict)


def control_output(
    found: Residuals, return_dict: bool
) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
    """Residuals in diffusers' form."""
    assert found.mid is not None
    down, mid = tuple(map(to_nchw, found.skips)), to_nchw(found.mid)
    return ControlNetOutput(down, mid) if return_dict else (down, mid)


def _factors(
    scales: Tensor, guess: Sequence[bool], count: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor | None]:
    """[N, 1, 1, 1] for each of `count` results; None where all are 1."""
    rising = torch.logspace(-1, 0, count) if any(guess) else torch.ones(count)
    columns = torch.ones(len(scales), count)
    for row, guesses in enumerate(guess):
        if guesses:
            columns[row] = rising
    columns = columns * scales.cpu().float()[:, None]
    return [
        None if bool((column == 1).all()) else column.to(device, dtype).view(-1, 1, 1, 1)
        for column in columns.unbind(1)
    ]


def mean_of_pixels(x: Tensor) -> Tensor:
    """[N, C] from [N, H, W, C]: as a product with a matrix, since how torch sums depends on the
    rows beside and on the number of threads.
    """
    wide = x if x.dtype.itemsize > 2 else x.float()
    columns = wide.flatten(1, 2).transpose(1, 2).contiguous()
    ones = torch.ones(1, columns.shape[2], dtype=wide.dtype, device=x.device)
    total: Tensor = ops.linear(columns, ones)[..., 0]
    return (total / columns.shape[2]).to(x.dtype)


def _pooled(x: Tensor) -> Tensor:
    """Every pixel the mean of all."""
    return mean_of_pixels(x)[:, None, None].expand(x.shape).contiguous()
