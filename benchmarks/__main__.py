"""`python -m benchmarks [PROGRAM]`: `--help` lists the programs."""

import difflib
import importlib
import sys

from benchmarks.flags import Parser
from benchmarks.worker import WorkerError

SUITES = {
    "layers": "the whole layer, ours and its peers in other frameworks",
    "lowerings": "our ways to compute the depthwise stage, contraction by contraction",
    "lengths": "ragged batches over whole ones",
    "limits": "what lengths, states and segments cost where all is whole",
    "step": "one step of streams over the matrix product in it",
    "sweep": "layers drawn at random, in float32 and bfloat16, beside the same peers and more",
    "integers": "the layer in int8, beside float32, ONNX Runtime, OpenVINO and LiteRT",
    "networks": "training steps of networks made of the layer",
    "accuracy": "the trainer's recipes on the data sets that come with aeon",
    "quantization": "trained networks beside the 8-bit integers that are made of them",
    "scaling": "the layer divided over devices: bytes between them, memory, time",
    "aot": "the layer compiled for TPUs and an H100, where there is none",
    "choices": "the tables of choices that ship for accelerators, from what aot compiled",
    "device": "the layer on the TPU or GPU that is there",
    "correctness": "every lowering on the device that is there, judged by NumPy float64",
}


def usage() -> str:
    """Return what `--help` prints."""
    lines = ["Measure: python -m benchmarks [PROGRAM] [FLAGS]", ""]
    lines += [f"  {name:<13}{text}" for name, text in SUITES.items()]
    lines += [
        "",
        "Without a name it is layers. The flags of each: python -m benchmarks PROGRAM --help",
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Hand the flags to the program that the first argument names."""
    if argv[:1] in (["-h"], ["--help"]):
        print(usage())
        return
    name, flags = (argv[0], argv[1:]) if argv and argv[0][:1] != "-" else ("layers", argv)
    if name not in SUITES:
        close = difflib.get_close_matches(name, SUITES, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        Parser(prog="python -m benchmarks").error(
            f"no program is called {name!r}; {hint}there are: {', '.join(SUITES)}"
        )
    importlib.import_module(f"benchmarks.{name}").main(flags)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except WorkerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
