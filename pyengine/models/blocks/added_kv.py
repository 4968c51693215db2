"""Attention to a text and to the picture at once: DeepFloyd IF's, unCLIP's, Kandinsky's.

The text's keys and values, of projections of their own, lie before the picture's in one softmax.
Nichol et al. 2021, arXiv:2112.10741, section 3.1 (GLIDE).
"""

from torch import Tensor, nn

from ... import ops
from ...layers import Fused, GroupNorm, Linear, fuse
from ...ops._moves import joined, padded

EPS = 1e-5
#: Groups of the norm over a text, whatever the config says of others.
TEXT_GROUPS = 32


class AddedKVAttention(nn.Module):
    """x + out(attention(q of norm(x), keys of the text and of norm(x))), in the shape of a picture.

    norm_context: whether the text has a group norm before its projections. only_context: the
    picture does not attend to itself.
    """

    #: Which of the context's keys and values are this layer's; the U-Net numbers them.
    slot: int | None = None

    def __init__(
        self,
        channels: int,
        heads: int,
        context_width: int,
        groups: int,
        *,
        norm_context: bool,
        only_context: bool,
    ):
        super().__init__()
        self.heads, self.context_width = heads, context_width
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.norm_cross = GroupNorm(TEXT_GROUPS, context_width, EPS) if norm_context else None
        self.to_q = Linear(channels, channels)
        self.to_k = self.to_v = None
        if not only_context:
            self.to_k = Linear(channels, channels)
            self.to_v = Linear(channels, channels)
        self.add_k_proj = Linear(context_width, channels)
        self.add_v_proj = Linear(context_width, channels)
        self.to_out = nn.ModuleList([Linear(channels, channels)])
        self.to_qkv: Fused | None = None
        self.add_kv: Fused | None = None

    def pack(self) -> None:
        if self.add_kv is None:
            self.add_kv = fuse(self, "add_k_proj", "add_v_proj")
            if self.to_k is not None:
                self.to_qkv = fuse(self, "to_q", "to_k", "to_v")

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The text's, two tensors [N, L, channels], once per prompt; context: [N, L, Cc]."""
        if self.norm_cross is not None:  # over all tokens, padding too
            context = self.norm_cross(context[:, :, None])[:, :, 0]
        if self.add_kv is not None:
            keys, values = self.add_kv(context)
            return keys, values
        return self.add_k_proj(context), self.add_v_proj(context)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """x: [N, H, W, C]; mask: [N, L], added to the scores of the text's tokens."""
        tokens = x.flatten(1, 2)
        norm = self.group_norm.scale_shift(x)
        keys, values = keys_values
        if self.to_qkv is not None:
            q, own_keys, own_values = self.to_qkv(tokens, **norm)
        else:
            q = self.to_q(tokens, **norm)
        if self.to_qkv is not None or self.to_k is not None:
            if self.to_qkv is None and self.to_k is not None and self.to_v is not None:
                own_keys, own_values = self.to_k(tokens, **norm), self.to_v(tokens, **norm)
            keys, values = joined(keys, own_keys), joined(values, own_values)
        if mask is not None:
            mask = padded(mask, keys.shape[1])[:, None, None]
        y: Tensor = self.to_out[0](
            ops.attention(q, keys, values, self.heads, mask=mask), residual=tokens
        )
        return y.view(x.shape)
