"""The operations: one name each, with a specification, its backends and its checks.

Pictures are [N, H, W, C], tokens [N, L, C]. Each op is also torch.ops.pyengine.<name>, which is how
torch.compile sees it. `with force("reference"):` chooses a backend, `with kernels_used() as used:`
says what ran.
"""

from ._backend import force, kernels_used
from ._core import isa, isas, openmp_runtimes
from ._memory import Arena
from ._pack import PANEL, pack_filters, pack_weight, unpack_weight
from ._registry import OPS, backends
from .attention import attention
from .conv2d import conv2d
from .geglu import geglu
from .group_norm_silu import group_norm_scale_shift, group_norm_silu
from .layer_norm import layer_norm
from .linear import linear
from .reference import COLUMNS
from .sampler_step import sampler_step

__all__ = [
    "COLUMNS",
    "OPS",
    "PANEL",
    "Arena",
    "attention",
    "backends",
    "conv2d",
    "force",
    "geglu",
    "group_norm_scale_shift",
    "group_norm_silu",
    "isa",
    "isas",
    "kernels_used",
    "layer_norm",
    "linear",
    "openmp_runtimes",
    "pack_filters",
    "pack_weight",
    "sampler_step",
    "unpack_weight",
]
