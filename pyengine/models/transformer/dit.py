"""DiT: a transformer over patches of latents, told time and class by adaptive norms (adaLN-zero).

Peebles & Xie 2022, arXiv:2212.09748.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Embedding, LayerNorm, Linear
from ..base import Output
from ..blocks.embeddings import TimestepEmbedding, sinusoids
from ..blocks.transformer import SelfAttention
from ..unet.context import TimeEmbedding
from ..unprompted import UnpromptedModel
from .dit_config import DiTConfig

#: What diffusers gives the norms without parameters, and the width and shift of the sinusoids.
NORM_EPS, WAVES, WAVES_SHIFT = 1e-6, 256, 1.0
ACTIVATIONS = {"gelu-approximate": "gelu_tanh", "gelu": "gelu"}


@dataclass
class DiTOutput(Output):
    """sample: [N, outputs, H, W]: noise, and beside it, with twice in_channels, something of its
    variance.
    """

    sample: Tensor


class _ClassEmbedding(nn.Module):
    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = Embedding(classes + 1, width)


class _Embedding(nn.Module):
    """[..., width] of timesteps and classes. Every block has one of its own."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(WAVES, config.width)
        self.class_embedder = _ClassEmbedding(config.num_embeds_ada_norm, config.width)

    def forward(self, waves: Tensor, labels: Tensor) -> Tensor:
        embedded: Tensor = self.timestep_embedder(waves)
        known: Tensor = self.class_embedder.embedding_table(labels)
        return embedded + known.to(waves.dtype)


class _AdaptiveNorm(nn.Module):
    """A norm without parameters, and what time and class make of it and of the block's results."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.emb = _Embedding(config)
        self.linear = Linear(config.width, 6 * config.width)
        self.norm = LayerNorm(config.width, NORM_EPS, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y

    def modulation(self, waves: Tensor, labels: Tensor) -> Tensor:
        """[..., 6 width]: shift, 1 + scale and gate of the attention, then of the feed-forward."""
        six = self.linear(self.emb(waves, labels), silu=True).unflatten(-1, (6, -1))
        made: Tensor = torch.cat(
            [part + 1 if i % 3 == 1 else part for i, part in enumerate(six.unbind(-2))], dim=-1
        )
        return made


class _Projection(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = Linear(width, inner)


class _FeedForward(nn.Module):
    def __init__(self, width: int, activation: str):
        super().__init__()
        self.activation = activation
        # Number 1 is dropout, which has no tensors and does nothing here.
        self.net = nn.ModuleList(
            [_Projection(width, 4 * width), nn.Identity(), Linear(4 * width, width)]
        )

    def forward(self, x: Tensor, residual: Tensor, gate: Tensor, **norm: Tensor) -> Tensor:
        first, _, last = self.net
        inner = first.proj(x, activation=self.activation, **norm)  # type: ignore[operator]  # a _Projection
        y: Tensor = last(inner, gate=gate, residual=residual)
        return y


class _Block(nn.Module):
    """x + gate attention(norm(x)), then x + gate feed-forward(norm(x))."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.norm1 = _AdaptiveNorm(c)
        self.attn1 = SelfAttention(c.width, c.num_attention_heads, bias=c.attention_bias)
        self.norm3 = LayerNorm(c.width, c.norm_eps, affine=c.norm_elementwise_affine)
        self.ff = _FeedForward(c.width, ACTIVATIONS[c.activation_fn])

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x: [N, L, width]; modulation: [N, 6 width]."""
        shift, scale, gate, shift2, scale2, gate2 = _parts(modulation, 6)
        x = self.attn1(self.norm1(x), residual=x, gate=gate, scale=scale, shift=shift)
        y: Tensor = self.ff(self.norm3(x), residual=x, gate=gate2, scale=scale2, shift=shift2)
        return y


def _parts(rows: Tensor, count: int) -> list[Tensor]:
    """[N, count C] as `count` of [N, C]."""
    return [part.contiguous() for part in rows.chunk(count, dim=1)]


class _Patches(nn.Module):
    """Latents [N, H, W, C] to tokens, a patch each."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.proj = Conv2d(c.in_channels, c.width, c.patch_size, stride=c.patch_size, padding=0)


