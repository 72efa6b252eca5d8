"""Files of `torch.save`, read so that nothing in them is run.

A pickle names the classes and functions that its values are made by. PyTorch's reader with
weights_only=True takes those of tensors and of plain containers, and refuses all others. Beside the
weights checkpoints keep more (NumPy's numbers, argparse's Namespace, paths, configs), which is not
needed here: for each other name stands a class of ours, which takes anything and keeps nothing.
"""

import pathlib
import pickle
import zipfile
from collections.abc import Sequence
from typing import Any

from flax_sepconv.interop import files
from flax_sepconv.interop.layer import InteropError

_TOLD = 10
# By a file in them: other archives of PyTorch, and where their weights are to be had.
_PROGRAMS = {
    "/constants.pkl": (
        "a TorchScript archive, of torch.jit.save",
        "torch.jit.load(path).state_dict()",
    ),
    "/archive_format": (
        "an exported program, of torch.export.save",
        "torch.export.load(path).state_dict",
    ),
}


class PassedOver:
    """Stands for what is made by a name that is not PyTorch's own."""

    def __new__(cls, *args: Any) -> Any:
        """Take what the pickle says it is made of."""
        del args
        return object.__new__(cls)

    def __init__(self, *args: Any) -> None:
        """Keep nothing of it."""

    def __setstate__(self, state: Any) -> None:
        """Keep nothing of what the pickle says is in it."""


class _PassedOverDict(PassedOver):
    """Stands for dicts of other classes: PyTorch puts items into plain ones alone."""

    def __new__(cls, *args: Any) -> Any:
        del args
        return {}


def load(torch: Any, path: pathlib.Path) -> tuple[Any, list[str]]:
    """Return what a file holds, its tensors mapped into memory, and the names passed over.

    Raises:
        InteropError: it is damaged, a TorchScript archive, or cannot be read without what it names.
    """
    _check(path)
    names: list[str] = []
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        stand_ins = [
            (_PassedOverDict if name.lower().endswith("dict") else PassedOver, name)
            for name in names
        ]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True), names
    except pickle.UnpicklingError as error:
        raise InteropError(f"{path} is damaged, or {more_than_tensors(names)}") from error
    except Exception as error:  # Whatever PyTorch meets in a damaged file.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InteropError(f"{path} cannot be read by PyTorch: {first}") from error


def more_than_tensors(names: Sequence[str]) -> str:
    """Say what is found in a file, and the way out."""
    rest = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    told = f" ({', '.join(map(ascii, names[:_TOLD]))}{rest})" if names else ""
    return (
        f"holds more than tensors in dicts and lists{told}: of a whole module, write "
        "module.state_dict(); of a checkpoint that you trust, its state dict alone, found by "
        "torch.load(path, weights_only=False), which runs what is in it"
    )


def _check(path: pathlib.Path) -> None:
    """Refuse TorchScript, and members that are compressed, which PyTorch maps as they are."""
    size = path.stat().st_size
    with files.archive(path, f"{path} is no whole file of torch.save") as archive:
        members = archive.infolist()
    for ending, (kind, weights) in _PROGRAMS.items():
        if any(member.filename.endswith(ending) for member in members):
            raise InteropError(
                f"{path} is {kind}: write its weights by torch.save({weights}, other_path)"
            )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise InteropError(
                f"{path} is no file of torch.save: {member.filename} in it is compressed, or "
                "larger than the file"
            )
