"""What is said where reading or writing fails: one line is for the user, the rest is noise."""

import contextlib
import gc
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from flax_sepconv.training.settings import UserError

# What is left of a failed read or write has come to its end after so many seconds.
_PAUSE = 0.2


def reason(error: BaseException) -> str:
    """Return in one line what went wrong, as the system calls it if it was the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if known := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(known[1]))
    return text if len(text) <= 200 else f"{text[:200]}..."


def silence_logs() -> None:
    """Silence the logs of orbax, which tells of every file, and of every failure many times."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system says where something cannot be written into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or place}: {reason(error)}") from error


def let_go(error: BaseException) -> None:
    """Wait for what is left of what failed, and have it collected: it complains at its end."""
    time.sleep(_PAUSE)
    error.__traceback__ = error.__cause__ = error.__context__ = None  # these hold it
    with warnings.catch_warnings(action="ignore"):
        gc.collect()


@contextlib.contextmanager
def no_stragglers() -> Iterator[None]:
    """Silence the writes that go on where one has failed: each prints a traceback at its end."""
    hook = sys.unraisablehook

    def heard(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = heard
    try:
        yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def one_complaint() -> Iterator[None]:
    """Silence the reads that orbax leaves behind where one fails: each prints a traceback."""
    logger = logging.getLogger("asyncio")
    hook, level = sys.unraisablehook, logger.level
    sys.unraisablehook = lambda _: None
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        let_go(error)
        raise
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)
