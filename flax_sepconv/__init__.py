"""Depthwise-separable 1-D convolution for Flax."""
