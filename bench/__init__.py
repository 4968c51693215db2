"""Benchmarks. They never decide a test; tests/bench runs each once, at tiny shapes."""
