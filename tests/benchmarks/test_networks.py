"""The networks of the benchmark are the published ones, and the same in every framework."""

import concurrent.futures
import json
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import machine
from benchmarks.networks import flax_networks, measure
from benchmarks.networks.conformer import Conformer
from benchmarks.networks.conv_tasnet import ConvTasNet
from benchmarks.networks.description import numbers, shapes_of
from benchmarks.networks.lite import Lite
from benchmarks.networks.quartznet import QuartzNet
from benchmarks.worker import Worker

SMALL = {
    "lite": Lite(batch=3, length=41, classes=4, filters=5),
    "quartznet": QuartzNet(
        batch=3, length=21, channels=5, classes=4, filters=(6,), kernel_sizes=(3,), repeats=2
    ),
    "conformer": Conformer(
        batch=2, length=21, channels=5, classes=4, width=8, blocks=1, heads=2, kernel_size=6
    ),
    "conv_tasnet": ConvTasNet(
        batch=2,
        samples=46,
        filters=7,
        window=4,
        bottleneck=6,
        hidden=8,
        skip=5,
        blocks=2,
        repeats=1,
    ),
}
LITE_PARAMETERS = 9814  # as published, without the head
HEAD = (Lite().filters + 1) * Lite().classes


def answers(name):
    """Ask a worker how each small network starts and predicts, and what it trains in LITE."""
    version = measure.VERSIONS[name]
    with Worker(name, version.environment) as worker:
        small = {
            network: (
                measure.start(worker, version, description),
                worker.numbers("predict")["outputs"],
            )
            for network, description in SMALL.items()
        }
        task = f"benchmarks.networks.{version.module}:build"
        facts = worker.load(task, Lite(), *version.arguments)
    return small, facts["step"]["parameters"]


def test_every_framework_has_the_same_networks():
    present, absent = machine.present(measure.VERSIONS)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answered = dict(zip(present, pool.map(answers, present), strict=True))
    for network in SMALL:
        starts = {name: small[network][0] for name, (small, _) in answered.items()}
        measure.compare(network, starts)
        # By the running statistics, of which PyTorch's variance is the unbiased one.
        ours, *others = (small[network][1] for small, _ in answered.values())
        for other in others:
            np.testing.assert_allclose(other, ours, rtol=0, atol=2e-2 * np.abs(ours).max())
    for name, (_, parameters) in answered.items():
        assert parameters - HEAD == LITE_PARAMETERS, name
    if absent:
        pytest.skip(f"{absent}: these comparisons did NOT run")


def test_stock_layers_are_flaxs_own():
    description = SMALL["conformer"]
    start = numbers(description)
    network = flax_networks.network_of(description)
    variables = flax_networks.variables_of(network, start.weights, start.inputs)

    def program():
        return str(jax.make_jaxpr(network.apply)(variables, start.inputs))

    assert "conv_general_dilated" not in program()
    with nn.intercept_methods(flax_networks.stock):
        stock = program()
    assert "conv_general_dilated" in stock
    assert "depthwise_conv1d" not in stock


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"parameters": 1}},
        {"outputs": np.ones((3, 4)) * 1.001},
        {"outputs": np.full((3, 4), math.nan)},
        {"losses": (1.0, 0.502)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_version_that_differs_is_refused(change):
    good = measure.Start({"parameters": 2}, np.ones((3, 4)), (1.0, 0.9), 0.0)
    measure.compare("lite", {"ours": good, "torch": good})
    with pytest.raises(SystemExit, match="lite: torch"):
        measure.compare("lite", {"ours": good, "torch": good._replace(**change)})


def test_the_command_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "NETWORKS", SMALL)
    ours, torch = measure.VERSIONS["ours"], measure.VERSIONS["torch"]
    missing = torch._replace(packages=("no-such-package",))
    monkeypatch.setattr(measure, "VERSIONS", {"ours": ours, "torch": missing})
    output = tmp_path / "new" / "networks.json"
    measure.main(["--filter", "lite", "--seconds", "0.01", "--output", str(output)])
    record = json.loads(output.read_text())
    (row,) = record["rows"]
    assert row["versions"]["ours"]["parameters"] == sum(
        map(math.prod, shapes_of(SMALL["lite"]).values())
    )
    assert row["versions"].keys() == {"ours"}
    facts = row["versions"]["ours"]
    low, high = facts["quartiles"]
    assert 0 < low <= facts["milliseconds"] <= high
    assert facts["samples"] >= 3
    assert facts["step_megabytes"] is None or facts["step_megabytes"] >= 0
    assert record["absent"] == {"torch": "no-such-package is not installed"}
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "left out: PyTorch, no-such-package is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--filter", "resnet"],
            "--filter: no name of lite, quartznet, conformer, conv_tasnet contains 'resnet'",
        ),
        (["--seconds", "0"], "--seconds: must be positive, got 0"),
        (["--output", "/dev/null/x.json"], "--output: "),
    ],
)
def test_unusable_flags_end_the_command(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        measure.main(argv)
    assert message in capsys.readouterr().err
