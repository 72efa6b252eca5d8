"""A table of layers, for people."""

from collections.abc import Sequence

from flax_sepconv import activations
from flax_sepconv.interop.layer import Layer
from flax_sepconv.interop.scales import described
from flax_sepconv.ops.geometry import EDGES
from flax_sepconv.spec import BIAS, DEPTHWISE_KERNEL, POINTWISE_KERNEL

_HEADINGS = (
    "layer",
    "depthwise (K, C, M)",
    "pointwise (1, C*M, F)",
    "bias",
    "dtype",
    "bits",
    "parameters",
    "FLOPs/step",
)
_NUMBERS = 3  # the last columns, which are set flush right


def flops_per_step(layer: Layer) -> int:
    """Count multiplications and additions of one output step, the bias' included.

    Example:
        >>> import numpy as np
        >>> depthwise, pointwise = np.ones((3, 4, 1)), np.ones((1, 4, 5))
        >>> weights = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
        >>> flops_per_step(Layer("conv", weights))
        64
    """
    sizes = layer.sizes
    joined = sizes["C"] * sizes["M"]
    mixing = 2 * joined * sizes["F"] if POINTWISE_KERNEL in layer.weights else 0
    return 2 * sizes["K"] * joined + mixing + sizes["F"] * (BIAS in layer.weights)


def table(layers: Sequence[Layer]) -> str:
    """Return one line for each layer, their sums, and what each is called with."""
    rows = [_row(layer) for layer in layers]
    parameters = sum(weight.size for layer in layers for weight in layer.weights.values())
    flops = sum(map(flops_per_step, layers))
    total = (f"{len(layers)} in all", "", "", "", "", "", f"{parameters:,}", f"{flops:,}")
    lines = [_HEADINGS, *rows, total] if len(rows) > 1 else [_HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first_number = len(_HEADINGS) - _NUMBERS
    text = [
        "  ".join(
            cell.rjust(width) if i >= first_number else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    scaled = [
        f"{layer.title}: {described(layer.scales)}" for layer in layers if layer.scales is not None
    ]
    return "\n".join([*text, "", *map(call, layers), *([""] if scaled else []), *scaled])


def _row(layer: Layer) -> tuple[str, ...]:
    weights = layer.weights
    return (
        layer.title,
        *(
            str(weights[name].shape) if name in weights else "none"
            for name in (DEPTHWISE_KERNEL, POINTWISE_KERNEL, BIAS)
        ),
        str(layer.dtype),
        str(8 * layer.dtype.itemsize),
        f"{sum(weight.size for weight in weights.values()):,}",
        f"{flops_per_step(layer):,}",
    )


def call(layer: Layer) -> str:
    """Write a layer as the call that makes it, without what is as by default."""
    own = layer.resolved()
    needed = [name for name in ("filters", "kernel_size") if hasattr(own, name)]
    plain = layer.spec(**{name: getattr(own, name) for name in needed})
    # Activations are functions, whose names and dicts say more than they do.
    shown = {"activation": activations.serialize(own.activation)}
    told = [
        f"{name}={shown.get(name, getattr(own, name))!r}"
        for name in own.__dataclass_fields__
        if name not in needed and getattr(own, name) != getattr(plain, name)
    ]
    text = f"{layer.class_name}({', '.join([*(str(getattr(own, n)) for n in needed), *told])})"
    unknown = "" if layer.config else "  # strides, padding, activation are not in the file"
    return f"{layer.title}: {text}{unknown}"


def torch_call(layer: Layer) -> str:
    """Write the module of PyTorch that a layer's depthwise weights are for.

    Example:
        >>> import numpy as np
        >>> depthwise, pointwise = np.ones((3, 4, 1)), np.ones((1, 4, 5))
        >>> weights = {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}
        >>> config = {"filters": 5, "kernel_size": 3, "use_bias": False, "padding": "same"}
        >>> torch_call(Layer("conv", weights, config))
        "Conv1d(4, 4, 3, groups=4, bias=False, padding='same')"
    """
    own, sizes = layer.resolved(), layer.sizes
    reach = own.dilation_rate * (own.kernel_size - 1)
    told = [f"{sizes['C']}, {sizes['C'] * sizes['M']}, {sizes['K']}, groups={sizes['C']}"]
    if POINTWISE_KERNEL in layer.weights or BIAS not in layer.weights:
        told.append("bias=False")
    for name, value in (("stride", own.strides), ("dilation", own.dilation_rate)):
        if value != 1:
            told.append(f"{name}={value}")
    note, padding = "", own.padding
    if isinstance(padding, tuple) and padding[0] == padding[1]:
        told += [f"padding={padding[0]}"] if padding[0] else []
    elif isinstance(padding, tuple):
        note = (
            f" on an input padded by {padding[0]} zeros on the left and {padding[1]} on the right"
        )
    elif padding in EDGES and reach > 0:
        if reach % 2 and own.strides > 1:
            note = f" on an input padded by hand ({padding}), {reach // 2} steps on the left and "
            note += f"{reach - reach // 2} on the right"
        else:
            zeros = "'same'" if reach % 2 else str(reach // 2)
            told.append(f"padding={zeros}, padding_mode='{padding}'")
    elif padding == "same" and own.strides == 1:
        told.append("padding='same'")
    elif padding == "same" and reach > 0:
        note = " on an input padded as TensorFlow does, which depends on its length"
    elif padding == "causal" and reach > 0:
        note = f" on an input padded by {reach} zeros on the left"
    return f"Conv1d({', '.join(told)}){note}"
