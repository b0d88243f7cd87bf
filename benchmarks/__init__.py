"""The benchmark harness: llmpipe against a floor, in the same run. `python -m benchmarks`."""
