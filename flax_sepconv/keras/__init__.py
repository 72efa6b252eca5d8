"""Keras' words: names to objects, dicts in and out."""
