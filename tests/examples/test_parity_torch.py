"""The blocks against PyTorch's own layers with the same weights, in training mode."""

import functools

import jax
import numpy as np
import pytest

from examples import conformer, conv_tasnet, convnext, lite, mamba, quartznet
from tests import peers
from tests.examples.cases import variables_of


class Torch:
    """PyTorch's functions, channels first, on the weights of one of our modules."""

    def __init__(self, params):
        self.torch, self.F = peers.torch(), peers.torch().nn.functional
        self.params = params

    def weight(self, *path):
        value = functools.reduce(lambda tree, key: tree[key], path, self.params)
        return self.torch.tensor(np.asarray(value))

    def bias(self, *path):
        tree = functools.reduce(lambda tree, key: tree[key], path, self.params)
        return self.weight(*path, "bias") if "bias" in tree else None

    def depthwise(self, x, *path, padding, **settings):
        kernel = self.weight(*path, "depthwise_kernel")
        return self.F.conv1d(
            self.F.pad(x, padding), kernel.permute(1, 2, 0), groups=x.shape[1], **settings
        )

    def pointwise(self, x, *path, kernel="kernel", stride=1):
        weight = self.weight(*path, kernel)
        weight = weight.reshape(weight.shape[-2:]).T[..., None]
        return self.F.conv1d(x, weight, self.bias(*path), stride)

    def batch_norm(self, x, *path, epsilon):
        norm = self.torch.nn.BatchNorm1d(x.shape[1], epsilon)
        norm.weight.data, norm.bias.data = self.weight(*path, "scale"), self.bias(*path)
        return norm(x)

    def layer_norm(self, x, *path, epsilon):
        scale, bias = self.weight(*path, "scale"), self.bias(*path)
        return self.F.layer_norm(x.mT, scale.shape, scale, bias, epsilon).mT

    def global_norm(self, x, *path, epsilon=1e-8):
        return self.F.group_norm(x, 1, self.weight(*path, "scale"), self.bias(*path), epsilon)

    def prelu(self, x, *path):
        return self.F.prelu(x, self.weight(*path, "negative_slope").reshape(1))


def quartznet_block(t, x):
    y, dilation = x, 2
    for r, padding in enumerate([(8, 8), (8, 8)]):
        y = t.depthwise(y, f"conv{r}", padding=padding, dilation=dilation)
        y = t.pointwise(y, f"conv{r}", kernel="pointwise_kernel")
        y = t.batch_norm(y, f"norm{r}", epsilon=1e-3)
        y = y if r else t.F.relu(y)
    gate = t.pointwise(t.F.adaptive_avg_pool1d(y, 1), "gate", "squeeze")
    y = y * t.torch.sigmoid(t.pointwise(t.F.relu(gate), "gate", "excite"))
    residual = t.batch_norm(t.pointwise(x, "residual"), "residual_norm", epsilon=1e-3)
    return t.F.relu(y + residual)


def strided_block(t, x):
    """Of 24 frames and 6 taps TensorFlow's rule makes 4 zeros, 2 at each end."""
    y = t.depthwise(x, "conv0", padding=(2, 2), stride=2)
    y = t.pointwise(y, "conv0", kernel="pointwise_kernel")
    y = t.batch_norm(y, "norm0", epsilon=1e-3)
    residual = t.batch_norm(t.pointwise(x, "residual", stride=2), "residual_norm", epsilon=1e-3)
    return t.F.relu(y + residual)


def conformer_module(t, x, padding=(2, 3)):
    y = t.F.glu(t.pointwise(t.layer_norm(x, "norm", epsilon=1e-5), "expand"), dim=1)
    y = t.depthwise(y, "depthwise", padding=padding, bias=t.bias("depthwise"))
    y = t.F.silu(t.batch_norm(y, "depthwise_norm", epsilon=1e-5))
    return t.pointwise(y, "project")


def convnext_block(t, x):
    y = t.depthwise(x, "depthwise", padding=(3, 3), bias=t.bias("depthwise"))
    y = t.F.gelu(t.pointwise(t.layer_norm(y, "norm", epsilon=1e-6), "expand"))
    return x + t.weight("scale")[:, None] * t.pointwise(y, "project")


