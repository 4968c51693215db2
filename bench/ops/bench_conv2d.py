"""conv2d against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_conv2d = benchmark_op("conv2d")
