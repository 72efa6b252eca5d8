"""Files that hold a state dict of PyTorch: safetensors, and what `torch.save` writes.

Beside the tensors stands, where this package wrote the file, M of each depthwise module, which the
shapes do not say; `load_state_dict` passes it over.
"""

import collections
import contextlib
import functools
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flax_sepconv.interop import safetensors_file, torch_archive
from flax_sepconv.interop.layer import DTYPES, InteropError

# Where a checkpoint keeps the state dict beside other things.
NESTED = ("state_dict", "model_state_dict", "model")

_MULTIPLIER = "depth_multiplier"
_MULTIPLIERS = "flax_sepconv_depth_multipliers"
_TOLD = 20


class State(NamedTuple):
    """An opened state dict.

    Attributes:
        path: of the file.
        shapes: of its tensors, by name.
        get: reads the tensor of a name.
        multipliers: M by the name of the depthwise module, where it is known.
        others: names of what is no tensor.
        ordered: whether the names are in the order in which their modules were made.
    """

    path: pathlib.Path
    shapes: Mapping[str, tuple[int, ...]]
    get: Callable[[str], np.ndarray]
    multipliers: Mapping[str, Any]
    others: Sequence[str] = ()
    ordered: bool = False


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[State]:
    """Open a state dict; its weights are read one by one.

    Raises:
        InteropError: the file is damaged, or holds more than tensors, or no state dict.
    """
    if not _is_safetensors(path):
        tensors, multipliers, others = _load(path)
        shapes = {name: _shape(name, tensor) for name, tensor in tensors.items()}
        size = path.stat().st_size
        get = functools.partial(_get, tensors, size)
        # Modules have their weight before their bias: who sorted the names lost their order.
        ordered = list(shapes) != sorted(shapes)
        yield State(path, shapes, get, multipliers, others, ordered)
        return
    with safetensors_file.opened(path) as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        multipliers = _parsed(path, (file.metadata() or {}).get(_MULTIPLIERS, "{}"))
        yield State(path, shapes, lambda name: safetensors_file.tensor(file, name), multipliers)


def tensors_of(path: pathlib.Path) -> dict[str, Any]:
    """Return all tensors as PyTorch's own readers give them."""
    require()
    if not _is_safetensors(path):
        return _load(path)[0]
    from safetensors.torch import load_file

    with safetensors_file.opened(path):
        return load_file(path)


def save(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], multipliers: Mapping[str, int]
) -> None:
    """Write contiguous arrays: to "*.safetensors" in that form, else by `torch.save`."""
    if path.suffix == ".safetensors":
        metadata = {"format": "pt", _MULTIPLIERS: json.dumps(dict(multipliers))}
        safetensors_file.save(path, arrays, metadata)
        return
    torch = require()
    tensors: Any = collections.OrderedDict((name, _to_torch(a)) for name, a in arrays.items())
    # An attribute by which PyTorch keeps versions of modules.
    tensors._metadata = {name: {"version": 1, _MULTIPLIER: M} for name, M in multipliers.items()}
    content = io.BytesIO()  # On a full disk PyTorch tells no reason.
    torch.save(tensors, content)
    path.write_bytes(content.getvalue())


def array(name: str, tensor: Any, limit: int | None = None) -> np.ndarray:
    """Return a PyTorch tensor as an array on the same memory, or, off the CPU, as a copy.

    Raises:
        InteropError: it is no dense tensor of floats, or claims more than `limit` bytes.
    """
    torch = require()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InteropError(f"dtype of {name} must be one of {', '.join(DTYPES)}, got {dtype}")
    try:
        if limit is not None and tensor.numel() * tensor.element_size() > limit:
            raise InteropError(f"{name} claims more bytes than its file has: {tensor.shape}")
        tensor = tensor.detach().cpu()
        if dtype == "bfloat16":
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (AttributeError, RuntimeError, TypeError) as error:
        raise InteropError(f"{name} must be a dense tensor: {error}") from error


def _shape(name: str, tensor: Any) -> tuple[int, ...]:
    try:
        return tuple(tensor.shape)
    except RuntimeError as error:
        raise InteropError(f"{name} must be a dense tensor, it is a nested one") from error


def require() -> Any:
    """Import PyTorch."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InteropError(
            "PyTorch is not installed: pip install torch, from the index that pytorch.org names"
        ) from error
    return torch


def _is_safetensors(path: pathlib.Path) -> bool:
    """Tell safetensors from what `torch.save` writes; refuse anything else."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        return False
    if start[8:] == b"{":
        return True
    if start.startswith(b"\x80\x02\x8a\n"):
        raise InteropError(
            f"{path} was written by PyTorch before 1.6, or in its way: write it anew by "
            "torch.save(torch.load(path, weights_only=True), path)"
        )
    raise InteropError(f"{path} is neither a file of torch.save nor safetensors")


def _parsed(path: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        multipliers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{path}: metadata {_MULTIPLIERS!r} is no JSON: {error}") from error
    if not isinstance(multipliers, dict):
        raise InteropError(f"{path}: metadata {_MULTIPLIERS!r} must be a JSON object")
    return multipliers


def _load(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the tensors of a file of `torch.save`, M by the depthwise module's name, and others.

    The last are the names in the state dict of what is no tensor.
    """
    torch = require()
    loaded, passed_over = torch_archive.load(torch, path)
    # By dict's own methods: what was unpickled may hide an OrderedDict's.
    content = dict(dict.items(loaded)) if isinstance(loaded, dict) else {}
    inner = [key for key in NESTED if isinstance(content.get(key), dict)]
    if len(inner) > 1:
        raise InteropError(f"{path} has more than one state dict: {', '.join(inner)}")
    if inner:
        loaded = content[inner[0]]
        content = dict(dict.items(loaded))
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        told = f"{type(loaded).__name__} of {list(content)[:_TOLD]}"
        if passed_over:
            told = f"{told}, and {torch_archive.more_than_tensors(passed_over)}"
        raise InteropError(
            f"{path} has no state dict: no tensors by name, neither at the top nor in "
            f"{', '.join(NESTED)}; it has {told}"
        )
    return tensors, _multipliers_in(loaded), [name for name in named if name not in tensors]


def _multipliers_in(state: Any) -> dict[str, Any]:
    metadata = vars(state).get("_metadata") if hasattr(state, "__dict__") else None
    if not isinstance(metadata, dict):
        return {}
    return {
        name: told[_MULTIPLIER]
        for name, told in dict.items(metadata)
        if isinstance(told, dict) and dict.get(told, _MULTIPLIER) is not None
    }


def _get(tensors: Mapping[str, Any], limit: int, name: str) -> np.ndarray:
    return array(name, tensors[name], limit)


def _to_torch(weight: np.ndarray) -> Any:
    torch = require()
    if weight.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(weight.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(weight)
