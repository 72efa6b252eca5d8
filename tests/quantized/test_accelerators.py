"""The operation on integers compiled for accelerators, where there are none."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from benchmarks.aot.targets import TARGETS
from flax_sepconv import ops
from tests import accelerators

ROOT = pathlib.Path(__file__).parents[2]


def print_program(target):
    """Print what the target's own compiler makes of the operation."""
    device = SingleDeviceSharding(TARGETS[target].device())

    def operation(x, kernel, weights, bias):
        scales = {"x_scale": 0.02, "depthwise_scale": 0.01, "hidden_scale": 0.05}
        zeros = {"x_zero_point": 3, "hidden_zero_point": -5, "output_zero_point": 7}
        return ops.quantized_separable_conv1d(
            x, kernel, weights, bias, pointwise_scale=0.01, output_scale=0.1, **scales, **zeros
        )

    operands = [((8, 132, 256), "int8"), ((5, 256, 1), "int8"), ((1, 256, 128), "int8")]
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=device)
        for shape, dtype in [*operands, ((128,), "int32")]
    ]
    print(jax.jit(operation).lower(*shapes).compile().as_text())


@pytest.mark.usefixtures("other_compilers")
@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_products_are_of_bytes(target, tmp_path):
    program = accelerators.printed(target, __name__, "print_program", tmp_path)
    products = re.findall(
        r"= (\w+)\[[^]]*\]\S* (?:dot|convolution)\((%[\w.-]+), (%[\w.-]+)", program
    )
    assert products
    for result, *operands in products:
        assert result == "s32"
        for operand in operands:
            (kind,) = set(re.findall(rf"{re.escape(operand)} = (\w+)\[", program)) or {None}
            if kind is None:  # A parameter of a computation.
                (kind,) = set(re.findall(rf"{re.escape(operand)}: (\w+)\[", program))
            assert kind == "s8", operand
    assert not re.findall(r"= f32\[8,128,256\]\S* (?:dot|convolution)", program)
