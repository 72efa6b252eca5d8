"""Files of the system: only regular ones are read, and they are written whole or not at all."""

import contextlib
import os
import pathlib
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from flax_sepconv.interop.layer import InteropError

_BESIDE = ".flax_sepconv-"
_NAME = re.compile(rf"{re.escape(_BESIDE)}[0-9a-f]{{16}}(\.[a-z0-9]+)*")
# What zipfile raises at damaged, encrypted and unknown things.
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, MemoryError),
    *(RuntimeError, LookupError, OverflowError, ValueError),
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: pathlib.Path) -> pathlib.Path:
    """Return the path of a regular file; one of anything else might be read without an end.

    Raises:
        InteropError: it is something else.
        OSError: it is not there.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise InteropError(f"{path} must be a regular file, it is {_KINDS.get(kind, 'none')}")
    return path


@contextlib.contextmanager
def archive(path: pathlib.Path, problem: Any) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; whatever is wrong with it becomes an InteropError: "{problem}: ..."."""
    try:
        with zipfile.ZipFile(regular(path)) as file:
            yield file
    except InteropError:
        raise
    except _BAD_ARCHIVE as error:
        # A KeyError prints its text in quotes.
        told = error.args[0] if isinstance(error, KeyError) else error
        raise InteropError(f"{problem}: {told}") from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give the path of an empty file, which takes the place of another one when all went well.

    A link stays, and what it leads to is replaced. Others see the old file or the whole new one,
    even after a crash of the machine. What a process that was killed left behind is deleted when
    something is written to the same folder.

    Raises:
        InteropError: there is something that is no regular file.
        OSError: it cannot be written.
    """
    dest = pathlib.Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        regular(path)
    _clear(dest.parent)
    beside, lock = _create(dest)
    try:
        yield beside
        # Whoever wrote it, it is to have the mode of any new file, or of the one it replaces.
        if dest.exists():
            beside.chmod(stat.S_IMODE(dest.stat().st_mode))
        os.fsync(lock)
        beside.replace(dest)
    finally:
        beside.unlink(missing_ok=True)
        os.close(lock)


def _create(dest: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Make an empty file that is ours as long as the lock on it, which ends with the process."""
    import fcntl

    while True:
        name = f"{_BESIDE}{secrets.token_hex(8)}{dest.suffix}"
        beside = dest.with_name(name if _NAME.fullmatch(name) else _BESIDE + secrets.token_hex(8))
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # Where there are no locks, nothing is cleared either.
            fcntl.flock(lock, fcntl.LOCK_EX)
        if beside.exists():  # Else another process found it before it was locked.
            return beside, lock
        os.close(lock)


def _clear(folder: pathlib.Path) -> None:
    """Delete what dead processes of this user left: files that nobody holds a lock on."""
    import fcntl

    for left in folder.glob(f"{_BESIDE}*"):
        if not _NAME.fullmatch(left.name):
            continue
        with contextlib.suppress(OSError):
            file = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(file)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
            finally:
                os.close(file)
