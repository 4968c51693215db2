"""transformer/config.json of aMUSEd, checked: see uvit.py."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...weights import read_config
from ..base import raise_problems

#: Sizes that a picture is described by: width, height, crop (2), aesthetic score.
MICRO_CONDITIONS = 5


def _bounds(low: float, high: float) -> dict[str, Any]:
    return {"min": low, "max": high}


_WIDTH = _bounds(1, 16384)


@dataclass(frozen=True)
class UVit2DConfig:
    """transformer/config.json; names and defaults are diffusers'."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UVit2DModel",)
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"hidden_dropout", "attention_dropout"})

    hidden_size: int = field(default=1024, metadata=_WIDTH)
    use_bias: bool = False
    cond_embed_dim: int = field(default=768, metadata=_WIDTH)
    micro_cond_encode_dim: int = field(default=256, metadata=_bounds(2, 16384))
    micro_cond_embed_dim: int = field(default=1280, metadata=_bounds(1, 1 << 17))
    encoder_hidden_size: int = field(default=768, metadata=_WIDTH)
    vocab_size: int = field(default=8256, metadata=_bounds(2, 1 << 20))
    codebook_size: int = field(default=8192, metadata=_bounds(1, 1 << 20))
    in_channels: int = field(default=768, metadata=_WIDTH)
    block_out_channels: int = field(default=768, metadata=_WIDTH)
    num_res_blocks: int = field(default=3, metadata=_bounds(1, 64))
    downsample: bool = False
    upsample: bool = False
    block_num_heads: int = field(default=12, metadata=_bounds(1, 256))
    num_hidden_layers: int = field(default=22, metadata=_bounds(1, 256))
    num_attention_heads: int = field(default=16, metadata=_bounds(1, 256))
    intermediate_size: int = field(default=2816, metadata=_bounds(1, 65536))
    layer_norm_eps: float = field(default=1e-6, metadata=_bounds(0, 1))
    ln_elementwise_affine: bool = True
    sample_size: int = field(default=64, metadata=_bounds(1, 4096))

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "UVit2DConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        for width, heads in (
            ("hidden_size", "num_attention_heads"),
            ("block_out_channels", "block_num_heads"),
        ):
            if getattr(self, width) % getattr(self, heads):
                problems.append(
                    f"{width} {getattr(self, width)} is no multiple of"
                    f" {heads} {getattr(self, heads)}"
                )
        if self.vocab_size <= self.codebook_size:
            problems.append(
                f"vocab_size {self.vocab_size} leaves no token for the mask beside"
                f" codebook_size {self.codebook_size}"
            )
        if self.micro_cond_embed_dim != MICRO_CONDITIONS * self.micro_cond_encode_dim:
            problems.append(
                f"micro_cond_embed_dim is {self.micro_cond_embed_dim}, expected"
                f" {MICRO_CONDITIONS} times micro_cond_encode_dim {self.micro_cond_encode_dim}"
            )
        if self.downsample != self.upsample:
            problems.append(
                f"downsample is {self.downsample}, but upsample is {self.upsample}: the logits"
                " would not be those of the tokens"
            )
        raise_problems(problems)

    @property
    def multiple(self) -> int:
        """What the height and the width of a picture in tokens must be multiples of."""
        return 2 if self.downsample else 1
