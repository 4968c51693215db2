"""decode_attention against torch: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_decode_attention = benchmark_op("decode_attention")
