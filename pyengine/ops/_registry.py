"""The list of ops. Declarations, tests and benchmarks go by it."""

from .attention import OP as ATTENTION
from .conv2d import OP as CONV2D
from .decode_attention import OP as DECODE_ATTENTION
from .geglu import OP as GEGLU
from .geglu import SWIGLU
from .group_norm_silu import OP as GROUP_NORM_SILU
from .group_norm_silu import SCALE_SHIFT as GROUP_NORM_SCALE_SHIFT
from .layer_norm import OP as LAYER_NORM
from .layer_norm import RMS_NORM
from .linear import OP as LINEAR
from .mask_refine import OP as MASK_REFINE
from .rotary import OP as ROTARY
from .rotary import ROTARY_CACHE
from .sample_token import OP as SAMPLE_TOKEN
from .sampler_step import OP as SAMPLER_STEP
from .vq_argmin import OP as VQ_ARGMIN
from .vq_decode import OP as VQ_DECODE

OPS = {
    op.name: op
    for op in (
        ATTENTION,
        CONV2D,
        DECODE_ATTENTION,
        GEGLU,
        GROUP_NORM_SCALE_SHIFT,
        GROUP_NORM_SILU,
        LAYER_NORM,
        LINEAR,
        MASK_REFINE,
        RMS_NORM,
        ROTARY,
        ROTARY_CACHE,
        SAMPLE_TOKEN,
        SAMPLER_STEP,
        SWIGLU,
        VQ_ARGMIN,
        VQ_DECODE,
    )
}


def backends() -> list[tuple[str, str, str, str]]:
    """The table: a row (op, device type, backend, why) per entry, in order of preference."""
    return [
        (name, device, row.name, row.why)
        for name, op in OPS.items()
        for device, rows in op.table.items()
        for row in rows
    ]
