"""Norms between PyTorch's two modules: folded to PyTorch's own output, or seen and refused."""

import collections
import re
import warnings

import numpy as np
import pytest

from flax_sepconv import interop
from flax_sepconv.interop import InteropError, InteropWarning, checking
from flax_sepconv.interop.command import main
from tests import oracle, peers
from tests.interop.test_torch import written

B, L, C, K, M, F = 2, 13, 4, 3, 3, 5
X = np.random.default_rng(1).standard_normal((B, L, C))


def convolutions(M=M, F=F, bias=True):
    nn = peers.torch().nn
    first = nn.Conv1d(C, C * M, K, groups=C, padding=1, bias=bias)
    return first, nn.Conv1d(C * M, F, 1, bias=bias)


def loaded(*given, **more):
    """Load the one layer of a file; return it, and all that was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InteropWarning)
        (layer,) = interop.load(*given, **more)
    return layer, "\n".join(str(warning.message) for warning in caught)


def batch_norm(n, **given):
    """Make a norm that was trained: nothing of it is 0 or 1."""
    torch = peers.torch()
    norm = torch.nn.BatchNorm1d(n, **given)
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            tensor.copy_(torch.rand(n) + 0.5)
    return norm


def chain(*modules):
    return peers.torch().nn.Sequential(*modules)


def named(**children):
    return peers.torch().nn.Sequential(collections.OrderedDict(children))


def theirs(model, x=X):
    torch = peers.torch()
    with torch.no_grad():
        return model.double().eval()(torch.tensor(x).mT).mT.numpy()


def assert_computes(layer, y):
    """Compare what the weights compute in float64, with padding 1 at both ends."""
    assert layer.dtype == np.float64
    weights = layer.weights
    found = oracle.separable(
        X,
        weights["depthwise_kernel"],
        weights["pointwise_kernel"],
        weights.get("bias"),
        padding="same",
    )
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-13 * np.abs(y).max())


def block(M=M, F=F, middle=None, bias=True, **more):
    """A block of MobileNet's kind without its activation, and what its two modules are called."""
    dw, pw = convolutions(M, F, bias)
    norm = batch_norm(C * M) if middle is None else middle
    return named(block=named(dw=dw, bn1=norm, pw=pw, **more)), ("block.dw", "block.pw", M)


# A model whose output ends where the layer's does, the modules' names, and options.
FOLDED = {
    "names": lambda: (*block(), {}),
    "no biases": lambda: (*block(bias=False), {}),
    "not affine": lambda: (*block(middle=batch_norm(C * M, affine=False)), {}),
    "eps": lambda: (*block(middle=batch_norm(C * M, eps=0.3)), {"norm_eps": 0.3}),
    "two": lambda: (
        *block(middle=chain(batch_norm(C * M), peers.torch().nn.Dropout(), batch_norm(C * M))),
        {},
    ),
    "numbers": lambda: (
        chain(*(dw_pw := convolutions())[:1], batch_norm(C * M), *dw_pw[1:]),
        ("0", "2", M),
        {},
    ),
    "numbers beyond 9": lambda: (
        chain(*[peers.torch().nn.Identity()] * 9, *(c := convolutions())[:1], batch_norm(12), c[1]),
        ("9", "11", M),
        {},
    ),
    "in a module of its own": lambda: (
        named(
            b=named(depthwise=chain((c := convolutions())[0], batch_norm(12)), other=chain(c[1]))
        ),
        ("b.depthwise.0", "b.other.0", M),
        {},
    ),
}


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("case", FOLDED)
def test_folded_norms(tmp_path, case, container):
    model, pair, options = FOLDED[case]()
    y = theirs(model)
    path = written(tmp_path, model.state_dict(), container)
    if (case, container) == ("two", "safetensors"):  # Names alone do not tell of both.
        with pytest.raises(InteropError, match="may stand between"):
            interop.load(path, pairs={"a": pair}, fold_norms=True)
        return
    with pytest.raises(InteropError, match=r"between|may stand"):
        interop.load(path, pairs={"a": pair})
    layer, told = loaded(path, pairs={"a": pair}, fold_norms=True, **options)
    assert re.fullmatch("layer 'a': .* is folded into it, with eps .*no activation.*", told)
    assert_computes(layer, y)


