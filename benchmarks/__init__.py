"""Benchmarks behind the figures of RESULTS.md, one command each: `python -m benchmarks.<name>`."""
