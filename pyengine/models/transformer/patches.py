"""A plain transformer over patches of pixels that predicts the clean picture.

Li & He 2025, arXiv:2511.13720: a large patch has more numbers than a narrow network can carry as
noise, but a clean patch has fewer degrees of freedom; so the network predicts the clean sample.
Time and condition are vectors that are added to every patch's token; the condition also gives each
patch a few numbers of its own, which is the short way from a text to a layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear, WideEmbedding
from ...weights import read_config
from ..base import Output, raise_problems
from ..blocks.clip import CLIPEncoder
from ..blocks.embeddings import TimestepEmbedding, sinusoids
from ..unet.context import TimeEmbedding
from ..unprompted import UnpromptedModel

NORM_EPS = 1e-5
_SIZES: dict[str, Any] = {"min": 1, "max": 8192}


@dataclass(frozen=True)
class PatchTransformerConfig:
    """config.json of a PatchTransformer.

    text_encoder: the shipped model whose texts the pipeline reads with. sample_size: of the square
    pictures. in_channels: of the input, what lies beside the noisy
    sample included. out_channels: of the sample. inner: width of the feed-forward. vector_size: of
    the condition. layout: numbers that it gives each patch.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PatchTransformer",)

    text_encoder: Literal["emoji"] = "emoji"
    sample_size: int = field(default=64, metadata=_SIZES)
    patch_size: int = field(default=8, metadata={"min": 1, "max": 64})
    in_channels: int = field(default=3, metadata=_SIZES)
    out_channels: int = field(default=3, metadata=_SIZES)
    width: int = field(default=128, metadata=_SIZES)
    layers: int = field(default=4, metadata={"min": 1, "max": 128})
    heads: int = field(default=4, metadata={"min": 1, "max": 256})
    inner: int = field(default=384, metadata={"min": 1, "max": 65536})
    vector_size: int = field(default=128, metadata=_SIZES)
    layout: int = field(default=16, metadata={"min": 1, "max": 1024})

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "PatchTransformerConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        config: PatchTransformerConfig = read_config(cls, d, where)
        return config

    def __post_init__(self) -> None:
        problems = []
        if self.width % self.heads:
            problems.append(f"width {self.width} is no multiple of heads {self.heads}")
        if self.sample_size % self.patch_size:
            problems.append(
                f"sample_size {self.sample_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.in_channels < self.out_channels:
            problems.append(
                f"in_channels {self.in_channels} are fewer than out_channels {self.out_channels}"
            )
        raise_problems(problems)

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.sample_size // self.patch_size


@dataclass
class PatchOutput(Output):
    """sample: [N, out_channels, H, W], the predicted clean sample."""

    sample: Tensor


class PatchTransformer(UnpromptedModel):
    """Noisy pictures, time and a vector to clean pictures; see the module."""

    config_class = PatchTransformerConfig
    config: PatchTransformerConfig

    def __init__(self, config: PatchTransformerConfig):
        super().__init__(config)
        c = config
        pixels = c.patch_size**2
        self.patch_in = Linear(pixels * c.in_channels, c.width)
        self.positions = WideEmbedding(c.side**2, c.width)
        self.time = TimestepEmbedding(c.width, c.width)
        # Conditions are brought to mean 0 and deviation 1, number by number.
        self.statistics = WideEmbedding(2, c.vector_size)
        self.vector = Linear(c.vector_size, c.width)
        self.layout = Linear(c.vector_size, c.side**2 * c.layout)
        self.layout_in = Linear(c.layout, c.width)
        self.encoder = CLIPEncoder(
            c.layers, c.width, c.heads, c.inner, "gelu", NORM_EPS, causal=False
        )
        self.norm = LayerNorm(c.width, NORM_EPS)
        self.patch_out = Linear(c.width, pixels * c.out_channels)

    def _embed(self, t: Tensor, labels: Tensor | None) -> TimeEmbedding:
        c = self.config
        if labels is None:
            raise RequestError(f"class_labels: expected vectors [N, {c.vector_size}], got None")
        vectors = torch.as_tensor(labels, device=self.device)
        if vectors.dim() != 2 or vectors.shape[1] != c.vector_size:
            raise RequestError(
                f"class_labels: expected vectors [N, {c.vector_size}], got {list(vectors.shape)}"
            )
        time = self.time(sinusoids(t, c.width, True, 0.0).to(self.dtype))
        mean, deviation = self.statistics.weight.float()
        told = ((vectors.float() - mean) / deviation).to(self.dtype)
        both = time + self.vector(told)
        layout = self.layout(told)
        return TimeEmbedding((both, layout.expand(*both.shape[:-1], -1)))

    @inference
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> PatchOutput | tuple[Tensor]:
        """One evaluation of the network, in its dtype.

        Args:
            sample: [N, in_channels, sample_size, sample_size].
            timestep: a number, [N], or a row of `embed_timesteps`.
            class_labels: [N, vector_size], the conditions.
            return_dict: False gives a tuple in place of an object with names.

        Raises:
            RequestError: for what does not fit the config.
        """
        c = self.config
        wanted = (c.in_channels, c.sample_size, c.sample_size)
        if sample.dim() != 4 or tuple(sample.shape[1:]) != wanted or not sample.numel():
            raise RequestError(
                f"sample: expected [N, {str(list(wanted))[1:]}, got {list(sample.shape)}"
            )
        told, layout = self._told(timestep, class_labels).for_pictures(len(sample))
        x = sample.to(device=self.device, dtype=self.dtype)
        with self.arena.use():
            out = self._run(x, told, layout)
        return PatchOutput(out) if return_dict else (out,)

    def _run(self, x: Tensor, told: Tensor, layout: Tensor) -> Tensor:
        c = self.config
        own = layout.reshape(len(x), c.side**2, c.layout).contiguous()
        tokens = self.patch_in(self._cut(x)) + self.layout_in(own)
        tokens = tokens + self.positions.weight.to(x.dtype)
        states: Sequence[Tensor] = self.encoder((tokens + told[:, None]).contiguous())
        return self._joined(self.patch_out(self.norm(states[-1])))

    def _cut(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, patches, C * p * p], row by row."""
        c = self.config
        cut = x.reshape(len(x), c.in_channels, c.side, c.patch_size, c.side, c.patch_size)
        tokens = cut.permute(0, 2, 4, 1, 3, 5).contiguous()
        return tokens.view(len(x), c.side**2, c.in_channels * c.patch_size**2)

    def _joined(self, tokens: Tensor) -> Tensor:
        c = self.config
        cut = tokens.view(len(tokens), c.side, c.side, c.out_channels, c.patch_size, c.patch_size)
        out = cut.permute(0, 3, 1, 4, 2, 5).clone(memory_format=torch.contiguous_format)
        return out.view(len(tokens), c.out_channels, c.sample_size, c.sample_size)
