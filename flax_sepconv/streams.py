"""How long a network of layers keeps its streams waiting, and what it remembers of them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from flax_sepconv.ops.arguments import positive_int
from flax_sepconv.ops.state import delay_of


class StreamDelay(NamedTuple):
    """What layers one behind the other cost a stream.

    Attributes:
        delay: input steps that come behind an output step's own before it is there.
        strides: input steps between output steps.
        state: values that all layers together remember of one stream.
    """

    delay: int
    strides: int
    state: int


def stream_delay(layers: Iterable[Any], channels: int) -> StreamDelay:
    """Tell the delay of layers with `decode=True` one behind the other, and their state's size.

    Output step l of the last one is there when input step l * strides + delay has come: a layer's
    own delay, D * (K - 1) less the zeros in front, counts in its own input steps.

    Args:
        layers: of linen or nnx, the first one first.
        channels: C, input channels of the first one.

    Raises:
        ValueError: a layer has a padding that cannot be streamed, or `channels` breaks its rule.

    Example:
        >>> from flax_sepconv.linen import SeparableConv1D
        >>> first = SeparableConv1D(filters=8, kernel_size=5, strides=2, padding=(2, 2))
        >>> second = SeparableConv1D(filters=8, kernel_size=3, padding="same")
        >>> stream_delay([first, second], channels=4)
        StreamDelay(delay=4, strides=2, state=32)
    """
    width, delay, strides, state = positive_int("channels", channels), 0, 1, 0
    for layer in layers:
        own = layer.arguments() if callable(layer.arguments) else layer.arguments
        K, S, D = own.kernel_size, own.strides, own.dilation_rate
        delay += strides * delay_of(own.padding, K, D, S)
        state += D * (K - 1) * width
        strides *= S
        width = own.features(width)
    return StreamDelay(delay, strides, state)