def test_a_norm_that_is_named_in_a_pair(tmp_path):
    """Also where the file does not tell that it stands there: no order, and as many as may be."""
    dw, pw = convolutions(M=1)
    model = named(dw=dw, bn1=batch_norm(C), pw=pw).double()
    y = theirs(model)
    path = written(tmp_path, model.state_dict(), "safetensors")
    layer, told = loaded(path, pairs={"a": ("dw", "bn1", "pw")})
    assert "'a': bn1 is folded into it, with eps 1e-05 " in told
    assert_computes(layer, y)
    for pairs, message in (
        ({"a": ("dw", "bn2", "pw")}, "has nothing of the norm 'bn2'"),
        ({"a": ("dw", "pw", "pw")}, "the norm between its two modules has no running_mean"),
        ({"a": ("dw", "bn1", "bn1", "pw")}, "must be the names of the depthwise and the pointwise"),
    ):
        with pytest.raises(InteropError, match=message):
            interop.load(path, pairs=pairs)
    with pytest.raises(InteropError, match=r"norm_eps .* must be a number >= 0, got -1"):
        interop.load(path, pairs={"a": ("dw", "bn1", "pw")}, norm_eps=-1.0)


# What stands between the two modules of a layer and is no norm to fold.
REFUSED = {
    "GroupNorm": lambda nn: nn.GroupNorm(2, C * M),
    "LayerNorm": lambda nn: nn.LayerNorm(C * M),
    "no statistics": lambda nn: nn.BatchNorm1d(C * M, track_running_stats=False),
    "PReLU": lambda nn: nn.PReLU(),
    "another convolution": lambda nn: nn.Conv1d(C * M, C * M, 1),
    "a norm and a module": lambda nn: nn.Sequential(batch_norm(C * M), nn.PReLU(C * M)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded(tmp_path, case):
    nn = peers.torch().nn
    made = REFUSED[case](nn)
    model, pair = block(middle=made)
    path = written(tmp_path, model.state_dict())
    with pytest.raises(InteropError, match=r"block\.bn1.* stands between block\.dw and block\.pw"):
        interop.load(path, pairs={"a": pair}, fold_norms=True)
    dw, _, pw = model[0]
    with pytest.raises(InteropError, match=r"depthwise\[1\].* stands between|cannot be folded"):
        interop.from_modules(chain(dw, made), pw, fold_norms=True)


# Norms made elsewhere than between: the modules' names in order, by C*M == F or not, and what to
# expect without an option: a warning that it is not converted, or an error.
PLACED = {
    ("behind", True): ("dw pw bn", "pt safetensors"),
    ("behind", False): ("dw pw bnF", "pt safetensors"),
    ("in front", True): ("bn dw pw", "pt safetensors"),
    ("in front", False): ("bn dw pw", "pt"),
    ("two behind", True): ("dw pw bn bn2", ""),
    ("both in front", False): ("bn bnF dw pw", ""),
    ("made in another order", False): ("pw bn dw", ""),
    ("sorted", False): ("bn dw pw", ""),
    ("of C*M behind", False): ("dw pw bn", ""),
}


@pytest.mark.parametrize("container", ["pt", "safetensors"])
@pytest.mark.parametrize("case", PLACED, ids=str)
def test_norms_elsewhere(tmp_path, case, container):
    names, converted = PLACED[case]
    F = C if case[1] else 7
    dw, pw = convolutions(M=1, F=F)
    made = {"dw": dw, "pw": pw, "bn": batch_norm(C), "bn2": batch_norm(C), "bnF": batch_norm(F)}
    model = named(**{n: made[n] for n in names.split()}).double()
    path = written(tmp_path, model.state_dict(), container)
    if case[0] == "sorted" and container == "pt":
        peers.torch().save(dict(sorted(model.state_dict().items())), path)
    if container in converted.split():
        layer, told = loaded(path)
        # Of one norm of as many channels no file tells where it is run.
        assert ("may stand between" in told) == ("bn" in names.split())
        if "may stand between" in told:
            with pytest.raises(InteropError, match="may stand between"):
                interop.load(path, fold_norms=True)
        else:
            assert "nothing to fold" in loaded(path, fold_norms=True)[1]
    else:
        with pytest.raises(InteropError, match=r"may stand between dw and pw.*two modules$"):
            interop.load(path)
        layer, told = loaded(path, pairs={"": ("dw", "pw")})
        assert "may stand between dw and pw" in told
    assert re.search(
        r"not converted, being in no layer: bn\w? \(a BatchNorm of \d channels\)", told
    )
    assert_computes(layer, theirs(chain(dw, pw)))


@pytest.mark.parametrize("shape", [(C,), (C, 1), (1, C, 1)])
def test_a_tensor_of_the_block_itself_may_stand_between(tmp_path, shape):
    dw, pw = convolutions(M=1, F=7)
    model = named(dw=dw, pw=pw)
    model.scale = peers.torch().nn.Parameter(peers.torch().ones(shape))
    path = written(tmp_path, model.state_dict())
    with pytest.raises(InteropError, match=r"scale .* may stand between dw and pw"):
        interop.load(path)
    _layer, told = loaded(path, pairs={"": ("dw", "pw")})
    assert "scale" in told
    assert "may stand between" in told


def test_the_command_folds_and_checks(tmp_path, capsys):
    model, _ = block(M=1, extra=batch_norm(F))
    source, dest = written(tmp_path, model.state_dict()), tmp_path / "out.safetensors"
    argv = ["convert", str(source), str(dest), "--check"]
    assert main(argv) == 2
    assert "--fold-norms" in capsys.readouterr().err
    assert not dest.exists()
    assert main([*argv, "--fold-norms"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"note: layer 'block': block\.bn1 is folded .* no activation", printed.err)
    assert f"note: {source}: not converted, being in no layer: block.extra (a Ba" in printed.err
    assert printed.err.count("\n") == 2
    assert "good" in printed.out
    # The check sees it where the norm that PyTorch runs is another than the one that was folded.
    other = checking.Side(source, "torch", {"fold_norms": True, "norm_eps": 0.5})
    (found,) = checking.differences(other, checking.Side(dest, "safetensors")).values()
    assert found > 0.01


# Modules


def test_a_sequential_is_one_layer():
    nn = peers.torch().nn
    dw, pw = convolutions()
    norm = batch_norm(C * M, eps=0.1)
    model = chain(chain(dw, norm), nn.Dropout(0.5), chain(pw, nn.SiLU()))
    y = theirs(model)
    layer = interop.from_modules(model, fold_norms=True, path="a")
    assert layer.config["activation"] in ("silu", "swish")
    assert_computes(layer, theirs(chain(dw, norm, pw)))
    assert_computes(
        interop.from_modules(chain(dw, norm), pw, fold_norms=True),
        theirs(chain(dw, norm, pw)),
    )
    h = oracle.separable(X, *layer.weights.values(), padding="same")
    np.testing.assert_allclose(h / (1 + np.exp(-h)), y, atol=1e-12)
    with pytest.warns(
        InteropWarning, match=r"layer 'a': not converted: depthwise\[3\] \(BatchNorm1d\), "
    ):
        interop.from_modules(
            chain(dw, norm, pw, batch_norm(F), nn.ReLU()), fold_norms=True, path="a"
        )


def test_sequentials_that_are_no_layer():
    nn = peers.torch().nn
    dw, pw = convolutions()
    norm = batch_norm(C * M)

    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x.abs())

    old = nn.utils.spectral_norm(convolutions()[0])
    for given, message in (
        ((chain(dw, norm, pw),), r"depthwise\[1\] \(BatchNorm1d\) stands.*; fold_norms=True folds"),
        ((chain(dw, norm, nn.ReLU(), pw),), r"BatchNorm1d\) stands"),
        ((chain(dw, nn.ReLU()), pw), r"depthwise\[1\] \(ReLU\) stands between the two"),
        ((dw, chain(nn.GELU(), pw)), r"pointwise\[0\] \(GELU\) stands between the two"),
        ((norm, pw), "depthwise must be a torch.nn.Conv1d, got BatchNorm1d"),
        ((pw,), r"groups of depthwise must be its in_channels 12, got 1"),
        ((chain(),), "depthwise must be a torch.nn.Conv1d, got Sequential"),
        ((chain(dw, nn.Linear(C * M, F)),), "Linear in one Sequential"),
        ((Own(dw, pw),), "depthwise is a Own with a forward of its own"),
        ((old, pw), "depthwise has hooks.*remove_weight_norm"),
        ((chain(dw, pw, nn.ReLU()), None, "relu"), "activation is 'relu', and the modules have"),
    ):
        with pytest.raises(InteropError, match=message):
            interop.from_modules(*given)
    with pytest.raises(InteropError, match=r"depthwise\[2\] \(ReLU\) stands"):
        interop.from_modules(chain(dw, norm, nn.ReLU(), pw), fold_norms=True)


def test_parametrizations():
    """What `weight` is then, is computed by PyTorch."""
    torch = peers.torch()
    dw, pw = convolutions()
    torch.nn.utils.parametrizations.weight_norm(dw)
    dw.parametrizations.weight.original0.data *= 3
    assert_computes(interop.from_modules(dw.double(), pw.double()), theirs(chain(dw, pw)))