def tasnet_block(t, x, *path, dilation=2):
    y = t.prelu(t.pointwise(x, *path, "expand"), *path, "expand_prelu")
    y = t.global_norm(y, *path, "expand_norm")
    bias = t.bias(*path, "depthwise")
    padding = (dilation, dilation)
    y = t.depthwise(y, *path, "depthwise", padding=padding, dilation=dilation, bias=bias)
    y = t.global_norm(t.prelu(y, *path, "depthwise_prelu"), *path, "depthwise_norm")
    return x + t.pointwise(y, *path, "residual"), t.pointwise(y, *path, "skip")


def tasnet(t, x):
    """With frames by a strided convolution, and waveforms by a transposed one."""
    wave = t.F.pad(x.mT.reshape(len(x), 1, -1), (2, 2))
    frames = t.F.conv1d(wave, t.weight("encoder", "kernel").T[:, None], stride=2)
    y = t.global_norm(frames, "separator", "norm")
    y, total = t.pointwise(y, "separator", "bottleneck"), 0.0
    for b in range(2):
        y, skip = tasnet_block(t, y, "separator", f"block0_{b}", dilation=2**b)
        total = total + skip
    masks = t.pointwise(t.prelu(total, "separator", "masks_prelu"), "separator", "masks")
    basis = t.weight("decoder", "kernel")[:, None]
    voices = [
        t.F.conv_transpose1d(frames * t.torch.sigmoid(mask), basis, stride=2)[..., 2:-2]
        for mask in masks.chunk(2, dim=1)
    ]
    return t.torch.cat(voices, dim=1)


def mamba_convolution(t, x):
    padding, bias = (3, 0), t.bias("depthwise")
    return t.F.silu(t.depthwise(x, "depthwise", padding=padding, bias=bias))


class Waveform(conv_tasnet.ConvTasNet):
    """(B, T, 1) -> (B, T, voices), as the other modules have it."""

    def __call__(self, x):
        return super().__call__(x[..., 0]).swapaxes(1, 2)


SEPARATOR = conv_tasnet.Separator(bottleneck=6, hidden=8, skip=5, blocks=2, repeats=1)
PAIRS = {
    "quartznet": (
        quartznet.Block(8, 9, 2, dilation_rate=2, reduction=4),
        quartznet_block,
        6,
    ),
    "quartznet, strides": (quartznet.Block(8, 6, 1, 2), strided_block, 6),
    "conformer": (conformer.ConvolutionModule(6), conformer_module, 6),
    "conformer, causal": (
        conformer.ConvolutionModule(6, causal=True),
        functools.partial(conformer_module, padding=(5, 0)),
        6,
    ),
    "convnext": (convnext.Block(), convnext_block, 6),
    "conv_tasnet": (conv_tasnet.Block(8, 5, dilation_rate=2), tasnet_block, 6),
    "conv_tasnet, network": (Waveform(SEPARATOR, 7, 4), tasnet, 1),
    "mamba": (mamba.ShortConvolution(), mamba_convolution, 6),
}


@pytest.mark.parametrize(("module", "theirs", "channels"), PAIRS.values(), ids=PAIRS)
def test_same_numbers(module, theirs, channels):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 24, channels), np.float32)
    variables = variables_of(module, x)
    if "batch_stats" in variables:
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        y, _ = jax.jit(apply)(variables, x)
    else:
        y = jax.jit(module.apply)(variables, x)
    t = Torch(variables["params"])
    with t.torch.no_grad():
        expected = theirs(t, t.torch.tensor(x).mT)
    for mine, other in zip(jax.tree.leaves(y), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other.mT, rtol=0, atol=1e-5 * other.abs().max())


def test_lite_is_that_of_aeon():
    tf = peers.tf()
    aeon = pytest.importorskip("aeon.networks", reason="this comparison did NOT run")
    network = lite.Lite(3, filters=6, kernel_size=12)
    x = np.random.default_rng(6).standard_normal((2, 43, 1), np.float32)
    variables = variables_of(network, x)
    params = variables["params"]
    model = tf.keras.Model(*aeon.LITENetwork(n_filters=6, kernel_size=12).build_network((43, 1)))
    names = [f"parallel{i}" for i in range(3)] + ["parallel_norm"]
    names += ["separable0", "separable0_norm", "separable1", "separable1_norm"]
    order = ["kernel", "depthwise_kernel", "pointwise_kernel", "scale", "bias"]
    values = [params[name][each] for name in names for each in order if each in params[name]]
    for weight, value in zip(model.trainable_weights, values, strict=True):
        weight.assign(np.reshape(value, weight.shape))
    expected = np.asarray(model(x, training=True)) @ params["head"]["kernel"]
    expected += params["head"]["bias"]
    apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    logits, _ = jax.jit(apply)(variables, x)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
