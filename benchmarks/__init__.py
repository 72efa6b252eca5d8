"""Measurements of the layer; `python -m benchmarks --help`."""
