"""Benchmarks. They never decide a test; tests/ops/test_benchmarks.py runs each at a tiny shape."""
