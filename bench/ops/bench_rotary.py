"""rotary and rotary_cache against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_rotary = benchmark_op("rotary")
test_rotary_cache = benchmark_op("rotary_cache")
