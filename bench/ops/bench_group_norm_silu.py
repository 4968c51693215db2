"""The group norms against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_group_norm_silu = benchmark_op("group_norm_silu")
test_group_norm_scale_shift = benchmark_op("group_norm_scale_shift")
