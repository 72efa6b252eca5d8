"""`python -m flax_sepconv`: trained weights of other libraries, and lowerings measured here."""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flax_sepconv.interop import command as weights
from flax_sepconv.ops.tuning import command as tuning


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    tune = functools.partial(tuning.add, network_of_run=_network_of_run)
    return weights.main(argv, more=(tune,))


def _network_of_run(folder: pathlib.Path) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    from flax_sepconv.training.config import UserError
    from flax_sepconv.training.layers import of_run

    try:
        return of_run(folder)
    except UserError as error:
        raise tuning.TuneError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
