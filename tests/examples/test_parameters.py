"""How many parameters the examples have, against what was published.

Shapes are traced, nothing is computed. Where no paper gives a figure for a block alone, its formula
is written out from the paper's figure: Conformer, ConvNeXt and Mamba.
"""

import jax
import jax.numpy as jnp
import pytest

from examples import citrinet, conformer, conv_tasnet, convnext, lite, mamba, matchboxnet, quartznet


def parameters(module, *shape):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(("copies", "millions"), [(1, 6.7), (2, 12.8), (3, 18.9)])
def test_quartznet(copies, millions):
    """QuartzNet-5x5, 10x5 and 15x5: table 1 of the paper; 28 letters and the blank."""
    count = parameters(quartznet.QuartzNet(29, copies), 1, 64, 64)
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(("filters", "millions", "digits"), [(256, 9.8, 1), (1024, 142, 0)])
def test_citrinet(filters, millions, digits):
    """NVIDIA Riva 2.3.0's guide, "ASR models"; with 256 word pieces and the blank."""
    count = parameters(citrinet.Citrinet(257, filters), 1, 64, 80)
    assert round(count / 1e6, digits) == millions


@pytest.mark.parametrize(("repeats", "thousands"), [(1, 77), (2, 93)])
def test_matchboxnet(repeats, thousands):
    """MatchboxNet-3x1x64 and 3x2x64, 30 classes: the paper's table of results."""
    count = parameters(matchboxnet.MatchboxNet(30, repeats), 1, 64, 64)
    assert round(count / 1e3) == thousands


def test_lite():
    """The paper's table of parameters: without the last layer, whose size the data set decides."""
    head = (32 + 1) * 3
    assert parameters(lite.Lite(3), 1, 64, 1) - head == 9814


def test_conv_tasnet():
    """Table II of the paper, non-causal with global normalisation."""
    assert round(parameters(conv_tasnet.ConvTasNet(), 1, 160) / 1e6, 1) == 5.1


def test_vocos():
    """13.5 million: the README of the package `vocos` (vocos-mel-24khz).

    Its last layer makes amplitudes and phases of 513 frequencies each.
    """
    head = (512 + 1) * 2 * 513
    assert round((parameters(convnext.Backbone(), 1, 16, 100) + head) / 1e6, 1) == 13.5


@pytest.mark.parametrize("C", [144, 256, 512])
def test_conformer_module(C):
    """By formula only, for the widths of Conformer (S), (M), (L): the paper counts recognisers."""
    layer_norm = batch_norm = 2 * C
    expand, depthwise, project = C * 2 * C + 2 * C, 32 * C + C, C * C + C
    expected = layer_norm + expand + depthwise + batch_norm + project
    assert parameters(conformer.ConvolutionModule(), 1, 40, C) == expected


@pytest.mark.parametrize("C", [96, 192, 384, 768])
def test_convnext_block(C):
    """By formula only, for the widths of ConvNeXt-T: the paper's taps are 7x7."""
    depthwise, layer_norm, scale = 7 * C + C, 2 * C, C
    expected = depthwise + layer_norm + C * 4 * C + 4 * C + 4 * C * C + C + scale
    assert parameters(convnext.Block(), 1, 16, C) == expected


def test_mamba_convolution():
    """By formula only: 1536 channels and 4 taps, as in the model of 130 million parameters."""
    assert parameters(mamba.ShortConvolution(), 1, 16, 1536) == 1536 * 4 + 1536
