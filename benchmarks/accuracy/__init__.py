"""What the trainer's recipes reach on the seven data sets that come with `aeon`."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks accuracy`."""
    # The processes of single runs import this package too, and need not load what draws.
    from benchmarks.accuracy import measure

    measure.main(argv)
