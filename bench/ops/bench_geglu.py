"""geglu and swiglu against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_geglu = benchmark_op("geglu")
test_swiglu = benchmark_op("swiglu")
