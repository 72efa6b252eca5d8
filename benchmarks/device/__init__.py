"""The layer on the accelerator that is there, beside stock Flax and PyTorch."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks device`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.device import suite

    suite.main(argv)
