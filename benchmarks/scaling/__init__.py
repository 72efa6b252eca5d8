"""The layer divided over devices: bytes between them, memory on each, and time."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks scaling`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.scaling import suite

    suite.main(argv)
