"""The table of file formats: what tells each from the others, and who reads and writes it."""

import contextlib
import importlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax_sepconv.interop import files, hdf5, keras3_files, tf_files
from flax_sepconv.interop.layer import InteropError, Layer, unique, without_configs
from flax_sepconv.interop.tf_table import MAGIC

_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\n"


class Format(NamedTuple):
    """One way to keep weights.

    Attributes:
        description: for people.
        module: of this package; it has `read`, and `write` where the format is written too.
        options: what its `read` may be told beside the path.
        endings: of names, by which a file to write is known; the first one is the usual.
    """

    description: str
    module: str
    options: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(
        "the neutral one: safetensors with the layers' configs",
        "safetensors_file",
        endings=(".safetensors",),
    ),
    "torch": Format(
        "a PyTorch state dict: torch.save's, or in safetensors",
        "pytorch",
        options=("pairs", "fold_norms", "norm_eps"),
        endings=(".pt", ".pth", ".bin"),
    ),
    "keras": Format(
        "a whole model of Keras 3 or tf-keras: .keras, or a folder", "keras3", options=("layers",)
    ),
    "keras-weights": Format(
        "weights of Keras 3 or tf-keras: .weights.h5, or .weights.json with shards",
        "keras3",
        options=("layers",),
        endings=(".weights.h5",),
    ),
    "keras2": Format("Keras 2, whole model or weights: .h5", "keras2"),
    "tf-checkpoint": Format("a TensorFlow checkpoint: .index and .data-*", "tf_checkpoint"),
    "saved-model": Format("a TensorFlow SavedModel: a folder", "saved_model"),
}
# How the command spells them.
OPTIONS = {
    "layers": "--layer",
    "pairs": "--pair",
    "fold_norms": "--fold-norms",
    "norm_eps": "--norm-eps",
}
WRITABLE = tuple(name for name, form in FORMATS.items() if form.endings)


