"""Random layers, drawn by hypothesis, and the comparison of two libraries' answers about one."""

import contextlib
import dataclasses
import functools
import random
import types
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

WEIGHTS = ("depthwise_kernel", "pointwise_kernel", "bias")
LAYERS = ("SeparableConv1D", "DepthwiseConv1D")
PADDINGS = ("valid", "same", "causal")
DATA_FORMATS = ("channels_last", "channels_first")
# Strides and dilation rates that a layer may have together.
STEPS = {"dense": ((1,), (1,)), "strided": ((2, 3, 5), (1,)), "dilated": ((1,), (2, 3))}

# Names that Keras 3 has, and those of them that Keras 2 defines in the same way.
KERAS_2_ACTIVATIONS = (
    *("elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu"),
    *("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
)
ACTIVATIONS = (
    *KERAS_2_ACTIVATIONS,
    *("celu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh"),
    *("log_sigmoid", "soft_shrink", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus"),
    *("tanh_shrink", "threshold"),
)
# They mix the elements of the last axis, so that they do not commute with a transposition.
ALONG_LAST_AXIS = ("glu", "log_softmax", "softmax", "sparsemax")
# TensorFlow keeps their constants in float32, whatever the dtype.
SINGLE_PRECISION_IN_TF = ("gelu", "leaky_relu")

# Coefficients are multiples of a power of two: TensorFlow rounds them to float32.
_REGULARIZERS = (
    None,
    ("L1", {"l1": 3 / 64}),
    ("L2", {"l2": 5 / 64}),
    ("L1L2", {"l1": 1 / 32, "l2": 7 / 128}),
)

_REPEATABLE = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # a shrink costs minutes
    suppress_health_check=list(hypothesis.HealthCheck),
)


def examples(count: int) -> hypothesis.settings:
    """Ask hypothesis for so many examples, the same on every run."""
    return hypothesis.settings(_REPEATABLE, max_examples=count)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One layer, its input's shape, and the seed of its numbers."""

    batch: int
    length: int
    channels: int
    filters: int
    kernel_size: int
    strides: int
    padding: str
    data_format: str
    dilation_rate: int
    depth_multiplier: int
    activation: str | None
    use_bias: bool
    regularizers: tuple[Any, Any, Any, Any]
    dtype: str
    seed: int
    class_name: str = "SeparableConv1D"

    @property
    def has_pointwise(self) -> bool:
        return self.class_name == "SeparableConv1D"

    @property
    def features(self) -> int:
        """Count the output's channels."""
        return self.filters if self.has_pointwise else self.channels * self.depth_multiplier

    @property
    def undrawn(self) -> dict[str, str]:
        """The arguments of a layer whose weights are set afterwards: no random ones first."""
        kernels = ("depthwise", "pointwise") if self.has_pointwise else ("depthwise",)
        return {f"{kernel}_initializer": "zeros" for kernel in kernels}

    @property
    def padded(self) -> tuple[int, int]:
        """Zeros on the left and on the right, by TensorFlow's rule."""
        reach = self.dilation_rate * (self.kernel_size - 1)
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return reach, 0
        outputs = -(-self.length // self.strides)
        total = max((outputs - 1) * self.strides + reach + 1 - self.length, 0)
        return total // 2, total - total // 2

    @property
    def output_length(self) -> int:
        reach = self.dilation_rate * (self.kernel_size - 1)
        return (self.length + sum(self.padded) - reach - 1) // self.strides + 1

    def arguments(self, library: types.ModuleType) -> dict[str, Any]:
        """Return the arguments of the layer, its regularizers made by the library."""

        def regularizer(wanted: Any) -> Any:
            if wanted is None or isinstance(wanted, str):
                return wanted
            return getattr(library.regularizers, wanted[0])(**wanted[1])

        depthwise, pointwise, bias, activity = map(regularizer, self.regularizers)
        activation: Any = self.activation
        if activation == "threshold":  # it has no defaults: the name alone is no activation
            activation = functools.partial(
                library.activations.threshold, threshold=0.25, default_value=0.5
            )
        of_pointwise = {"filters": self.filters, "pointwise_regularizer": pointwise}
        return {
            **(of_pointwise if self.has_pointwise else {}),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "depth_multiplier": self.depth_multiplier,
            "activation": activation,
            "use_bias": self.use_bias,
            "depthwise_regularizer": depthwise,
            "bias_regularizer": bias,
            "activity_regularizer": activity,
        }

    def numbers(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the weights by name, and the input."""
        rng = np.random.default_rng(self.seed)
        B, L, C, K = self.batch, self.length, self.channels, self.kernel_size
        M, F = self.depth_multiplier, self.filters
        weights = {
            "depthwise_kernel": rng.standard_normal((K, C, M)) / np.sqrt(K),
            "pointwise_kernel": rng.standard_normal((1, C * M, F)) / np.sqrt(C * M),
        }
        if not self.has_pointwise:
            del weights["pointwise_kernel"]
        if self.use_bias:
            weights["bias"] = rng.standard_normal(self.features)
        shape = (B, L, C) if self.data_format == "channels_last" else (B, C, L)
        x = rng.standard_normal(shape)
        return {n: w.astype(self.dtype) for n, w in weights.items()}, x.astype(self.dtype)

    def cotangent(self, shape: Sequence[int]) -> np.ndarray:
        """Return what the gradient of the output starts from."""
        rng = np.random.default_rng(self.seed + 1)
        return rng.standard_normal(tuple(shape)).astype(self.dtype)

    @property
    def terms(self) -> dict[str, int]:
        """Count what is summed, one after the other, on the longest way to each result."""
        forward = self.kernel_size + self.channels * self.depth_multiplier + 1
        positions = self.batch * self.output_length
        return {
            "output": forward,
            "inputs": forward + self.filters + self.kernel_size * self.depth_multiplier,
            "depthwise_kernel": forward + self.filters + positions,
            "pointwise_kernel": forward + positions,
            "bias": forward + positions,
            "losses": forward + positions * self.features,
        }


@st.composite
def layers(
    draw: st.DrawFn,
    *,
    paddings: Sequence[str] = PADDINGS,
    data_formats: Sequence[str] = DATA_FORMATS,
    steps: Sequence[tuple[Sequence[int], Sequence[int]]] = tuple(STEPS.values()),
    activations: Sequence[str | None] = (None,),
    dtypes: Sequence[str] = ("float32",),
    classes: Sequence[str] = ("SeparableConv1D",),
) -> Setting:
    """Draw a layer; B, L, C, K, M and F all differ, so that swapped axes cannot pass."""
    # One draw: of many small ones hypothesis would change a few and keep the shapes. Its first
    # number is always 0: what is asked for goes into the seed, so that 0 is not always the same.
    number = draw(st.integers(0, 2**64 - 1))
    rng = random.Random(repr((number, paddings, data_formats, steps, activations, dtypes)))
    padding, data_format = rng.choice(paddings), rng.choice(data_formats)
    all_strides, dilation_rates = rng.choice(steps)
    strides, dilation_rate = rng.choice(all_strides), rng.choice(dilation_rates)
    M = rng.choice((1, 1, 2, 3))
    B, C, K, F = rng.sample([n for n in range(1, 9) if n != M], 4)
    span = dilation_rate * (K - 1) + 1
    shortest = span if padding == "valid" else 1
    L = rng.choice([n for n in range(shortest, shortest + 20) if n not in (B, C, K, M, F)])
    dtype = rng.choice(dtypes)
    # An output that sees nothing but padding must not sit on the kink of a relu.
    use_bias = rng.random() < 0.7 or span > L
    names = _REGULARIZERS if dtype == "float64" else (*_REGULARIZERS, "l1", "l2")
    setting = Setting(
        batch=B,
        length=L,
        channels=C,
        filters=F,
        kernel_size=K,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilation_rate=dilation_rate,
        depth_multiplier=M,
        activation=rng.choice(activations),
        use_bias=use_bias,
        regularizers=tuple(rng.choices(names, k=4)),
        dtype=dtype,
        seed=rng.getrandbits(32),
        class_name=rng.choice(classes),
    )
    if setting.activation == "glu":
        halved = setting.features if data_format == "channels_last" else setting.output_length
        hypothesis.assume(halved % 2 == 0)
    if dtype == "float64":
        hypothesis.assume(setting.activation not in SINGLE_PRECISION_IN_TF)
    return setting


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a library says: output, losses, and the gradient of sum(output * cotangent) + losses."""

    output: np.ndarray
    losses: np.ndarray
    gradients: dict[str, np.ndarray]

    @classmethod
    def of(cls, output: Any, losses: Sequence[Any], gradients: dict[str, Any]) -> "Answer":
        return cls(
            np.asarray(output),
            np.sort(np.asarray([np.asarray(value) for value in losses], np.float64)),
            {name: np.asarray(value) for name, value in gradients.items()},
        )


def assert_close(actual: Any, desired: Any, *, terms: int, dtype: Any, what: str = "") -> None:
    """Compare to rounding: 4 units of the dtype for each term summed, at the array's scale."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape, f"{what}: {actual.shape} is not {desired.shape}"
    scale = max(1.0, float(np.abs(desired).max(initial=0)))
    bound = 4 * terms * float(jnp.finfo(dtype).eps) * scale
    np.testing.assert_allclose(actual, desired, rtol=0, atol=bound, err_msg=what)


def assert_same_answer(ours: Answer, theirs: Answer, setting: Setting) -> None:
    """Compare output, losses and every gradient."""
    terms, dtype = setting.terms, setting.dtype
    assert ours.output.dtype == theirs.output.dtype == np.dtype(dtype)
    assert_close(ours.output, theirs.output, terms=terms["output"], dtype=dtype, what="output")
    assert_close(ours.losses, theirs.losses, terms=terms["losses"], dtype=dtype, what="losses")
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in theirs.gradients.items():
        assert_close(
            ours.gradients[name], gradient, terms=terms[name], dtype=dtype, what=f"d/d {name}"
        )


@contextlib.contextmanager
def precision_of(setting: Setting):
    """Let JAX compute in the dtype of the setting, without the shortcuts of a GPU."""
    with jax.enable_x64(setting.dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def answer_of_jax(
    apply: Callable[[dict[str, Any], Any], tuple[Any, Any]], setting: Setting
) -> Answer:
    """Evaluate and differentiate apply(weights, inputs) -> (output, losses) in one jitted call."""
    weights, x = setting.numbers()

    @jax.jit
    def evaluate(weights: dict[str, Any], x: Any) -> Any:
        (y, losses), pullback = jax.vjp(apply, weights, x)
        ones = jax.tree.map(jnp.ones_like, losses)
        return y, losses, pullback((jnp.asarray(setting.cotangent(y.shape)), ones))

    with precision_of(setting):
        y, losses, (gradients, inputs) = evaluate(weights, x)
        return Answer.of(y, jax.tree.leaves(losses), {"inputs": inputs, **gradients})
