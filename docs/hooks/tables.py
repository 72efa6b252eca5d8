"""Tables of the benchmarks' results as Markdown, made of the JSON files in benchmarks/."""

import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import drawing, summary
from benchmarks.aot.report import ratio
from benchmarks.peers import INFERENCE, PEERS
from benchmarks.summary import PROGRAMS, geometric_mean

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"

Record = Mapping[str, Any]
Cell = float | str | None

_TENSORFLOW, _PYTORCH = ("keras_tf", "tf_nn"), ("torch_ncl", "torch_nlc")
# The sweep: what our layer is called in each type, and who is compared with it.
_OURS = {"float32": "ours", "bfloat16": "ours_bfloat16"}
_TRAINING = ("tf_nn", "torch_ncl", "torch_nlc")
_NARROW = ("torch_ncl_bfloat16", "torch_nlc_bfloat16")
_SENTENCE = 24  # what is longer goes to the left, and is broken into lines
_LEVEL = 0.97  # a lead below it is behind


def read(name: str) -> Record:
    """Return the results of a file in benchmarks/."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text())  # type: ignore[no-any-return]


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table, numbers to the right.

    >>> print(table(["what", "ms"], [["a", 1.2345], ["b", None]]))
    | what | ms |
    |---|--:|
    | a | 1.23 |
    | b | – |
    """
    shown = [[show(cell) for cell in row] for row in rows]
    ends = [
        "--:" if max(map(len, column)) <= _SENTENCE else "---"
        for column in zip(*shown, strict=True)
    ]
    return "\n".join([_line(head), "|" + "|".join(["---", *ends[1:]]) + "|", *map(_line, shown)])


