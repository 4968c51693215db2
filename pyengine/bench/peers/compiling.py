"""torch.compile as the peers use it."""

from collections.abc import Callable
from typing import Any


def compiled(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    """torch.compile at its best, for fixed shapes; the first call compiles.

    On CPUs weights are frozen into the graph; on GPUs max-autotune, which records CUDA graphs.
    """
    import torch
    from torch._inductor import config

    on_cpu = device == "cpu"
    config.freezing = on_cpu
    mode = None if on_cpu else "max-autotune"
    return torch.compile(call, fullgraph=True, dynamic=False, mode=mode)
