"""Measure the lowerings on the device that is there, and write a table of choices."""