def show(value: Cell) -> str:
    """Write a number with three digits.

    >>> show(0.5), show(1.0), show(1234.5), show(None), show("x")
    ('0.500', '1.00', '1234', '–', 'x')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shape(row: Record) -> str:
    return drawing.short(row["shape"])


def _caption(record: Record) -> str:
    return f"\n\n*{drawing.conditions(record)}.*"


def _pair(times: Sequence[float | None]) -> str:
    return " / ".join(map(show, times))


def layers_short() -> str:
    """Return the geometric means over the stock layers, over the best rivals and over the floor."""
    means = [read("layers_cpu")["summary"][program] for program in PROGRAMS]
    stock, rivals = (
        "Flax `nn.Conv` + `nn.Dense`",
        "the best of TensorFlow and PyTorch at each layer",
    )
    rows = [
        [
            f"times faster than {stock}",
            *(_times(of["speed_up_over"]["flax_stock"]) for of in means),
        ],
        [f"times faster than {rivals}", *(_times(of["speed_up_over_best_rival"]) for of in means)],
    ]
    return table(["", "forward", "forward and all gradients"], rows)


def layers() -> str:
    """Return the times of each layer of the suite: forward / forward and all gradients."""
    record = read("layers_cpu")

    def best(row: Record, peers: Sequence[str]) -> str:
        """Return the time of the fastest of some, for each program."""
        found = []
        for program in PROGRAMS:
            times = (summary.milliseconds(row, peer, program) for peer in peers)
            found.append(min((time for time in times if time), default=None))
        return _pair(found)

    def over(row: Record) -> str:
        floors = (summary.speed_up(row, "floor", program) for program in PROGRAMS)
        return _pair([1 / floor if floor else None for floor in floors])

    rows = [
        [
            f"{_name(row['workload'])}: {_shape(row)}",
            f"**{best(row, ['ours'])}**",
            best(row, ["floor"]),
            over(row),
            *(best(row, peers) for peers in (["flax_stock"], _TENSORFLOW, _PYTORCH, INFERENCE)),
        ]
        for row in record["rows"]
    ]
    head = ["ms: forward / with all gradients", "flax_sepconv", "the matmuls alone", "over these"]
    head += ["Flax `nn.Conv` + `nn.Dense`", "best of TensorFlow's", "best of PyTorch's"]
    return table([*head, "best of ONNX Runtime and OpenVINO"], rows) + _caption(record)


def layers_means() -> str:
    """Return the geometric means of the speed-ups over each of the others."""
    record = read("layers_cpu")
    means = [record["summary"][program] for program in PROGRAMS]
    rows: list[list[Cell]] = [
        [PEERS[name].title, *(_times(of["speed_up_over"].get(name)) for of in means)]
        for name in means[0]["speed_up_over"]
    ]
    best, least = "speed_up_over_best_rival", "least_over_best_rival"
    rows.append(["**the best of TensorFlow and PyTorch**", *(_times(of[best]) for of in means)])
    rows.append(
        [
            "the same, where it is least",
            *(f"{_times(of[least]['speed_up'])} ({_name(of[least]['workload'])})" for of in means),
        ]
    )
    rows.append(
        [
            "our time over that of the matmuls alone",
            *(_times(of["ours_over_floor"]) for of in means),
        ]
    )
    compiling = "our seconds of compilation over those of Flax' layers"
    rows.append([compiling, *(_times(of["compile_over_flax_stock"]) for of in means)])
    return table(["geometric means: times faster than", "forward", "with all gradients"], rows)


def _times(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{show(value)}x"


def _name(workload: str) -> str:
    return workload.rpartition("-")[0]


def _milliseconds(row: Record, name: str, program: str) -> float | None:
    """Return the median time of a contender of the sweep, or None where it has none."""
    return row["contenders"].get(name, {}).get(program, {}).get("milliseconds")


def _least(row: Record, names: Sequence[str], program: str) -> float | None:
    """Return the time of the fastest of some contenders."""
    times = (_milliseconds(row, name, program) for name in names)
    return min((time for time in times if time), default=None)


def _lead(row: Record, dtype: str, program: str, rivals: Sequence[str]) -> float | None:
    """Return how many times faster we are than the fastest of some."""
    theirs, ours = _least(row, rivals, program), _milliseconds(row, _OURS[dtype], program)
    return theirs / ours if theirs and ours else None


def sweep_means() -> str:
    """Return the leads at layers drawn at random: means, how many behind, the least."""
    record = read("sweep_cpu")
    rows = record["rows"]

    def leads(dtype: str, program: str, rivals: Sequence[str]) -> str:
        pairs = [(each, row) for row in rows if (each := _lead(row, dtype, program, rivals))]
        least, where = min(pairs, key=lambda pair: pair[0])
        behind = sum(each < _LEVEL for each, _ in pairs)
        mean = _times(geometric_mean(each for each, _ in pairs))
        return f"{mean}, behind at {behind} of {len(pairs)}; least {show(least)} ({_shape(where)})"

    def bound(program: str, rivals: Sequence[str]) -> str:
        ratios = []
        for row in rows:
            best, possible = _least(row, rivals, program), row.get("bounds")
            ratios.append(best / possible[program]["bound_ms"] if best and possible else None)
        return _times(geometric_mean(ratios))

    def narrow(program: str) -> str:
        both = [[_milliseconds(row, _OURS[dtype], program) for dtype in _OURS] for row in rows]
        ratios = [half / single for single, half in both if single and half]
        return f"{show(geometric_mean(ratios))}, {show(max(ratios))}"

    also = (*_TRAINING, *INFERENCE)
    found = [
        ["float32, over the best of TensorFlow and PyTorch (both layouts)"]
        + [leads("float32", program, _TRAINING) for program in PROGRAMS],
        ["the same of a layer at this machine's bound"]
        + [bound(program, _TRAINING) for program in PROGRAMS],
        [
            "float32, over the best of these, ONNX Runtime and OpenVINO",
            leads("float32", "forward", also),
            "",
        ],
        ["the same of a layer at this machine's bound", bound("forward", also), ""],
        ["bfloat16, over the best of PyTorch's two layouts"]
        + [leads("bfloat16", program, _NARROW) for program in PROGRAMS],
        ["time in bfloat16 over that in float32, and the most", *map(narrow, PROGRAMS)],
        ["float32: our time over that of the matmuls alone"]
        + [show(record["summary"][f"float32 {program}"]["over_floor"]) for program in PROGRAMS],
    ]
    head = ["geometric mean of the leads, and the least", "forward", "forward and all gradients"]
    return table(head, found) + _caption(record)


def sweep_rows() -> str:
    """Return our times and leads at each layer, the one where we lead least at the top."""
    found = []
    rivals = {"float32": (*_TRAINING, *INFERENCE), "bfloat16": _NARROW}
    for row in read("sweep_cpu")["rows"]:
        cells: list[Cell] = [_shape(row)]
        leads = []
        for dtype, program in itertools.product(_OURS, PROGRAMS):
            lead = _lead(row, dtype, program, rivals[dtype])
            cells += [_milliseconds(row, _OURS[dtype], program), _times(lead)]
            leads.append(lead)
        found.append((min(filter(None, leads)), cells))
    parts = [f"{kind}{of}" for kind in ("", "bf16 ") for of in ("forward", "with gradients")]
    head = ["layer", *(cell for part in parts for cell in (f"{part}, ms", "lead"))]
    return table(head, [cells for _, cells in sorted(found, key=lambda pair: pair[0])])


def networks() -> str:
    """Return the times of a training step of whole networks."""
    record = read("networks_cpu")
    titles = {"ours": "flax_sepconv", "flax_stock": "the same with `nn.Conv` + `nn.Dense`"}
    rows: list[list[Cell]] = []
    for name in record["rows"][0]["versions"]:
        cells: list[Cell] = [
            titles.get(name) or {"torch": "PyTorch"}.get(name) or PEERS[name].title
        ]
        for row in record["rows"]:
            time = row["versions"][name]["milliseconds"]
            ours = row["versions"]["ours"]["milliseconds"]
            cells.append(f"**{show(time)}**" if name == "ours" else show(time))
            cells.append("" if name == "ours" else _times(time / ours))
        rows.append(cells)
    rows.append(
        ["parameters"]
        + [
            cell
            for row in record["rows"]
            for cell in (f"{row['versions']['ours']['parameters']:,}", "")
        ]
    )
    heads = [cell for row in record["rows"] for cell in (f"{row['title']}, {row['shape']}", "")]
    return table(["ms for a step", *heads], rows) + _caption(record)


def lengths() -> str:
    """Return what `lengths` take over whole rows."""
    record = read("lengths_cpu")
    rows = [
        [_shape(row), f"{row['valid']:.0%}", *row["masked_over_unmasked"].values()]
        for row in record["rows"]
    ]
    head = ["layer", "steps that count", "time over whole rows: forward", "with all gradients"]
    return table(head, rows) + _caption(record)


def limits() -> str:
    """Return what limits cost where there is nothing to save."""
    record = read("limits_cpu")
    titles = {
        "depthwise": "the depthwise stage with `lengths`",
        "state": "the causal layer with `lengths` and `return_state` (in some, the state is longer "
        "than the row)",
        "segments": "the depthwise stage with segments longer than the kernel's reach",
        "gradients": "the same with its gradients",
        "layer": "the layer with such segments",
    }
    rows = []
    for kind, title in titles.items():
        found = [row["limited_over_whole"] for row in record["rows"] if row["limits"] == kind]
        rows.append([title, geometric_mean(found), max(found), str(len(found))])
    head = ["time over that of a call of whole rows", "geometric mean", "most", "layers"]
    return table(head, rows) + _caption(record)


def step() -> str:
    """Return the times of one step of a stream."""
    record = read("step_cpu")
    kinds = {
        "step": "a step",
        "dispatch": "a jitted call of nothing",
        "product": "its product, jitted",
        "numpy": "its product in NumPy",
        "flax": "Flax' layers on the last K steps",
    }
    rows = [
        [row["stream"]]
        + [1e3 * row[kind]["milliseconds"] if kind in row else None for kind in kinds]
        + [row["step_over_floor"]]
        for row in record["rows"]
    ]
    head = ["microseconds", *kinds.values(), "over the lesser product (and the call)"]
    return table(head, rows) + _caption(record)


def lowerings() -> str:
    """Return how much slower the other ways to compute the depthwise stage are."""
    record = read("lowerings_cpu")
    found: dict[str, dict[str, list[float]]] = {}
    for row in record["rows"]:
        times = row["milliseconds"]
        for name in times.keys() - {"native"}:
            ratios = found.setdefault(name, {}).setdefault(row["contraction"], [])
            ratios.append(times[name] / times["native"])
    rows = [
        [f"`{name}`"]
        + [f"{show(geometric_mean(each))}, {show(min(each))}" for each in found[name].values()]
        for name in sorted(found)
    ]
    names = [name.replace("_", " ") for name in found[min(found)]]
    head = ["times as long as `native` (geometric mean, least)", *names]
    return table(head, rows) + _caption(record)


def compiled() -> str:
    """Return the time floors over those of stock Flax, by default and with the Pallas kernels."""
    targets = {name: read(f"compiled/{name}") for name in ("v5e", "v6e", "v5p", "v4", "h100")}
    cells: dict[str, dict[str, str]] = {}
    for name, record in targets.items():
        for row in record["rows"]:
            if (row["dtype"], row["program"]) != ("bfloat16", "forward_backward"):
                continue
            kernel = "triton" if name == "h100" else "mosaic"
            ratios = [ratio(row, "roof_microseconds", each) for each in ("selected", kernel)]
            written = ["\N{EN DASH}" if each is None else f"{each:.2f}" for each in ratios]
            both = ", ".join(written)
            cells.setdefault(row["shape"], {})[name] = written[0] if not any(ratios) else both
    rows = [
        [drawing.short(shape), *(found.get(name, "") for name in targets)]
        for shape, found in sorted(cells.items(), key=lambda item: item[1].get("v5e", ""))
    ]
    return table(["", *(record["title"] for record in targets.values())], rows)


def scaling_v5e() -> str:
    """Return a step of QuartzNet, divided over 8 chips of a TPU v5e."""
    record = read("compiled/scaling_v5e")
    words = {"data": "batch", "fsdp": "batch and weights (FSDP)", "tensor": "filters"}
    rows = []
    for row in sorted(
        record["rows"], key=lambda row: row["candidates"]["ours"]["axes"], reverse=True
    ):
        both = [row["candidates"][name] for name in ("ours", "stock")]
        least = both[0]["fewest_bytes"]
        rows.append(
            [
                f"{words.get(row['division'], 'steps')}, {both[0]['axes']} axes",
                _pair([1e-3 * each["roof_microseconds"] for each in both]),
                _pair([1e-6 * each["sent_bytes"] for each in both]),
                1e-6 * least if least else "",
            ]
        )
    head = ["divided by", "time floor, ours / stock (ms)"]
    return table([*head, "received by a chip, ours / stock (MB)", "fewest"], rows)


def accuracy() -> str:
    """Return the accuracies of the trainer's recipes beside published ones."""
    from benchmarks.accuracy import published, table

    record = read("accuracy")
    picture = "![Accuracies beside published ones](../pictures/benchmarks/accuracy.png)\n\n"
    return picture + table.text(record["sets"], published.METHODS).strip() + _caption(record)


