"""Kinds of devices, as tables of choices name them."""

from flax_sepconv.ops.native.library import instruction_set


def kind_of(platform: str, device_kind: str | None) -> str | None:
    """Return the kind that tables go by; None where it is not known.

    All CPUs are one kind to JAX. The instruction set with which the native kernels run is what
    makes their times differ most, so it is part of the name: "cpu-avx512", or "cpu" where there is
    no library.

    Args:
        platform: XLA's name of it.
        device_kind: as JAX names it, or None.
    """
    if platform != "cpu" or device_kind not in (None, "cpu"):
        return device_kind
    sets = instruction_set()
    return f"cpu-{sets}" if sets else "cpu"
