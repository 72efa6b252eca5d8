"""This package: its operation on integers, with integers and with real numbers as a result."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import flax_sepconv as fsc
from benchmarks.integers.problem import Problem
from benchmarks.peers import in_jax, ours
from benchmarks.worker import Program

NATIVE = "flax_sepconv_quantized_separable"


def build(problem: Problem) -> dict[str, Program]:
    """Compile the layer in integers, from integers to real numbers, and in float32."""
    w, y = problem.workload, problem.y_steps
    operands = [
        jax.device_put(array)
        for array in (problem.x, problem.kernel, problem.weights, problem.bias)
    ]
    real = [jax.device_put(array) for array in problem.real()]
    layer = ours.layer_of(w)

    def operation(**output: Any) -> Callable[..., tuple[jax.Array]]:
        def compute(*arrays: jax.Array) -> tuple[jax.Array]:
            found = fsc.ops.quantized_separable_conv1d(
                *arrays,
                x_scale=problem.x_steps.scale,
                x_zero_point=problem.x_steps.zero_point,
                depthwise_scale=problem.kernel_scale,
                hidden_scale=problem.h_steps.scale,
                hidden_zero_point=problem.h_steps.zero_point,
                pointwise_scale=problem.weights_scale,
                strides=w.strides,
                padding=w.padding,
                dilation_rate=w.dilation_rate,
                **output,
            )
            return (found,)

        return compute

    def steps(result: tuple[jax.Array]) -> dict[str, Any]:
        return {"steps": jnp.asarray(result[0], jnp.int32) - y.zero_point}

    integers = operation(output_scale=y.scale, output_zero_point=y.zero_point)
    made = {
        "integers": in_jax.program(integers, operands, lambda result: _numpy(steps(result))),
        "integers_to_real": in_jax.program(
            operation(), operands, lambda result: _numpy({"steps": result[0] / y.scale})
        ),
        "float32": in_jax.program(
            lambda *arrays: (layer(*arrays),), real, lambda result: _numpy({"real": result[0]})
        ),
    }
    text = jax.jit(integers).lower(*operands).as_text()
    scales = [problem.kernel_scale, problem.weights_scale]
    weights = {"integers": [*operands[1:], *scales], "float32": real[1:]}
    weights["integers_to_real"] = weights["integers"]
    for name, program in made.items():
        facts = {**program.facts, "weights_bytes": sum(each.nbytes for each in weights[name])}
        if name != "float32":
            facts["way"] = "native" if NATIVE in text else "XLA"
        made[name] = Program(program.run, program.read, facts)
    return made


def _numpy(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: jax.device_get(array) for name, array in arrays.items()}
