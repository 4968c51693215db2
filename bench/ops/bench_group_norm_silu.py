"""group_norm_silu and group_norm_scale_shift against what a residual block does in torch."""

import torch
import torch.nn.functional as F

from .contest import benchmark_op


def eager(x, weight, bias, groups, x2=None):
    """Concatenate, normalise, activate; to torch an NHWC tensor is a channels_last picture."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    y = F.silu(F.group_norm(x.permute(0, 3, 1, 2), groups, weight, bias))
    return y.permute(0, 2, 3, 1)


def eager_scale_shift(x, weight, bias, groups, x2=None):
    """The statistics alone."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    n, h, w, c = x.shape
    var, mean = torch.var_mean(x.view(n, h * w, groups, c // groups), dim=(1, 3), correction=0)
    rstd = torch.rsqrt(var + 1e-5).repeat_interleave(c // groups, dim=1)
    scale = rstd * weight
    return scale, bias - mean.repeat_interleave(c // groups, dim=1) * scale


EAGER = {"group_norm_silu": eager, "group_norm_scale_shift": eager_scale_shift}
test_group_norm_silu = benchmark_op("group_norm_silu", eager)
test_group_norm_scale_shift = benchmark_op("group_norm_scale_shift", eager_scale_shift)
