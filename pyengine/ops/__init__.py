"""The operations: one name each, with a specification, its backends and its checks."""

from .reference import (
    COLUMNS,
    attention,
    conv2d,
    geglu,
    group_norm_scale_shift,
    group_norm_silu,
    layer_norm,
    linear,
    sampler_step,
)

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
