"""`python -m benchmarks [SUITE]`, each with its `--help`.

layers (where no name is given): the whole layer, ours and its peers in other frameworks.
lowerings: our ways to compute the depthwise stage, contraction by contraction.
lengths: ragged batches over whole ones.
step: one step of streams over the matrix product in it.
networks: training steps of networks made of the layer.
aot: the layer compiled for TPUs and an H100, where there is none.
device: the layer on the TPU or GPU that is there.
"""

import importlib
import sys

from benchmarks.worker import WorkerError

SUITES = ("layers", "lowerings", "lengths", "step", "networks", "aot", "device")


def main(argv: list[str]) -> None:
    """Hand the flags to the suite that the first argument names."""
    name, flags = (argv[0], argv[1:]) if argv and argv[0] in SUITES else ("layers", argv)
    importlib.import_module(f"benchmarks.{name}").main(flags)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except WorkerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
