"""CLIP's tower for pictures, with its projection into the space that texts share.

Radford et al. 2021, arXiv:2103.00020; Dosovitskiy et al. 2021, arXiv:2010.11929. What pictures go
through before it: pyengine.clip_pictures.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear, WideEmbedding
from ...weights import read_config
from ...weights.config import ignored_in, ignoring
from ..base import TRANSFORMERS_KEYS, Model, Output, raise_problems
from ..blocks.clip import CLIPEncoder

_TRAINING = {"attention_dropout", "dropout", "initializer_factor", "initializer_range"}
#: Patches of one picture: 64 x 64 of the largest published model is 1,024.
MAX_PATCHES = 1 << 16


def _bounds(low: float, high: float) -> dict[str, float]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class CLIPVisionConfig:
    """image_encoder/config.json; defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | _TRAINING

    hidden_size: int = field(default=768, metadata=_bounds(1, 16384))
    intermediate_size: int = field(default=3072, metadata=_bounds(1, 65536))
    projection_dim: int = field(default=512, metadata=_bounds(1, 16384))
    num_hidden_layers: int = field(default=12, metadata=_bounds(1, 128))
    num_attention_heads: int = field(default=12, metadata=_bounds(1, 256))
    num_channels: int = field(default=3, metadata=_bounds(1, 64))
    image_size: int = field(default=224, metadata=_bounds(1, 8192))
    patch_size: int = field(default=32, metadata=_bounds(1, 1024))
    hidden_act: Literal["quick_gelu", "gelu", "silu", "swish"] = "quick_gelu"
    layer_norm_eps: float = field(default=1e-5, metadata=_bounds(0, 1))
    model_type: Literal["clip_vision_model"] = "clip_vision_model"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "CLIPVisionConfig":
        """From a vision model's config, or from a whole CLIP's, which holds it as `vision_config`.

        Raises ConfigError that lists every problem.
        """
        if isinstance(d, dict) and isinstance(d.get("vision_config"), dict):
            vision = ignoring(d["vision_config"], ignored_in(d))
            return read_config(cls, vision, f"{where}: vision_config")
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size {self.hidden_size} is no multiple of"
                f" num_attention_heads {self.num_attention_heads}"
            )
        if not 0 < self.side**2 <= MAX_PATCHES:
            problems.append(
                f"patch_size {self.patch_size} cuts image_size {self.image_size} into"
                f" {self.side**2} patches, expected 1 to {MAX_PATCHES}"
            )
        raise_problems(problems)

    @property
    def side(self) -> int:
        """Patches along a side; pixels beyond the last whole one are not seen."""
        return self.image_size // self.patch_size


@dataclass
class CLIPVisionOutput(Output):
    """image_embeds: [N, projection_dim]; last_hidden_state: [N, 1 + patches, hidden_size], before
    the last norm; hidden_states: None, or the embeddings after their norm and every layer's.
    """

    image_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class _Patches(Linear):
    """A convolution whose stride is its size, as a Linear over patches; saved as [out, C, p, p]."""

    def __init__(self, channels: int, out_features: int, patch: int):
        self.channels, self.patch = channels, patch
        super().__init__(channels * patch * patch, out_features, bias=False)

    def _saved_shape(self) -> tuple[int, ...]:
        return self.out_features, self.channels, self.patch, self.patch

    def cut(self, pictures: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, patches, C * p * p], row by row."""
        p, (n, channels) = self.patch, pictures.shape[:2]
        rows, columns = (size // p for size in pictures.shape[2:])
        whole = pictures[:, :, : rows * p, : columns * p]
        cut = whole.reshape(n, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(n, rows * columns, channels * p * p)


class _Embeddings(nn.Module):
    def __init__(self, c: CLIPVisionConfig):
        super().__init__()
        self.side = c.side
        empty = torch.empty(c.hidden_size, device="meta")
        self.class_embedding = nn.Parameter(empty, requires_grad=False)
        self.patch_embedding = _Patches(c.num_channels, c.hidden_size, c.patch_size)
        self.position_embedding = WideEmbedding(c.side**2 + 1, c.hidden_size)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embedding(self.patch_embedding.cut(pictures))
        first = self.class_embedding.expand(len(patches), 1, -1)
        size = tuple(length // self.patch_embedding.patch for length in pictures.shape[2:])
        return torch.cat([first, patches], dim=1) + self._positions(size)

    def _positions(self, size: tuple[int, ...]) -> Tensor:
        """[1 + patches, hidden_size] of a grid of patches; of another than the model's, bicubic
        between its own, in plain torch.
        """
        table = self.position_embedding.weight
        if size == (self.side, self.side):
            return table
        grid = table[1:].view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=size, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], grid[0].flatten(1).T])


class _Tower(nn.Module):
    """Everything but the projection; saved as `vision_model.*`."""

    def __init__(self, c: CLIPVisionConfig):
        super().__init__()
        self.embeddings = _Embeddings(c)
        # So it is spelled in checkpoints.
        self.pre_layrnorm = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.encoder = CLIPEncoder(
            c.num_hidden_layers,
            c.hidden_size,
            c.num_attention_heads,
            c.intermediate_size,
            c.hidden_act,
            c.layer_norm_eps,
            causal=False,
        )
        self.post_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(pooled [N, hidden_size], states) of pictures [N, C, H, W]."""
        states: list[Tensor] = self.encoder(self.pre_layrnorm(self.embeddings(pictures)))
        pooled: Tensor = self.post_layernorm(states[-1][:, 0].contiguous())
        return pooled, states


class CLIPVisionModelWithProjection(Model):
    """Pictures to vectors beside which texts' of the same CLIP lie (image_embeds)."""

    config_class = CLIPVisionConfig
    # A CLIP that was saved whole comes with the tower for texts.
    harmless_extra = ("text_model.*", "text_projection.weight")

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.vision_model = _Tower(config)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    @inference
    def forward(
        self,
        pixel_values: Tensor,
        *,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
        return_dict: bool = True,
    ) -> CLIPVisionOutput | tuple[Tensor, ...]:
        """Embeddings of pictures.

        Args:
            pixel_values: [N, num_channels, image_size, image_size], as pyengine.clip_pictures makes
                them.
            output_hidden_states: whether every layer's are in the result, too.
            interpolate_pos_encoding: whether other sizes are taken, too, a patch at least.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            image_embeds [N, P] and last_hidden_state [N, L, C].

        Raises:
            RequestError: for other shapes.
        """
        c = self.config
        shape = tuple(pixel_values.shape)
        wanted = (c.num_channels, c.image_size, c.image_size)
        fits = len(shape) == 4 and shape[0] > 0 and shape[1] == c.num_channels
        if interpolate_pos_encoding:
            fits = fits and min(shape[2:]) >= c.patch_size
        if not fits or (not interpolate_pos_encoding and shape[1:] != wanted):
            least = f"H, W] of at least {c.patch_size} pixels each"
            sizes = least if interpolate_pos_encoding else f"{c.image_size}, {c.image_size}]"
            raise RequestError(
                f"pixel_values: expected [N, {c.num_channels}, {sizes}, got {list(shape)}"
            )
        pictures = pixel_values.to(device=self.device, dtype=self.dtype)
        pooled, states = self.vision_model(pictures)
        kept = tuple(states) if output_hidden_states else None
        out = CLIPVisionOutput(self.visual_projection(pooled), states[-1], kept)
        return out if return_dict else out.to_tuple()
