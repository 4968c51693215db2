"""sample_token against what it replaces: see pyengine/bench/peers/torch_ops.py."""

from .contest import benchmark_op

test_sample_token = benchmark_op("sample_token")
