"""The layers that are compared on accelerators: stock Flax, and ours by each lowering."""

from typing import cast

from benchmarks.peers import flax_stock, in_jax, ours
from benchmarks.workloads import Workload
from flax_sepconv.ops.lowerings import LOWERINGS, Implementation

# "selected" is what `implementation=None` takes; "stock" is nn.Conv and nn.Dense.
CANDIDATES = ("selected", "stock", *(name for name in LOWERINGS if name != "native"))

# Kinds of layers that accelerators are bought for, at the batch of the source: few taps and many,
# a stride, dilation, a multiplier, lengths that fill tiles and lengths that do not.
SUITE = (
    "jax13800_k5-0",
    "mamba1_k4-0",
    "shape_b-0",
    "shape_d-0",
    "shape_s-0",
    "shape_m-0",
    "convtasnet-3",
    "shape_c-0",
    "fastconformer-1",
    "keras_bench-0",
    "conformer_k31-0",
    "quartznet_c2-0",
)

# Where time is short: first the layers that say most, by the candidates that say most. Users
# complain about the first, most models have the like of the second, and the third has many taps.
TELLING_LAYERS = ("jax13800_k5-0", "mamba1_k4-0", "conformer_k31-0")
TELLING_CANDIDATES = ("selected", "stock", "torch_ncl", "torch_nlc")
FUSED = {"gpu": "triton", "tpu": "mosaic"}


def layer_of(candidate: str, workload: Workload) -> in_jax.Layer:
    """Make a candidate's layer as a function of arrays."""
    if candidate == "stock":
        return flax_stock.layer_of(workload)
    implementation = None if candidate == "selected" else cast(Implementation, candidate)
    return ours.layer_of(workload, implementation)
