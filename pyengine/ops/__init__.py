"""The operations: one name each, with a specification, its backends and its checks.

Pictures are [N, H, W, C], tokens [N, L, C]. Each op is also torch.ops.pyengine.<name>, which is how
torch.compile sees it. `with force("reference"):` chooses a backend, `with kernels_used() as used:`
says what ran.
"""

from ._backend import force, kernels_used
from ._check import unseen, visible
from ._core import isa, isas, openmp_runtimes
from ._memory import Arena, release_free_memory
from ._pack import (
    PANEL,
    pack_filters,
    pack_weight,
    quantize_filters,
    quantize_weight,
    unpack_weight,
)
from ._recordings import Recordings
from ._registry import OPS, backends
from ._replay import Replays
from .attention import attention
from .conv2d import conv2d
from .decode_attention import decode_attention
from .geglu import geglu, swiglu
from .group_norm_silu import group_norm_scale_shift, group_norm_silu
from .layer_norm import layer_norm, rms_norm
from .linear import linear
from .mask_refine import mask_refine, places_to_mask, share_to_mask
from .reference import COLUMNS, SAMPLING_COLUMNS
from .rotary import rotary, rotary_cache, rotary_table
from .sample_token import filter_logits, sample_token, sampling_settings
from .sampler_step import sampler_step
from .vq_argmin import vq_argmin
from .vq_decode import fold_codebook, vq_decode

__all__ = [
    "COLUMNS",
    "OPS",
    "PANEL",
    "SAMPLING_COLUMNS",
    "Arena",
    "Recordings",
    "Replays",
    "attention",
    "backends",
    "conv2d",
    "decode_attention",
    "filter_logits",
    "fold_codebook",
    "force",
    "geglu",
    "group_norm_scale_shift",
    "group_norm_silu",
    "isa",
    "isas",
    "kernels_used",
    "layer_norm",
    "linear",
    "mask_refine",
    "openmp_runtimes",
    "pack_filters",
    "pack_weight",
    "places_to_mask",
    "quantize_filters",
    "quantize_weight",
    "release_free_memory",
    "rms_norm",
    "rotary",
    "rotary_cache",
    "rotary_table",
    "sample_token",
    "sampler_step",
    "sampling_settings",
    "share_to_mask",
    "swiglu",
    "unpack_weight",
    "unseen",
    "visible",
    "vq_argmin",
    "vq_decode",
]
