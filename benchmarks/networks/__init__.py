"""Whole networks made of the layer and of its peers, trained side by side."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks networks`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.networks import measure

    measure.main(argv)
