"""What 8-bit integers cost in accuracy and save in bytes and time, on trained networks."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks quantization`."""
    # The processes of single runs import this package too, and need not load what draws.
    from benchmarks.quantization import measure

    measure.main(argv)
