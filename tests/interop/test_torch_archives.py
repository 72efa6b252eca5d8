"""Checkpoints as others write them: Lightning's, TorchScript's, a QuartzNet of an old PyTorch."""

import argparse
import collections
import enum
import itertools
import pathlib
import warnings
import zipfile

import numpy as np
import pytest

from flax_sepconv import interop
from flax_sepconv.interop import InteropError, InteropWarning, checking
from tests import peers
from tests.interop.test_torch import assert_close, modules, named, ours, theirs, written

M = 1


class Mode(enum.Enum):
    FAST = 1


class Settings(dict):
    """A dict of a class of its own, as Lightning's AttributeDict."""

    __qualname__ = "SettingsDict"


SettingsDict = Settings
BESIDE = {
    "score": np.float64(0.5),
    "scores": np.arange(3.0),
    "arguments": argparse.Namespace(rate=np.float32(0.1), more=argparse.Namespace(a=[1])),
    "path": pathlib.Path("/nowhere"),
    "mode": Mode.FAST,
    "counts": collections.defaultdict(int, {"a": 1}),
    "settings": SettingsDict(a=1),
    "class": argparse.Namespace,
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_checkpoints_keep_beside_the_weights(tmp_path, name):
    made = modules(M=1)
    state = named(a=named(dw=made[0], pw=made[1])).state_dict()
    content = {"epoch": 3, "state_dict": state, name: BESIDE[name]}
    (layer,) = interop.load(written(tmp_path, content))
    x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype("float32")
    assert_close(ours(layer, x), theirs(*made, x))


def test_nothing_beside_the_weights_is_run(tmp_path):
    class Opens:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    made = modules(M=1)
    state = named(dw=made[0], pw=made[1]).state_dict()
    torch = peers.torch()
    before = set(torch.serialization.get_safe_globals())
    assert interop.load(written(tmp_path, {"model": state, "x": Opens()}))[0].path == ""
    assert not (tmp_path / "opened").exists()
    assert set(torch.serialization.get_safe_globals()) == before
    # What stands in a layer's own place is never passed over.
    state["dw._extra_state"] = argparse.Namespace()
    with pytest.raises(InteropError, match=r"has weight, bias, _extra_state of it"):
        interop.load(written(tmp_path, {"model": state}))


def test_archives_of_programs(tmp_path):
    """They are named, and the way out that is told leads out."""
    torch = peers.torch()
    first, second = modules(M=1)
    model = torch.nn.Sequential(collections.OrderedDict(dw=first, pw=second)).eval()
    path, other_path = tmp_path / "program.pt", tmp_path / "weights.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        torch.jit.save(torch.jit.script(model), path)
        with pytest.raises(InteropError, match="TorchScript archive") as error:
            interop.load(path)
        statement = "torch.save(torch.jit.load(path).state_dict(), other_path)"
        assert str(error.value).endswith(statement)
        exec(statement)
    assert interop.load(other_path)[0].path == ""
    with zipfile.ZipFile(path, "w") as archive:  # Exporting takes long.
        archive.writestr("program/archive_format", "pt2")
    with pytest.raises(InteropError, match=r"exported program.*torch\.export\.load\(path\)"):
        interop.load(path)
    torch.save(model, path)
    message = r"torch\.nn\.modules\.conv\.Conv1d.*module\.state_dict\(\)"
    with pytest.raises(InteropError, match=message):
        interop.load(path)


def quartz(torch, width=4, blocks=2, repeat=2):
    """The modules of a QuartzNet's encoder, in small: in each block, mconv is a flat list."""
    nn = torch.nn

    def masked(*given, **more):
        return named(conv=nn.Conv1d(*given, bias=False, **more))

    def piece(K, active):
        norm = nn.BatchNorm1d(width, eps=1e-3)
        depthwise = masked(width, width, K, groups=width, padding=K // 2)
        tail = [nn.ReLU(), nn.Dropout(0.2)] if active else []
        return [depthwise, masked(width, width, 1), norm, *tail]

    made = []
    for number in range(blocks):
        K = 3 + 2 * number
        pieces = [piece(K, active=i + 1 < repeat) for i in range(repeat)]
        residual = nn.ModuleList([nn.ModuleList([masked(width, width, 1), nn.BatchNorm1d(width)])])
        mconv = nn.ModuleList(itertools.chain.from_iterable(pieces))
        made.append(named(mconv=mconv, res=residual, mout=nn.Sequential(nn.ReLU())))
    return named(encoder=named(encoder=nn.Sequential(*made)))


def test_a_quartznet_of_an_old_pytorch(tmp_path):
    torch = peers.torch()
    torch.manual_seed(0)
    model = quartz(torch)
    old, path = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)
    with pytest.raises(InteropError, match=r"before 1\.6") as error:
        interop.load(old)
    assert "torch.save(torch.load(path, weights_only=True), path)" in str(error.value)
    torch.save(torch.load(old, weights_only=True), path)
    places = [f"encoder.encoder.{block}.mconv" for block in range(2)]
    pairs = {
        f"{block}/{i}": (f"{place}.{first}.conv", f"{place}.{first + 1}.conv")
        for block, place in enumerate(places)
        for i, first in enumerate((0, 5))
    }
    with pytest.warns(InteropWarning) as caught:
        layers = interop.load(path, pairs=pairs)
    (told,) = (str(warning.message) for warning in caught)
    norms = [f"{place}.{number}" for place in places for number in (2, 7)]
    assert f": {', '.join(f'{norm} (a BatchNorm of 4 channels)' for norm in norms)}, " in told
    assert "encoder.encoder.1.res.0.1 (a BatchNorm" in told
    assert [layer.path for layer in layers] == list(pairs)
    x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype("float32")
    for layer, (first, second) in zip(layers, pairs.values(), strict=True):
        made = model.get_submodule(first), model.get_submodule(second)
        assert_close(ours(layer, x, padding="same"), theirs(*made, x))
    dest = tmp_path / "out.safetensors"
    interop.save(dest, layers)
    sides = checking.Side(path, "torch", {"pairs": pairs}), checking.Side(dest, "safetensors")
    assert max(checking.differences(*sides).values()) < checking.TOLERANCE
