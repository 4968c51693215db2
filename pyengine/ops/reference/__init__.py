"""Specifications: every op in plain torch. All backends must equal these; tests hold them to it."""

from .attention import attention
from .conv2d import conv2d
from .geglu import geglu
from .group_norm_silu import group_norm_scale_shift, group_norm_silu
from .layer_norm import layer_norm
from .linear import linear
from .sampler_step import COLUMNS, sampler_step

__all__ = [
    "COLUMNS",
    "attention",
    "conv2d",
    "geglu",
    "group_norm_scale_shift",
    "group_norm_silu",
    "layer_norm",
    "linear",
    "sampler_step",
]