def quantization() -> str:
    """Return the accuracies of networks in 8-bit integers beside float32's."""
    from benchmarks.quantization import table

    record = read("quantization")
    picture = "![Accuracy, bytes and time](../pictures/benchmarks/quantization.png)\n\n"
    return picture + table.text(record["sets"]).strip() + _caption(record)


def integers_means() -> str:
    """Return how many times faster the layer is in int8: geometric means, and the least."""
    from benchmarks.integers import report
    from benchmarks.integers.contenders import PEERS as BESIDE
    from benchmarks.integers.contenders import RIVALS

    record = read("integers_cpu")
    ratios: dict[str, Callable[[Record], float | None]] = {
        "int8 to int8, than our float32": report.gain,
        "int8 to float32, than our float32": lambda row: report.gain(row, "integers_to_real"),
        **{
            f"int8 to int8, than {BESIDE[name].title}": lambda row, name=name: report.lead(
                row, name
            )
            for name in RIVALS
        },
        "**than the best of these at each layer**": lambda row: report.lead(row, report.best(row)),
        "times fewer bytes of weights, with their scales": report.smaller,
    }
    rows = []
    for title, of in ratios.items():
        found = [(each, row) for row in record["rows"] if (each := of(row))]
        if found:
            least, where = min(found, key=lambda pair: pair[0])
            mean = _times(geometric_mean(each for each, _ in found))
            behind = str(sum(each < _LEVEL for each, _ in found))
            rows.append([title, mean, behind, f"{show(least)} ({_shape(where)})"])
    head = ["times faster", "geometric mean", "layers where slower", "least"]
    words = drawing.conditions(record).removeprefix("float32, ")
    return f"{table(head, rows)}\n\n*int8, {words}.*"


