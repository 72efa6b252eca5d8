"""The standard streams: whatever becomes of them, a run does not break by it."""

import contextlib
import os
import select
import sys


def guard() -> None:
    """Occupy the standard streams that are closed, or a file of the run would become one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def keep_stdout() -> None:
    """Keep stdout for what Python prints: libraries that know it by its number may say things."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout = open(os.dup(1), "w", encoding=sys.stdout.encoding)  # noqa: SIM115 - for good
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


_muted = False


def mute(value: bool) -> None:
    """Have `say` say nothing, or something again: another process of the run says it."""
    global _muted
    _muted = value


def say(text: str) -> None:
    """Print a line to stderr; that it cannot be printed is no error."""
    if sys.stderr is not None and not _muted:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            print(text, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Return whether stderr is one."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def is_read() -> bool:
    """Return whether somebody still reads stdout and stderr: other pipes of a process break too."""
    broken = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no file, or it was closed
            if stream is not None:
                broken.register(stream.fileno(), 0)
    return not broken.poll(0)


def settle() -> None:
    """Drop what cannot be written any more: Python would change the exit status by it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:  # it was closed
            pass
