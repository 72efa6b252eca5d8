"""The operations against PyTorch: Conv1d with groups, and Conv1d of width 1, zeros put by hand."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import flax_sepconv as fsc
from tests import peers, settings
from tests.settings import Answer, Setting

# Stride and dilation at once too: the layer refuses that, the operation does not.
TOGETHER = ((1, 2, 3, 4), (1, 2, 3))


def ours(setting: Setting) -> Answer:
    def apply(weights: dict[str, Any], x: Any) -> tuple[Any, Any]:
        operation = fsc.ops.separable_conv1d if setting.has_pointwise else fsc.ops.depthwise_conv1d
        y = operation(
            x,
            **weights,
            strides=setting.strides,
            padding=setting.padding,
            data_format=setting.data_format,
            dilation_rate=setting.dilation_rate,
        )
        return y, ()

    return settings.answer_of_jax(apply, setting)


def pytorch(setting: Setting) -> Answer:
    torch = peers.torch()
    weights, x = setting.numbers()
    leaves = {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}
    inputs = torch.tensor(x, requires_grad=True)
    last = setting.data_format == "channels_last"
    # (K, C, M) -> (C*M, 1, K) and (1, C*M, F) -> (F, C*M, 1): torch's channel c*M + m is ours.
    depthwise = leaves["depthwise_kernel"].permute(1, 2, 0).flatten(0, 1).unsqueeze(1)
    hidden = torch.nn.functional.conv1d(
        torch.nn.functional.pad(inputs.transpose(1, 2) if last else inputs, setting.padded),
        depthwise,
        None if setting.has_pointwise else leaves.get("bias"),
        stride=setting.strides,
        dilation=setting.dilation_rate,
        groups=setting.channels,
    )
    y = hidden
    if setting.has_pointwise:
        pointwise = leaves["pointwise_kernel"].permute(2, 1, 0)
        y = torch.nn.functional.conv1d(hidden, pointwise, leaves.get("bias"))
    y = y.transpose(1, 2) if last else y
    (y * torch.tensor(setting.cotangent(y.shape))).sum().backward()
    gradients = {name: leaf.grad for name, leaf in {"inputs": inputs, **leaves}.items()}
    return Answer.of(y.detach(), [], gradients)


@pytest.mark.parametrize("data_format", settings.DATA_FORMATS)
@pytest.mark.parametrize("padding", settings.PADDINGS)
@settings.examples(8)
@hypothesis.given(data=st.data())
def test_random_operations(padding: str, data_format: str, data: st.DataObject) -> None:
    layers = settings.layers(
        paddings=[padding],
        data_formats=[data_format],
        steps=[TOGETHER],
        dtypes=["float32", "float64"],
        classes=settings.LAYERS,
    )
    setting = data.draw(layers)
    settings.assert_same_answer(ours(setting), pytorch(setting), setting)
