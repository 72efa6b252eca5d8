"""Layers drawn at random from the ranges of published networks, ours and its peers."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks sweep`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.sweep import suite

    suite.main(argv)
