"""The accelerators that programs are compiled for, and the compilers that do it without one.

Rates are the makers' published ones: clock, bandwidth of the device's memory, and operations per
second of the matrix units in bfloat16.
"""

import pathlib
from typing import Any, NamedTuple


class Target(NamedTuple):
    """An accelerator; `topology` and `accelerator` are its compiler's names for the smallest host.

    `gigahertz` is None where no listing tells instructions apart by clock cycles; `cores` is the
    compiler's name for how the cores of a chip are one device, where it must be told.
    """

    title: str
    topology: str
    accelerator: str | None
    gigahertz: float | None
    gigabytes_per_second: float
    teraflops: float
    cores: str | None = None

    @property
    def is_tpu(self) -> bool:
        """Tell the TPUs from the GPU."""
        return self.accelerator is not None

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions that hold the compiler, beside jax."""
        return ("libtpu",) if self.is_tpu else ("jax-cuda12-plugin", "jax-cuda12-pjrt")

    def environment(self, folder: pathlib.Path) -> dict[str, str]:
        """Return what must be set before jax is imported; listings go to the folder."""
        if not self.is_tpu:
            return {"CUDA_VISIBLE_DEVICES": "-1", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
        listings = {
            "xla_jf_dump_to": folder,
            "xla_jf_dump_llo_text": "true",
            "xla_jf_dump_llo_pass_label_regex": "final_bundles",
        }
        return {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": str(self.accelerator),
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "LIBTPU_INIT_ARGS": " ".join(f"--{key}={value}" for key, value in listings.items()),
        }

    def device(self) -> Any:
        """Return one device to compile for; in a process with this target's environment."""
        from jax.experimental import topologies

        if self.is_tpu:
            told = {"chip_config_name": self.cores} if self.cores else {}
            topology = topologies.get_topology_desc(
                platform="tpu", topology_name=self.topology, **told
            )
        else:
            description = pathlib.Path(__file__).with_name("h100.txtpb").read_text()
            topology = topologies.get_topology_desc(
                platform="cuda", topology=self.topology, target_config=description
            )
        return topology.devices[0]


TARGETS = {
    "v4": Target("TPU v4", "v4:2x2x1", "v4-8", 1.05, 1228, 275, "megacore"),
    "v5e": Target("TPU v5e", "v5e:2x2", "v5litepod-4", 1.5, 819, 197),
    "v5p": Target("TPU v5p", "v5p:2x2x1", "v5p-8", 1.75, 2765, 459),
    "v6e": Target("TPU v6e", "v6e:2x2", "v6e-4", 1.75, 1640, 918),
    "h100": Target("H100", "1x1x1", None, None, 3352, 989),
}
