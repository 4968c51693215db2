"""ControlNet++: one network for several kinds of pictures, of which it may be shown some at once.

github.com/xinsir6/ControlNetPlus, whose networks are those of ControlNet (Zhang, Rao, Agrawala
2023, arXiv:2302.05543) for SDXL, with a transformer over the means of what it is shown.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear
from ..blocks.embeddings import TimestepEmbedding
from ..unet.blocks import Residuals
from ..unet.context import TextContext, TimeEmbedding
from .config import ControlNetUnionConfig
from .controlnet import ControlNetModel, ControlNetOutput, control_output, mean_of_pixels

#: Where `embed_timesteps` finds the kinds [N, num_control_type] among added_cond_kwargs.
KINDS = "control_type"
#: Rows of an evaluation that are one picture's (its conditions); of all pictures.
Groups = Sequence[Sequence[int]]


class _Attention(nn.Module):
    """Multi-head attention, saved as torch's nn.MultiheadAttention is."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = _empty(3 * width, width)
        self.in_proj_bias = _empty(3 * width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """x: [N, L, C] -> [N, L, C]. The published networks attend from one row of the batch to the
        others, position by position, since they give torch's attention, which takes the batch
        second, a batch that comes first. So the rows that see each other are those of a picture.
        """
        qkv = ops.linear(x, self.in_proj_weight, self.in_proj_bias)
        y = torch.empty_like(x)
        for size in sorted({len(rows) for rows in groups}):
            own = torch.tensor([rows for rows in groups if len(rows) == size], device=x.device)
            # [pictures, size, L, 3 C] -> [pictures * L, size, 3 C]
            tokens = qkv[own].transpose(1, 2).flatten(0, 1).contiguous()
            q, k, v = tokens.chunk(3, dim=-1)
            seen = ops.attention(q, k, v, self.heads)
            y[own] = seen.view(len(own), x.shape[1], size, -1).transpose(1, 2)
        out: Tensor = self.out_proj(y)
        return out


class _MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.c_proj(self.c_fc(x, activation="quick_gelu"), residual=residual)
        return y


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = _Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = _MLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        x = x + self.attn(self.ln_1(x), groups)
        x = self.mlp(self.ln_2(x), residual=x)
        return x


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class ControlNetUnionModel(ControlNetModel):
    """diffusers' ControlNetUnionModel."""

    config_class: ClassVar[type[Any]] = ControlNetUnionConfig

    def __init__(self, config: ControlNetUnionConfig):
        super().__init__(config)
        c = config
        width = c.num_trans_channel
        self.task_embedding = _empty(c.num_control_type, width)
        # So it is spelled in checkpoints.
        self.transformer_layes = nn.ModuleList(
            _Layer(width, c.num_trans_head) for _ in range(c.num_trans_layer)
        )
        self.spatial_ch_projs = Linear(width, c.num_proj_channel)
        assert c.addition_time_embed_dim is not None
        self.control_add_embedding = TimestepEmbedding(
            c.addition_time_embed_dim * c.num_control_type, c.time_dim
        )

    def kinds(self, modes: Sequence[int], rows: int) -> Tensor:
        """Which kinds of pictures are shown.

        Args:
            modes: kinds of pictures, from 0 on.
            rows: how many.

        Returns:
            [rows, num_control_type] of 0 and 1.

        Raises:
            RequestError: for a kind that there is not.
        """
        count = self.config.num_control_type
        for mode in modes:
            if not 0 <= mode < count:
                raise RequestError(f"control_mode: expected 0 to {count - 1}, got {mode}")
        row = torch.zeros(count)
        row[list(modes)] = 1
        return row.expand(rows, -1).contiguous()

    def _added_rows(self, added: dict[str, Tensor] | None) -> Tensor | None:
        kinds = (added or {}).get(KINDS)
        wanted = self.config.num_control_type
        if kinds is None or kinds.dim() != 2 or kinds.shape[1] != wanted:
            found = None if kinds is None else list(kinds.shape)
            raise RequestError(f"{KINDS}: expected [N, {wanted}], got {found}")
        waves = self._sinusoids(kinds.to(self.device), self.config.addition_time_embed_dim)
        rows: Tensor = self.control_add_embedding(waves.flatten(1).to(self.dtype))
        beside = super()._added_rows(added)
        return rows if beside is None else rows + beside

    @inference
    def evaluate(
        self,
        sample: Tensor,
        times: TimeEmbedding,
        context: TextContext,
        pictures: Sequence[Tensor],
        scales: Tensor,
        guess: Sequence[bool],
        modes: Sequence[Sequence[int]] = (),
        groups: Groups = (),
        whole: bool = False,
    ) -> Residuals:
        """As ControlNetModel.evaluate, of one or several pictures a row.

        Args:
            sample, times, context: as UNet2DConditionModel.evaluate takes them, N rows.
            pictures: one or several, as embedded, of N rows each.
            scales: [N, number of pictures].
            guess: of each row, whether it is in guess mode, where the finer skips count less.
            modes: the kinds of each row's pictures.
            groups: the rows of each picture that is drawn, which see each other; unless told, all
                rows.
            whole: whether the first scale counts for the result, as of one picture; else, of
                several, each scales its picture.

        Returns:
            [N, H, W, C] each.
        """
        x, given = self._prepared(sample, times, context, None)
        groups = groups or [range(len(x))]
        with self.arena.use():
            x, last = self._fused(x, pictures, scales, modes, groups, whole)
            return self._residuals(x, given, last, guess)

    def _fused(
        self,
        x: Tensor,
        pictures: Sequence[Tensor],
        scales: Tensor,
        modes: Sequence[Sequence[int]],
        groups: Groups,
        whole: bool,
    ) -> tuple[Tensor, Tensor]:
        """(the first activations with all pictures, what the result counts in each row)."""
        x = self.conv_in(x)
        whole = whole or len(pictures) == 1
        factors = scales.to(x.device, x.dtype)
        tokens, shown = [], []
        for i, picture in enumerate(pictures):
            if picture.shape != x.shape:
                raise RequestError(
                    f"controlnet_cond: expected pictures that make {list(x.shape)},"
                    f" got {list(picture.shape)}"
                )
            of_kind = self.task_embedding[[row[i] for row in modes]]
            token = mean_of_pixels(picture) + of_kind
            if not whole:
                token = token * factors[:, i, None]
                picture = picture * factors[:, i, None, None, None]
            tokens.append(token)
            shown.append(picture)
        tokens.append(mean_of_pixels(x))
        y = torch.stack(tokens, dim=1)
        for layer in self.transformer_layes:
            y = layer(y, groups)
        total = torch.zeros_like(x)
        for i, picture in enumerate(shown):
            shift = self.spatial_ch_projs(y[:, i].contiguous())
            if not whole:
                shift = shift * factors[:, i, None]
            total = total + (picture + shift[:, None, None])
        last = scales[:, 0] if whole else torch.ones(len(x))
        return x + total, last

    @inference
    def forward(  # type: ignore[override]  # diffusers' order
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor],
        control_type: Tensor,
        control_type_idx: Sequence[int],
        conditioning_scale: float | Sequence[float] = 1.0,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        from_multi: bool = False,
        guess_mode: bool = False,
        return_dict: bool = True,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """As diffusers' ControlNetUnionModel is called: all rows see each other.

        Args:
            sample: [N, in_channels, H, W].
            timestep: a number or [N].
            encoder_hidden_states: [N, L, C].
            controlnet_cond: pictures [N, 3, H * factor, W * factor] in [0, 1].
            control_type: [N, num_control_type] of 0 and 1: the kinds that are shown.
            control_type_idx: the kind of each picture.
            conditioning_scale: what the result is multiplied by, or one for each picture.
            class_labels, added_cond_kwargs: as UNet2DConditionModel's.
            from_multi: as diffusers' MultiControlNet sets it: conditioning_scale is then the
                result's.
            guess_mode: whether the finer skips count less.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            down_block_res_samples and mid_block_res_sample, [N, C, H, W] each.

        Raises:
            RequestError: for what does not fit the config.
        """
        pictures = [self.embed_picture(picture) for picture in controlnet_cond]
        if isinstance(conditioning_scale, int | float):
            conditioning_scale = [conditioning_scale] * len(pictures)
        if not len(pictures) == len(control_type_idx) == len(conditioning_scale):
            raise RequestError(
                "controlnet_cond: expected as many as control_type_idx and"
                f" conditioning_scale, got {len(pictures)}"
            )
        n = len(sample)
        self.kinds(control_type_idx, n)  # which checks them
        added = {**(added_cond_kwargs or {}), KINDS: control_type}
        x, given = self._prepared(sample, timestep, encoder_hidden_states, added, class_labels)
        scales = torch.tensor([float(s) for s in conditioning_scale]).expand(n, -1)
        modes = [tuple(control_type_idx)] * n
        with self.arena.use():
            x, last = self._fused(x, pictures, scales, modes, [range(n)], from_multi)
            found = self._residuals(x, given, last, [guess_mode] * n)
            return control_output(found, return_dict)
