"""The ops in Triton, for NVIDIA GPUs: one file per op, signatures as in pyengine.ops.reference.

float32, bfloat16 and float16 tensors; sums and arithmetic in float32. Block sizes are
a function of the shape of one picture or row alone, never of the batch or of a timing, so that a
picture's bits depend on nothing beside it. Importing this package imports Triton.
"""

from .attention import attention
from .conv2d import add_epilogue
from .decode_attention import decode_attention
from .geglu import geglu, swiglu
from .group_norm_silu import apply_scale_shift, group_norm_scale_shift, group_norm_silu
from .layer_norm import layer_norm, rms_norm
from .linear import linear
from .mask_refine import mask_refine
from .rotary import rotary, rotary_cache
from .sample_token import sample_token
from .sampler_step import sampler_step
from .vq_argmin import vq_argmin
from .vq_decode import vq_decode

__all__ = [
    "add_epilogue",
    "apply_scale_shift",
    "attention",
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
