"""sampler_step against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_sampler_step = benchmark_op("sampler_step")
