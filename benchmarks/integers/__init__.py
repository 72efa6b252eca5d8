"""The layer in 8-bit integers: beside our own float32, and beside what others run int8 by."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks integers`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.integers import suite

    suite.main(argv)
