"""vq_decode against torch's embedding and linear: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_vq_decode = benchmark_op("vq_decode")
