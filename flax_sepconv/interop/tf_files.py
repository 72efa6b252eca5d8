"""Which files make up a checkpoint of TensorFlow, given any of the names that people have for it.

A checkpoint is called by its prefix: `dir/model.ckpt` is `dir/model.ckpt.index` and
`dir/model.ckpt.data-00000-of-00001`. A prefix may end in "/": `dir/` is `dir/.index`, which no path
of Python tells from `dir`. That is why the index file, not the prefix, is what is found here.
"""

import os
import pathlib
import re

from flax_sepconv.interop import files, tf_table
from flax_sepconv.interop.layer import InteropError
from flax_sepconv.interop.tf_messages import parse_text

STATE = "checkpoint"
_INDEX = ".index"
PART = re.compile(r"(.*)\.(data-\d{5}-of-\d{5}|meta)")
_TOLD = 20


def index_of(path: pathlib.Path) -> pathlib.Path:
    """Return a checkpoint's `.index` file.

    Args:
        path: that file, the prefix, one of the data files, or a folder: with a file `checkpoint`
            the one which that names, else the only one that is in it.

    Raises:
        InteropError: there is no checkpoint, it is of the format before 2016, or there are several.
    """
    beside = _beside(path)
    if path.is_dir():
        return _in_folder(path, beside)
    if path.name.endswith(_INDEX) and path.exists():
        return path
    if beside is not None:
        return beside
    part = PART.fullmatch(path.name)
    if part is not None and _there(index := path.with_name(part[1] + _INDEX)):
        return index
    if path.name.endswith(_INDEX):
        raise InteropError(f"{path} does not exist")
    raise _no_checkpoint(path)


def is_one(path: pathlib.Path) -> bool:
    """Tell whether a path is a name of a checkpoint, by the names of files alone."""
    part = PART.fullmatch(path.name)
    return (
        path.name.endswith(_INDEX)
        or _beside(path) is not None
        or (part is not None and _there(path.with_name(part[1] + _INDEX)))
        or (path.is_dir() and (_there(path / STATE) or bool(_indexes(path))))
    )


def _there(path: pathlib.Path) -> bool:
    """Tell whether there is a file of any kind; who reads it refuses what is no regular one."""
    return path.exists() and not path.is_dir()


def _beside(path: pathlib.Path) -> pathlib.Path | None:
    """Return the index file of the prefix that is spelled like the path, if there is one."""
    # No file has a name longer than 255 bytes, and Path(".") has none at all.
    if not 0 < len(os.fsencode(path.name)) <= 255 - len(_INDEX):
        return None
    index = path.with_name(path.name + _INDEX)
    return index if _there(index) else None


def _in_folder(folder: pathlib.Path, beside: pathlib.Path | None) -> pathlib.Path:
    state, indexes = folder / STATE, _indexes(folder)
    if beside is not None:
        if _there(state) or indexes:
            raise InteropError(
                f"{folder} is a folder with a checkpoint in it, and there is {beside} too: give "
                "the .index file of the one that is meant"
            )
        return beside
    if _there(state):
        return _named(state, indexes)
    if not indexes:
        raise InteropError(f"{folder} has no checkpoint: neither a file {STATE!r} nor an .index")
    if len(indexes) > 1:
        raise InteropError(
            f"{folder} has no file {STATE!r} that names the latest of its checkpoints: give one "
            f"of {_told(indexes)}"
        )
    return indexes[0]


def _named(state: pathlib.Path, indexes: list[pathlib.Path]) -> pathlib.Path:
    """Return the index file that a folder's state file names."""
    try:
        text = files.regular(state).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InteropError(f"{state} is damaged: {error}") from error
    named = parse_text("CheckpointState", text, str(state)).model_checkpoint_path
    prefix = os.path.join(state.parent, named)  # A path would lose a last "/".
    places = [pathlib.Path(prefix + _INDEX)]
    if os.path.basename(prefix) == ".":  # As TensorFlow writes "dir/".
        places.append(state.with_name(_INDEX))
    try:
        found = [place for place in places if named and _there(place)]
        first_format = bool(named) and pathlib.Path(prefix).is_file()
    except (OSError, ValueError):  # The name is too long, or is none.
        found, first_format = [], False
    if found:
        return found[0]
    if first_format:
        raise _no_checkpoint(pathlib.Path(prefix))
    there = f"; there is {_told(indexes)}" if indexes else ""
    raise InteropError(
        f"{state} names {named!r}, which does not exist; give the checkpoint's own prefix{there}"
    )


def _indexes(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(_INDEX))


def _told(indexes: list[pathlib.Path]) -> str:
    rest = len(indexes) - _TOLD
    told = ", ".join(path.name for path in indexes[:_TOLD])
    return f"{told} and {rest} more" if rest > 0 else told


def _no_checkpoint(path: pathlib.Path) -> InteropError:
    """Say what a path is instead of a checkpoint."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(32)
            file.seek(max(0, path.stat().st_size - len(tf_table.MAGIC)))
            if file.read() == tf_table.MAGIC:
                return InteropError(
                    f"{path} is the index of a checkpoint, but not named so: its name must be that "
                    "of the data files, with '.index' for '.data-00000-of-00001'"
                    if _starts_an_index(start)
                    else f"{path} is a checkpoint in TensorFlow's first format, V1; restore it "
                    "there and save it again by tf.compat.v1.train.Saver(), whose format is V2"
                )
    if path.exists():
        return InteropError(f"{path} is no checkpoint: there is no {path.name}{_INDEX}")
    return InteropError(f"{path} does not exist, nor does {path.name}{_INDEX}")


def _starts_an_index(start: bytes) -> bool:
    """Tell an index from a file of the first format, which is a table too.

    Both begin with the entry of an empty key. Here its message starts with a number, that of the
    data files; in the first format with a message.
    """
    if start[:2] != b"\0\0":
        return False
    try:
        _, position = tf_table.varint(start, 2)
    except InteropError:
        return False
    return start[position : position + 1] == b"\x08"
