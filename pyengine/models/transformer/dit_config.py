"""transformer/config.json of DiT: its keys, the values that we support, whether they fit."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...weights import read_config
from ..base import raise_problems

_CHANNELS = {"min": 1, "max": 8192}


@dataclass(frozen=True)
class DiTConfig:
    """A diffusers DiTTransformer2DModel config; names and defaults are diffusers'.

    num_embeds_ada_norm: how many classes it knows; one row more stands for none of them. Fields
    that allow a single value are options that we do not have: any other value is an error.
    """

    #: Before diffusers 0.28 the same network was a Transformer2DModel.
    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("DiTTransformer2DModel", "Transformer2DModel")
    #: dropout acts in training only; there is no group norm; upcast_attention asks for a float32
    #: softmax, which ours always is.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "norm_num_groups", "upcast_attention"}
    )

    num_attention_heads: int = field(default=16, metadata={"min": 1, "max": 1024})
    attention_head_dim: int = field(default=72, metadata={"min": 1, "max": 1024})
    in_channels: int = field(default=4, metadata=_CHANNELS)
    out_channels: int | None = field(default=None, metadata=_CHANNELS)
    num_layers: int = field(default=28, metadata={"min": 1, "max": 512})
    attention_bias: bool = True
    sample_size: int = field(default=32, metadata={"min": 1, "max": 8192})
    patch_size: int = field(default=2, metadata={"min": 1, "max": 64})
    activation_fn: Literal["gelu-approximate", "gelu"] = "gelu-approximate"
    num_embeds_ada_norm: int = field(default=1000, metadata={"min": 1, "max": 1_000_000})
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: float = field(default=1e-5, metadata={"min": 0, "max": 1})

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "DiTConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        config: DiTConfig = read_config(cls, d, where)
        return config

    def __post_init__(self) -> None:
        problems = []
        if self.width % 4:
            problems.append(
                f"num_attention_heads {self.num_attention_heads} times attention_head_dim"
                f" {self.attention_head_dim} is {self.width}, expected a multiple of 4 (sines and"
                " cosines of rows and columns)"
            )
        if self.sample_size % self.patch_size:
            problems.append(
                f"sample_size {self.sample_size} is no multiple of patch_size {self.patch_size}"
            )
        raise_problems(problems)

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.in_channels if self.out_channels is None else self.out_channels
