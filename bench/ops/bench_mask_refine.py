"""mask_refine against what it replaces: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_mask_refine = benchmark_op("mask_refine")
