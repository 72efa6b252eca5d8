"""Programs for accelerators, compiled ahead of time and not run."""


def main(argv: list[str]) -> None:
    """Run `python -m benchmarks aot`."""
    # Workers import this package too, and must not pay for what the command needs.
    from benchmarks.aot import suite

    suite.main(argv)
