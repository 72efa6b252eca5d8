"""Every lowering on the device that is there, judged by NumPy float64."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks correctness`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.correctness import suite

    suite.main(argv)
