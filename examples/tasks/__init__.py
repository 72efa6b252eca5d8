"""Whole tasks as scripts, a file for each: made data, a model, figures. None takes over a minute.

    python -m examples.tasks.keyword_spotting       ragged batches of spoken "words", classified
    python -m examples.tasks.eeg_constraints        max-norm constraints, and what they are worth
    python -m examples.tasks.streaming              a causal network, chunk by chunk
    python -m examples.tasks.from_keras             a model of Keras 3, converted and compared
    python -m examples.tasks.quantized              8-bit integers, made of a trained network
    python -m examples.tasks.eight_devices          the same training on one device and on eight

Each can be run by its path too, and copied: it imports nothing of its neighbours. They need what
`pip install .` brings; `from_keras` and `quantized` also `pip install '.[interop]'`, and
`from_keras` keras.
"""
