"""The layers on ragged batches, beside what Keras makes of masks and NeMo of lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sepconv as fsc
from flax_sepconv import ops
from tests import peers

N = np.array([9, 0, 4, 11, 1])
RNG = np.random.default_rng(0)
CLEAN = RNG.standard_normal((5, 11, 3)).astype(np.float32)
CLEAN[np.arange(11) >= N[:, None]] = 0
SPOILED = CLEAN.copy()
SPOILED[np.arange(11) >= N[:, None]] = np.nan


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


def both_systems(x=CLEAN, class_name="SeparableConv1D", **arguments):
    """Return apply(weights, x, lengths) -> (y, losses) in linen and in nnx, and the weights."""
    sizes = (6, 4) if class_name == "SeparableConv1D" else (4,)
    linen = getattr(fsc, class_name)(*sizes, bias_initializer="ones", **arguments)
    weights = linen.init(jax.random.key(0), x)["params"]

    def apply_linen(weights, x, lengths):
        y, state = linen.apply({"params": weights}, x, lengths, mutable=["losses"])
        return y, fsc.regularization_loss(state)

    def apply_nnx(weights, x, lengths):
        layer = getattr(fsc.nnx, class_name)(3, *sizes, rngs=nnx.Rngs(0), **arguments)
        for name, weight in weights.items():
            getattr(layer, name)[...] = weight
        y = layer(x, lengths)
        return y, fsc.nnx.regularization_loss(layer)

    return weights, {"linen": apply_linen, "nnx": apply_nnx}


@pytest.mark.parametrize("system", ["linen", "nnx"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "same", "activation": "sigmoid"},
        {"padding": "same", "strides": 3, "activation": "softmax"},
        {"padding": "causal", "dilation_rate": 2, "activation": "softplus"},
        {"padding": "valid", "strides": 2, "activation": None},
        {"padding": "valid", "activation": jnp.log},
        {"padding": "same", "activation": "relu", "data_format": "channels_first"},
        {"padding": "same", "activation": "glu"},
        {"padding": "same", "activation": "sigmoid", "class_name": "DepthwiseConv1D"},
        {"padding": "causal", "activation": None, "class_name": "DepthwiseConv1D"},
    ],
    ids=lambda arguments: "-".join(getattr(v, "__name__", str(v)) for v in arguments.values()),
)
def test_rows_are_sequences_alone(system, arguments):
    first = arguments.get("data_format") == "channels_first"
    x, clean = (a.swapaxes(1, 2) if first else a for a in (SPOILED, CLEAN))
    weights, layers = both_systems(clean, **arguments)
    layer = layers[system]

    def total(weights, x):
        y, _ = layer(weights, x, N)
        return jnp.where(jnp.isfinite(y), y, 0).sum(), y  # A log of something negative is NaN.

    evaluate = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, y), (gradients, dx) = jax.tree.map(np.asarray, evaluate(weights, x))
    if first:
        y, dx = y.swapaxes(1, 2), dx.swapaxes(1, 2)
    counted = {k: arguments.get(k, 1) for k in ("strides", "dilation_rate")}
    ends = ops.output_length(N, 4, **counted, padding=arguments["padding"])
    for b, (n, end) in enumerate(zip(N, ends, strict=True)):
        assert not y[b, end:].any()
        assert not dx[b, n:].any()
        if end:
            row = clean[b : b + 1, :, :n] if first else clean[b : b + 1, :n]
            alone = np.asarray(layer(weights, row, None)[0])
            close(y[b, :end], alone[0].T if first else alone[0])
    if arguments["activation"] is not jnp.log:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("system", ["linen", "nnx"])
@pytest.mark.parametrize("regularizer", ["l1", "l2"])
def test_activity_regularizer_counts_valid_steps_and_divides_by_the_batch(system, regularizer):
    """sigmoid(0) is not 0, and the bias is not: what stands behind the ends would be counted."""
    arguments = {"padding": "same", "strides": 2, "activation": "sigmoid"}
    weights, layers = both_systems(**arguments, activity_regularizer=regularizer)
    layer = layers[system]
    loss = layer(weights, SPOILED, N)[1]
    power = {"l1": 1, "l2": 2}[regularizer]
    rows = [np.asarray(layer(weights, CLEAN[b : b + 1, :n], None)[0]) for b, n in enumerate(N) if n]
    close(loss, 0.01 * sum((abs(row) ** power).sum() for row in rows) / len(N))


@pytest.mark.parametrize("system", ["linen", "nnx"])
def test_rows_of_no_length_give_and_get_nothing(system):
    weights, layers = both_systems(padding="same", activation="sigmoid", activity_regularizer="l2")

    def total(weights, x):
        y, loss = layers[system](weights, x, np.zeros(5, int))
        return (y**2).sum() + y.sum() + loss

    value, gradients = jax.value_and_grad(total, (0, 1))(weights, np.full_like(CLEAN, np.nan))
    assert value == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_keras_masking_hands_zeros_on_and_drops_the_mask(padding):
    """With strides 1 Keras' steps up to the end are ours; behind it Keras has the bias, ours zero.

    Keras' Masking writes zeros and a mask; its SeparableConv1D convolves the zeros and destroys the
    mask, with a warning.
    """
    keras = peers.keras()
    masking = keras.layers.Masking(mask_value=-99.0)
    convolution = keras.layers.SeparableConv1D(6, 4, padding=padding, bias_initializer="ones")
    x = np.where(np.arange(11)[:, None] < N[:, None, None], CLEAN, -99.0).astype(np.float32)
    with pytest.warns(UserWarning, match="destroy the mask information"):
        theirs = np.asarray(convolution(masking(x)))
    k, p, bias = (np.asarray(weight.value) for weight in convolution.weights)
    y = ops.separable_conv1d(SPOILED, k, p, bias, padding=padding, lengths=N)
    ends = ops.output_length(N, 4, padding=padding)
    inside = np.arange(theirs.shape[1]) < ends[:, None]
    close(np.asarray(y)[inside], theirs[inside])
    assert not np.asarray(y)[~inside].any()
    assert theirs[1].all()  # A sequence without a step: the bias everywhere.


def test_keras_pads_a_strided_same_by_the_longest_sequence():
    """With "same" and strides 2 the same sequence has two results in Keras, by what pads it."""
    keras = peers.keras()
    convolution = keras.layers.SeparableConv1D(6, 3, strides=2, padding="same")
    sequence = CLEAN[3:4, :10]
    alone = np.asarray(convolution(sequence))
    padded = np.asarray(convolution(np.pad(sequence, ((0, 0), (0, 1), (0, 0)))))[:, :5]
    assert abs(alone - padded).max() > 0.01
    k, p, bias = (np.asarray(weight.value) for weight in convolution.weights)
    spoiled = np.pad(sequence, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    y = ops.separable_conv1d(spoiled, k, p, bias, strides=2, padding="same", lengths=[10])
    close(y[:, :5], alone)


class MaskedConv1d:
    """NeMo's, from its described behaviour, in PyTorch.

    (B, C, T) and lengths in, steps from the length on filled with zeros, an ordinary convolution
    with the same zeros on both sides; out come its result, not masked (the next layer does so), and
    the lengths by (n + 2 padding - dilation (K - 1) - 1) // stride + 1.
    """

    def __init__(self, weight, bias, *, stride=1, padding=0, dilation=1, groups=1):
        self.weight, self.bias = weight, bias
        self.settings = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }

    def __call__(self, x, lengths):
        torch = peers.torch()
        behind = torch.arange(x.shape[2])[None] >= lengths[:, None]
        x = x.masked_fill(behind[:, None], 0)
        y = torch.nn.functional.conv1d(x, self.weight, self.bias, **self.settings)
        reach = self.settings["dilation"] * (self.weight.shape[2] - 1)
        ends = (lengths + 2 * self.settings["padding"] - reach - 1) // self.settings["stride"] + 1
        return y, ends


@pytest.mark.parametrize(
    ("K", "S", "D", "padding"),
    [
        (5, 1, 1, "same"),
        (3, 1, 3, "same"),
        (4, 2, 1, "valid"),
        (3, 2, 2, "valid"),
        (5, 2, 1, "same"),
    ],
)
def test_nemo_masked_conv(K, S, D, padding):
    """A depthwise and a pointwise MaskedConv1d, as Jasper's and QuartzNet's separable blocks.

    With strides 2 NeMo's zeros, K // 2 on either side, are TensorFlow's for odd lengths alone.
    """
    torch = peers.torch()
    rng = np.random.default_rng(K)
    k, p, bias = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((K, 3, 1), (1, 3, 6), (6,))
    )
    n = np.array([9, 11, 7, 11, 9]) if S > 1 and padding == "same" else N[[0, 2, 3, 3, 0]] + 0
    n = np.maximum(n, D * (K - 1) + 1) if padding == "valid" else n
    x = RNG.standard_normal((5, 11, 3)).astype(np.float32)
    x[np.arange(11) >= n[:, None]] = np.nan
    as_torch = lambda a: torch.from_numpy(np.ascontiguousarray(a.transpose(2, 1, 0)))  # noqa: E731
    zeros = D * (K - 1) // 2 if padding == "same" else 0
    settings = {"stride": S, "padding": zeros, "dilation": D, "groups": 3}
    depthwise = MaskedConv1d(as_torch(k.transpose(0, 2, 1)), None, **settings)
    pointwise = MaskedConv1d(as_torch(p), torch.from_numpy(bias))
    h, ends = depthwise(torch.from_numpy(x.transpose(0, 2, 1).copy()), torch.from_numpy(n))
    theirs, ends = pointwise(h, ends)
    ours = ops.separable_conv1d(
        x, k, p, bias, strides=S, dilation_rate=D, padding=padding, lengths=n
    )
    np.testing.assert_array_equal(ops.output_length(n, K, S, padding, D), ends)
    for b, end in enumerate(ends.tolist()):
        close(ours[b, :end], theirs[b, :, :end].T.numpy())
        assert not np.asarray(ours[b, end:]).any()
