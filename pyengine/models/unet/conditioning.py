"""What a U-Net makes of texts and pictures' embeddings before its blocks.

Projections (encoder_hid_proj) make tokens that its attentions read; embeddings (add_embedding) are
added to the time's. Names are diffusers'.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...layers import Conv2d, LayerNorm, Linear
from ..blocks.embeddings import TimestepEmbedding, sinusoids

if TYPE_CHECKING:
    from .config import UNet2DConditionConfig

#: Tokens that a picture's embedding becomes: diffusers' TextImageProjection and ImageProjection.
TEXT_IMAGE_TOKENS = 10
IMAGE_TOKENS = 32
#: Of a hint beside the sample, and its pixels for each of the sample's along a side.
HINT_CHANNELS, HINT_FACTOR = 4, 8


class TextImageProjection(nn.Module):
    """A picture's embedding as tokens before those of a text (Kandinsky 2.1)."""

    def __init__(self, text_dim: int, image_dim: int, width: int):
        super().__init__()
        self.image_embeds = Linear(image_dim, TEXT_IMAGE_TOKENS * width)
        self.text_proj = Linear(text_dim, width)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """text: [N, L, text_dim], image: [N, image_dim] -> [N, 10 + L, width]."""
        tokens = self.image_embeds(image).view(len(image), TEXT_IMAGE_TOKENS, -1)
        return torch.cat([tokens, self.text_proj(text)], dim=1)


class ImageProjection(nn.Module):
    """A picture's embedding as tokens (Kandinsky 2.2)."""

    def __init__(self, image_dim: int, width: int):
        super().__init__()
        self.image_embeds = Linear(image_dim, IMAGE_TOKENS * width)
        self.norm = LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """[N, image_dim] -> [N, 32, width]."""
        tokens: Tensor = self.norm(self.image_embeds(image).view(len(image), IMAGE_TOKENS, -1))
        return tokens


class _AttentionPooling(nn.Module):
    """One row for a text: attention from the mean of its tokens to it and them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        empty = torch.empty(1, width, device="meta")
        self.positional_embedding = nn.Parameter(empty, requires_grad=False)
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] -> [N, width]."""
        # Token by token: how torch sums a dimension depends on the numbers beside it.
        total = x[:, 0].float()
        for token in x.unbind(1)[1:]:
            total = total + token
        mean = (total / x.shape[1]).to(x.dtype)[:, None] + self.positional_embedding
        x = torch.cat([mean, x], dim=1)
        q, k, v = self.q_proj(mean), self.k_proj(x), self.v_proj(x)
        return ops.attention(q, k, v, self.heads)[:, 0]


class TextTimeEmbedding(nn.Module):
    """A text's tokens as one row beside the time's (DeepFloyd IF)."""

    def __init__(self, text_dim: int, time_dim: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm(text_dim)
        self.pool = _AttentionPooling(text_dim, heads)
        self.proj = Linear(text_dim, time_dim)
        self.norm2 = LayerNorm(time_dim)

    def forward(self, text: Tensor) -> Tensor:
        """[N, L, text_dim] -> [N, time_dim]."""
        row: Tensor = self.norm2(self.proj(self.pool(self.norm1(text)).contiguous()))
        return row


class TextImageTimeEmbedding(nn.Module):
    """A text's and a picture's embedding beside the time's (Kandinsky 2.1)."""

    def __init__(self, text_dim: int, image_dim: int, time_dim: int):
        super().__init__()
        self.text_proj = Linear(text_dim, time_dim)
        self.text_norm = LayerNorm(time_dim)
        self.image_proj = Linear(image_dim, time_dim)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """[N, text_dim], [N, image_dim] -> [N, time_dim]."""
        row: Tensor = self.image_proj(image) + self.text_norm(self.text_proj(text))
        return row


class ImageTimeEmbedding(nn.Module):
    """A picture's embedding beside the time's (Kandinsky 2.2)."""

    def __init__(self, image_dim: int, time_dim: int):
        super().__init__()
        self.image_proj = Linear(image_dim, time_dim)
        self.image_norm = LayerNorm(time_dim)

    def forward(self, image: Tensor) -> Tensor:
        """[N, image_dim] -> [N, time_dim]."""
        row: Tensor = self.image_norm(self.image_proj(image))
        return row


class ImageHintTimeEmbedding(ImageTimeEmbedding):
    """The same, and a picture that is put beside the sample (Kandinsky 2.2's ControlNet)."""

    def __init__(self, image_dim: int, time_dim: int):
        super().__init__(image_dim, time_dim)
        self.input_hint_block = _HintBlock()


class _HintBlock(nn.Module):
    """diffusers' nn.Sequential: 3x3 convolutions with SiLU between them."""

    #: Output channels and stride of each.
    LAYERS = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2), (HINT_CHANNELS, 1))

    def __init__(self) -> None:
        super().__init__()
        before = 3
        for i, (channels, stride) in enumerate(self.LAYERS):
            self.add_module(str(2 * i), Conv2d(before, channels, stride=stride))
            before = channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8 h, 8 w, 3] -> [N, h, w, HINT_CHANNELS]."""
        for i, layer in enumerate(self.children()):
            x = layer(x, silu=i > 0)
        return x


# --- by config ------------------------------------------------------------------------------------


def encoder_hid_proj(c: "UNet2DConditionConfig") -> nn.Module | None:
    """What the text goes through before the attentions read it."""
    # The config checks that there is one width where there is a projection.
    width: Any = c.cross_attention_dim
    dim = c.encoder_hid_dim
    if c.projection is None or dim is None:
        return None
    if c.projection == "text_proj":
        return Linear(dim, width)
    if c.projection == "image_proj":
        return ImageProjection(dim, width)
    return TextImageProjection(dim, width, width)


def add_embedding(c: "UNet2DConditionConfig") -> nn.Module | None:
    """What is added to the time's embedding."""
    kind, width = c.addition_embed_type, c.time_dim
    text: Any = c.cross_attention_dim
    if kind == "text":
        return TextTimeEmbedding(c.encoder_hid_dim or text, width, c.addition_embed_type_num_heads)
    if kind == "text_image":
        return TextImageTimeEmbedding(text, text, width)
    if kind == "image" and c.encoder_hid_dim is not None:
        return ImageTimeEmbedding(c.encoder_hid_dim, width)
    if kind == "image_hint" and c.encoder_hid_dim is not None:
        return ImageHintTimeEmbedding(c.encoder_hid_dim, width)
    if kind == "text_time" and c.projection_class_embeddings_input_dim is not None:
        return TimestepEmbedding(c.projection_class_embeddings_input_dim, width)
    return None


