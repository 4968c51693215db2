"""layer_norm and rms_norm against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_layer_norm = benchmark_op("layer_norm")
test_rms_norm = benchmark_op("rms_norm")