def integers() -> str:
    """Return the times of each layer in int8, the one where integers gain least at the top."""
    from benchmarks.integers import report
    from benchmarks.integers.contenders import PEERS as BESIDE
    from benchmarks.integers.contenders import RIVALS

    rows = []
    for row in report.least_first(read("integers_cpu")["rows"]):
        own = [report.milliseconds(row, "ours", each) for each in ("integers_to_real", "float32")]
        offs = (
            its["integers"]["off_steps"]
            for its in row["contenders"].values()
            if "off_steps" in its.get("integers", {})
        )
        rows.append(
            [
                _shape(row),
                f"**{show(report.milliseconds(row, 'ours'))}**",
                *own,
                _times(report.gain(row)),
                *(report.milliseconds(row, name) for name in RIVALS),
                _times(report.lead(row, report.best(row))),
                max(offs, default=None),
            ]
        )
    head = ["ms", "flax_sepconv, int8", "int8 to float32", "float32", "gain"]
    head += [*(BESIDE[name].title for name in RIVALS), "lead", "steps off, at most"]
    return table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        layers_short,
        layers,
        layers_means,
        sweep_means,
        sweep_rows,
        networks,
        lengths,
        limits,
        step,
        lowerings,
        compiled,
        scaling_v5e,
        accuracy,
        quantization,
        integers_means,
        integers,
    )
}
