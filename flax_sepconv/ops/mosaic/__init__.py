"""Fused Mosaic (Pallas TPU) kernels."""