#: Values of addition_embed_type for what encoder_hid_dim tells the width of.
_PROJECTED = ("text", "image", "image_hint")
#: What addition_embed_type takes out of added_cond_kwargs.
_ADDED = {
    "text_time": ("text_embeds", "time_ids"),
    "text": ("encoder_hidden_states",),
    "text_image": ("image_embeds", "text_embeds"),
    "image": ("image_embeds",),
    "image_hint": ("image_embeds",),
}


def added_rows(
    module: nn.Module,
    c: "UNet2DConditionConfig",
    added: Mapping[str, Tensor] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """[N, time_dim], what add_embedding makes of added_cond_kwargs.

    SDXL's pooled text [N, C] and its six sizes [N, 6]; IF's text [N, L, C]; Kandinsky's embeddings
    [N, C]. Raises RequestError for what is missing or has another shape.
    """
    names = _ADDED[str(c.addition_embed_type)]
    missing = [name for name in names if (added or {}).get(name) is None]
    if missing or added is None:
        raise RequestError(f"added_cond_kwargs: this model needs {' and '.join(missing)}")
    given = [added[name].to(device) for name in names]
    rows: Tensor
    if isinstance(module, TimestepEmbedding):
        rows = module(_with_sizes(module, c, *given, dtype=dtype))
        return rows
    width = c.encoder_hid_dim if c.addition_embed_type in _PROJECTED else None
    width = width or c.cross_attention_dim  # type: ignore[assignment] # one: the config checks
    shape = "[N, L, {}]" if c.addition_embed_type == "text" else "[N, {}]"
    for name, tensor in zip(names, given, strict=True):
        if tensor.dim() != shape.count(",") + 1 or tensor.shape[-1] != width:
            raise RequestError(f"{name}: expected {shape.format(width)}, got {list(tensor.shape)}")
    image_last = reversed(given) if c.addition_embed_type == "text_image" else given
    rows = module(*(t.to(dtype).contiguous() for t in image_last))
    return rows


def _with_sizes(
    module: TimestepEmbedding,
    c: "UNet2DConditionConfig",
    text: Tensor,
    sizes: Tensor,
    *,
    dtype: torch.dtype,
) -> Tensor:
    assert c.addition_time_embed_dim is not None
    waves = sinusoids(sizes, c.addition_time_embed_dim, c.flip_sin_to_cos, c.freq_shift).flatten(1)
    expected = module.linear_1.in_features
    if text.dim() != 2 or sizes.dim() != 2 or text.shape[1] + waves.shape[1] != expected:
        raise RequestError(
            f"added_cond_kwargs: text_embeds {list(text.shape)} and time_ids"
            f" {list(sizes.shape)} at {c.addition_time_embed_dim} each do not make"
            f" up projection_class_embeddings_input_dim {expected}"
        )
    return torch.cat([text.to(dtype), waves.to(dtype)], dim=-1)
