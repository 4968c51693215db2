"""UVit2DModel: the transformer of aMUSEd, which predicts masked codebook tokens of a picture.

Patil et al. 2024, arXiv:2401.01808 (aMUSEd); Chang et al. 2023, arXiv:2301.00704 (Muse);
Hoogeboom et al. 2023, arXiv:2301.11093 (U-ViT).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Linear, RMSNorm
from .._ids import check_range
from ..base import Model
from ..blocks.embeddings import sinusoids
from .uvit_blocks import Block, ConditionEmbedding, Embed, Head, TransformerLayer
from .uvit_config import MICRO_CONDITIONS, UVit2DConfig


@dataclass
class UVitContext:
    """What the model is told besides tokens, per block and layer: made once, used in every step.

    Every tensor has a row for each of `rows`.
    """

    down: list[Any]
    layers: list[Any]
    up: list[Any]
    rows: int

    def tensors(self) -> list[Tensor]:
        """All that is in it, in order."""
        return _leaves([self.down, self.layers, self.up])

    def over(self, tensors: Sequence[Tensor]) -> "UVitContext":
        """The context that has these tensors, of any number of rows."""
        down, layers, up = _filled([self.down, self.layers, self.up], iter(tensors))
        return UVitContext(down, layers, up, len(tensors[0]))

    def layout(self) -> "UVitContext":
        """One to call `over` of, without the memory of this one."""
        return self.over([tensor.to("meta") for tensor in self.tensors()])


class UVit2DModel(Model):
    """diffusers' UVit2DModel: logits of every token of a picture from those that are known."""

    config_class = UVit2DConfig

    def __init__(self, config: UVit2DConfig):
        super().__init__(config)
        c = config
        affine, eps, bias = c.ln_elementwise_affine, c.layer_norm_eps, c.use_bias
        self.encoder_proj = Linear(c.encoder_hidden_size, c.hidden_size, bias=bias)
        self.encoder_proj_layer_norm = RMSNorm(c.hidden_size, eps, affine)
        self.embed = Embed(c)
        self.cond_embed = ConditionEmbedding(c)
        self.down_block = Block(c, c.downsample, False)
        self.project_to_hidden_norm = RMSNorm(c.block_out_channels, eps, affine)
        self.project_to_hidden = Linear(c.block_out_channels, c.hidden_size, bias=bias)
        self.transformer_layers = nn.ModuleList(
            TransformerLayer(c) for _ in range(c.num_hidden_layers)
        )
        self.project_from_hidden_norm = RMSNorm(c.hidden_size, eps, affine)
        self.project_from_hidden = Linear(c.hidden_size, c.block_out_channels, bias=bias)
        self.up_block = Block(c, False, c.upsample)
        self.mlm_layer = Head(c)

    @inference
    def encode_context(
        self, encoder_hidden_states: Tensor, pooled_text_emb: Tensor, micro_conds: Tensor
    ) -> UVitContext:
        """What `logits` is told besides tokens.

        Args:
            encoder_hidden_states: [N, L, encoder_hidden_size].
            pooled_text_emb: [N, cond_embed_dim].
            micro_conds: [N, 5]: width, height, crop (2), aesthetic score.
        """
        c, n = self.config, len(encoder_hidden_states)
        for name, tensor, shape in (
            ("encoder_hidden_states", encoder_hidden_states, (n, None, c.encoder_hidden_size)),
            ("pooled_text_emb", pooled_text_emb, (n, c.cond_embed_dim)),
            ("micro_conds", micro_conds, (n, MICRO_CONDITIONS)),
        ):
            _check_shape(name, tensor, shape)
        text = encoder_hidden_states.to(self.device, self.dtype)
        text = self.encoder_proj_layer_norm(self.encoder_proj(text))
        waves = sinusoids(micro_conds.to(self.device), c.micro_cond_encode_dim, True, 0)
        pooled = pooled_text_emb.to(self.device, self.dtype)
        condition = torch.cat([pooled, waves.flatten(1).to(self.dtype)], dim=1)
        condition = F.silu(self.cond_embed(condition))
        return UVitContext(
            self.down_block.conditions(text, condition),
            [
                cast(TransformerLayer, layer).conditions(text, condition)
                for layer in self.transformer_layers
            ],
            self.up_block.conditions(text, condition),
            n,
        )

    @inference
    def logits(self, input_ids: Tensor, context: UVitContext) -> Tensor:
        """Logits of every token of pictures.

        Args:
            input_ids: [N, h, w], integers below vocab_size.
            context: of `encode_context`.

        Returns:
            [N, h, w, codebook_size].
        """
        x = self.embed(self._checked(input_ids, context))
        x = self.down_block(x, context.down)
        n, height, width, channels = x.shape
        x = self.project_to_hidden(self.project_to_hidden_norm(x.view(n, height * width, channels)))
        for layer, conditions in zip(self.transformer_layers, context.layers, strict=True):
            x = layer(x, conditions)
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = self.up_block(x.view(n, height, width, channels), context.up)
        logits: Tensor = self.mlm_layer(x)
        return logits

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        pooled_text_emb: Tensor,
        micro_conds: Tensor,
    ) -> Tensor:
        """Logits of every token of pictures.

        Args:
            input_ids: [N, h, w], integers below vocab_size.
            encoder_hidden_states, pooled_text_emb, micro_conds: as `encode_context` takes them.

        Returns:
            [N, codebook_size, h, w].
        """
        context = self.encode_context(encoder_hidden_states, pooled_text_emb, micro_conds)
        return self.logits(input_ids, context).permute(0, 3, 1, 2).contiguous()

    def _checked(self, ids: Tensor, context: UVitContext) -> Tensor:
        n, multiple, vocab = context.rows, self.config.multiple, self.config.vocab_size
        shaped = ids.dim() == 3 and len(ids) == n and ids.numel() and not ids.is_floating_point()
        if not shaped or any(size % multiple for size in ids.shape[1:]):
            even = " (even)" if multiple > 1 else ""
            raise RequestError(
                f"input_ids: expected integers [{n}, h, w]{even}, got {ids.dtype} {list(ids.shape)}"
            )
        check_range("input_ids", ids, vocab)
        return ids.to(self.device)


def _leaves(part: Any) -> list[Tensor]:
    """The tensors in lists and tuples in one another."""
    if isinstance(part, list | tuple):
        return [leaf for item in part for leaf in _leaves(item)]
    return [part]


def _filled(part: Any, tensors: Iterator[Tensor]) -> Any:
    """The same lists and tuples with other tensors."""
    if isinstance(part, list | tuple):
        return type(part)(_filled(item, tensors) for item in part)
    return next(tensors)


def _check_shape(name: str, tensor: Tensor, shape: tuple[Any, ...]) -> None:
    fits = tensor.dim() == len(shape) and all(
        want in (None, size) for size, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits or not tensor.numel():
        wanted = ", ".join("L" if size is None else str(size) for size in shape)
        raise RequestError(f"{name}: expected [{wanted}], got {list(tensor.shape)}")
