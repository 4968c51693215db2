"""Specifications: every op in plain torch. All backends must equal these; tests hold them to it."""

from .attention import attention
from .conv2d import conv2d
from .decode_attention import decode_attention
from .geglu import geglu, swiglu
from .group_norm_silu import group_norm_scale_shift, group_norm_silu
from .layer_norm import layer_norm, rms_norm
from .linear import linear
from .mask_refine import mask_refine
from .rotary import rotary, rotary_cache
from .sample_token import SAMPLING_COLUMNS, sample_token
from .sampler_step import COLUMNS, sampler_step
from .vq_argmin import vq_argmin
from .vq_decode import vq_decode

__all__ = [
    "COLUMNS",
    "SAMPLING_COLUMNS",
    "attention",
    "conv2d",
    "decode_attention",
    "geglu",
    "group_norm_scale_shift",
    "group_norm_silu",
    "layer_norm",
    "linear",
    "mask_refine",
    "rms_norm",
    "rotary",
    "rotary_cache",
    "sample_token",
    "sampler_step",
    "swiglu",
    "vq_argmin",
    "vq_decode",
]