def load(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    layers: Sequence[str] | None = None,
    pairs: Mapping[str, tuple[str | int, ...]] | None = None,
    fold_norms: bool = False,
    norm_eps: float | None = None,
    configs: bool = True,
) -> list[Layer]:
    """Read every `SeparableConv1D` and `DepthwiseConv1D` of a file.

    Args:
        path: of the file; of a SavedModel or an unpacked Keras model, its folder; of weights in
            shards, the `.weights.json` that names them; of a TensorFlow checkpoint, its prefix, one
            of its files, or its folder, whose `checkpoint` file names the latest.
        format: one of `FORMATS`; None looks into the file.
        layers: for "keras" and "keras-weights": the paths of the groups to take, and no others.
        pairs: for "torch", which two modules make a layer, and M where it is not 1:
            {"block/conv": ("block.a", "block.b", 2)}. A norm to fold stands between the two names.
            One module makes a `DepthwiseConv1D`.
        fold_norms: for "torch", whether a BatchNorm between the two modules is folded into the
            layer, exactly, as it is in inference; else it is an error. Whether an activation stands
            there too, with which it would be wrong, is not in the file.
        norm_eps: for "torch", the eps of such norms, which is not in the file; None is 1e-5.
        configs: whether the arguments of layers are read where the file has them. Without them
            weights can be had of layers that Keras has and this package has not, such as one with
            an activation of your own.

    Raises:
        InteropError: the file is missing, empty, damaged, of another format, has no such layer or
            two of one path, or a library that it needs is not installed.

    Warns:
        InteropWarning: what is left out, and why.

    Example:
        >>> load("model.keras")
        Traceback (most recent call last):
        flax_sepconv.interop.layer.InteropError: model.keras does not exist
    """
    path = pathlib.Path(path)
    name = format_of(path) if format is None else _known(format)
    given = {
        "layers": layers,
        "pairs": pairs,
        "norm_eps": norm_eps,
        "fold_norms": fold_norms or None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    _check_names(layers, pairs)
    for option in options:
        if option not in FORMATS[name].options:
            raise InteropError(
                f"{option} ({OPTIONS[option]}) says nothing about {path}, whose format is {name!r}"
            )
    with _explained(path, "read"), contextlib.nullcontext() if configs else without_configs():
        _check_there(path)
        return unique(_module(name).read(path, **options), path)


def save(
    path: str | os.PathLike[str],
    layers: Sequence[Layer],
    format: str | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write layers: the whole file, or, where that fails, nothing.

    Args:
        path: of the file.
        layers: at least one, of different paths.
        format: "safetensors", "torch" or "keras-weights"; None goes by the path's ending.
        overwrite: whether a file that is there may be replaced; where a link leads to it, the link
            stays. Nothing but a regular file is replaced.

    Raises:
        InteropError: the format cannot be written or cannot hold the layers, the file is there, or
            the folder cannot be written.

    Example:
        >>> save("weights.xyz", [])
        Traceback (most recent call last):
        flax_sepconv.interop.layer.InteropError: no format is written to names like weights.xyz; \
known endings are .safetensors, .pt, .pth, .bin, .weights.h5
    """
    path = pathlib.Path(path)
    name = _format_to_write(path) if format is None else _known(format)
    if name not in WRITABLE:
        raise InteropError(f"{name!r} is read only; written are {', '.join(WRITABLE)}")
    if wrong := [layer for layer in layers if not isinstance(layer, Layer)]:
        raise InteropError(f"layers must be of interop.Layer, got {wrong[0]!r}")
    layers = unique(layers, "the list of layers")
    with _explained(path, "written"):
        if os.path.lexists(path) and not overwrite:
            raise InteropError(f"{path} exists already")
        with files.replacing(path) as beside:
            _module(name).write(beside, layers)


def format_of(path: str | os.PathLike[str]) -> str:
    """Tell a file's format from what is in it.

    Raises:
        InteropError: it is none of `FORMATS`.
    """
    path = pathlib.Path(path)
    with _explained(path, "read"):
        if path.is_dir() and (path / "saved_model.pb").exists():
            return "saved-model"
        if keras3_files.is_folder(path):
            return "keras"
        if tf_files.is_one(path):
            return "tf-checkpoint"
        if path.is_dir():
            raise InteropError(
                f"{path} is a folder, but no SavedModel and no Keras model (config.json), and has "
                "no checkpoint in it"
            )
        _check_there(path)
        return _format_of_file(path)


def _format_of_file(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(-min(len(start), len(MAGIC)), os.SEEK_END)
        end = file.read()
    if start.startswith(_ZIP):
        return _format_of_zip(path)
    if hdf5.is_hdf5(path):
        return _module("keras2").format_of(path)
    if start.startswith(b"{") and path.suffix == ".json":
        return "keras-weights"
    if start[8:] == b"{":
        neutral = _module("safetensors").is_neutral(path)
        return "safetensors" if neutral else "torch"
    # Of the first formats of PyTorch and TensorFlow, about which their readers know more.
    if start.startswith(_OLD_TORCH):
        return "torch"
    if end == MAGIC:
        return "tf-checkpoint"
    if part := tf_files.PART.fullmatch(path.name):
        index = f"{part[1]}.index"
        raise InteropError(f"{path} is a part of a TensorFlow checkpoint, but {index} is not there")
    if path.name == tf_files.STATE:
        raise InteropError(f"{path} only names checkpoints: give its folder, {path.parent}")
    raise InteropError(f"{path} is of no known format: {', '.join(FORMATS)}")


@contextlib.contextmanager
def _explained(path: pathlib.Path, done: str) -> Iterator[None]:
    """Make InteropErrors of what the system refuses, and name the file in all of them."""
    try:
        yield
    except OSError as error:
        raise InteropError(f"{path} cannot be {done}: {error.strerror or error}") from error
    except MemoryError as error:
        raise InteropError(f"{path} cannot be {done}: there is not enough memory") from error
    except InteropError as error:
        if str(path) in str(error):
            raise
        raise InteropError(f"{path}: {error}") from error
    except ValueError as error:  # No system has such names.
        raise InteropError(f"{str(path)!r} cannot be {done}: {error}") from error


def _format_of_zip(path: pathlib.Path) -> str:
    with files.archive(path, f"{path} is a damaged zip archive") as archive:
        names = archive.namelist()
    if "config.json" in names:
        return "keras"
    if any(name.endswith(("data.pkl", "/archive_format")) for name in names):
        return "torch"
    raise InteropError(f"{path} is a zip archive, but neither of Keras nor of PyTorch")


def _format_to_write(path: pathlib.Path) -> str:
    endings = {ending: name for name in WRITABLE for ending in FORMATS[name].endings}
    for ending, name in endings.items():
        if path.name.endswith(ending):
            return name
    raise InteropError(
        f"no format is written to names like {path}; known endings are {', '.join(endings)}"
    )


def _known(name: str) -> str:
    if name not in FORMATS:
        raise InteropError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return name


def _module(name: str) -> Any:
    return importlib.import_module(f"flax_sepconv.interop.{FORMATS[name].module}")


def _check_names(layers: Any, pairs: Any) -> None:
    groups = [] if layers is None or isinstance(layers, str) else list(layers)
    if layers is not None and not (groups and all(isinstance(g, str) and g for g in groups)):
        raise InteropError(f"layers (--layer) must be a list of paths of groups, got {layers!r}")
    if pairs is not None and not (
        isinstance(pairs, Mapping) and all(isinstance(layer, str) for layer in pairs)
    ):
        raise InteropError(f"pairs (--pair) must be a dict by the paths of layers, got {pairs!r}")


def _check_there(path: pathlib.Path) -> None:
    if path.exists():
        if not path.is_dir() and files.regular(path).stat().st_size == 0:
            raise InteropError(f"{path} is empty")
    elif not tf_files.is_one(path):
        raise InteropError(f"{path} does not exist")