class DiTTransformer2DModel(UnpromptedModel):
    """diffusers' DiTTransformer2DModel for the configs that dit_config.py accepts."""

    config_class = DiTConfig
    config: DiTConfig
    #: A buffer that some files hold; it is computed from the size.
    harmless_extra = ("pos_embed.pos_embed",)
    #: Timesteps times rows that are embedded together: 28 layers of 6 x 1152 numbers each.
    embedded_rows = 64

    def __init__(self, config: DiTConfig):
        super().__init__(config)
        c = config
        self.pos_embed = _Patches(c)
        self.transformer_blocks = nn.ModuleList(_Block(c) for _ in range(c.num_layers))
        self.norm_out = LayerNorm(c.width, NORM_EPS, affine=False)
        self.proj_out_1 = Linear(c.width, 2 * c.width)
        self.proj_out_2 = Linear(c.width, c.patch_size**2 * c.outputs)
        #: Of the size that came last: ((rows, columns), [rows * columns, width] float32).
        self._last_positions: tuple[tuple[int, int], Tensor] | None = None

    # --- what depends on the schedule and the class alone -----------------------------------------

    def _embed(self, t: Tensor, labels: Tensor | None) -> TimeEmbedding:
        """t: [..., N or 1]."""
        known = self._labels(labels)
        waves = sinusoids(t, WAVES, True, WAVES_SHIFT).to(self.dtype)
        norms = [cast(_Block, block).norm1 for block in self.transformer_blocks]
        blocks = [norm.modulation(waves, known) for norm in norms]
        first = norms[0].emb(waves, known)
        shift, scale = self.proj_out_1(first, silu=True).chunk(2, dim=-1)
        return TimeEmbedding((*blocks, torch.cat([shift, scale + 1], dim=-1)))

    def _labels(self, labels: Tensor | None) -> Tensor:
        most = self.config.num_embeds_ada_norm
        if labels is None:
            raise RequestError("class_labels: this model needs them, got None")
        labels = torch.as_tensor(labels, device=self.device)
        if labels.dim() != 1 or labels.is_floating_point():
            raise RequestError(
                f"class_labels: expected whole numbers [N], got {labels.dtype} {list(labels.shape)}"
            )
        if not labels.is_meta and not 0 <= int(labels.min()) <= int(labels.max()) <= most:
            raise RequestError(
                f"class_labels: expected 0 to {most - 1}, or {most} for none, got {labels.tolist()}"
            )
        return labels

    # --- one evaluation ---------------------------------------------------------------------------

    @inference
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: None = None,
        return_dict: bool = True,
    ) -> DiTOutput | tuple[Tensor]:
        """One evaluation of the network, in its dtype.

        Args:
            hidden_states: [N, in_channels, H, W], H and W multiples of patch_size.
            timestep: a number, [N], or a row of `embed_timesteps`.
            class_labels: [N], num_embeds_ada_norm for none.
            cross_attention_kwargs: None.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, H, W], as `sample` of the result.

        Raises:
            RequestError: for what does not fit the config.
        """
        if cross_attention_kwargs:
            raise RequestError("cross_attention_kwargs: expected None")
        self._check(hidden_states)
        n = len(hidden_states)
        told = self._told(timestep, class_labels).for_pictures(n)
        x = hidden_states.to(device=self.device, dtype=self.dtype)
        with self.arena.use():
            out = self._run(x.permute(0, 2, 3, 1).contiguous(), told)
        return DiTOutput(out) if return_dict else (out,)

    def _check(self, x: Tensor) -> None:
        c = self.config
        if x.dim() != 4 or x.shape[1] != c.in_channels or not x.numel():
            raise RequestError(
                f"hidden_states: expected [N, {c.in_channels}, H, W], got {list(x.shape)}"
            )
        if x.shape[2] % c.patch_size or x.shape[3] % c.patch_size:
            raise RequestError(
                f"hidden_states: expected sides of multiples of {c.patch_size}, got"
                f" {list(x.shape[2:])}"
            )

    def _run(self, x: Tensor, told: Sequence[Tensor]) -> Tensor:
        patches = self.pos_embed.proj(x)
        n, rows, columns, width = patches.shape
        tokens = patches.view(n, rows * columns, width)
        x = (tokens + self._positions(rows, columns)).to(tokens.dtype)
        *modulations, last = told
        for block, modulation in zip(self.transformer_blocks, modulations, strict=True):
            x = block(x, modulation)
        shift, scale = _parts(last, 2)
        x = self.proj_out_2(self.norm_out(x), scale=scale, shift=shift)
        c = self.config
        x = x.view(n, rows, columns, c.patch_size, c.patch_size, c.outputs)
        out = x.permute(0, 5, 1, 3, 2, 4).clone(memory_format=torch.contiguous_format)
        return out.view(n, c.outputs, rows * c.patch_size, columns * c.patch_size)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """[rows * columns, width]: sines and cosines of each patch's column, then of its row."""
        if self._last_positions is None or self._last_positions[0] != (rows, columns):
            base = self.config.sample_size // self.config.patch_size
            along = [self._axis(count, base) for count in (columns, rows)]
            shape = rows, columns, self.config.width // 2
            both = along[0][None].expand(shape), along[1][:, None].expand(shape)
            made = torch.cat(both, dim=2).view(rows * columns, -1).to(self.device)
            self._last_positions = (rows, columns), made
        return self._last_positions[1]

    def _axis(self, count: int, base: int) -> Tensor:
        """[count, width / 2] float32: positions along one side, as wide as in training.

        One position at a time: where torch's vectors end depends on a tensor's size.
        """
        quarter = self.config.width // 4
        omega = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
        at = torch.arange(count, dtype=torch.float32) / (count / base)
        waves = [float(position) * omega for position in at]
        return torch.stack([torch.cat([w.sin(), w.cos()]) for w in waves]).float()
