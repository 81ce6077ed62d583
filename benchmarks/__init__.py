"""What the figures of RESULTS.md come from: `python -m benchmarks.<name>`, one command each."""
