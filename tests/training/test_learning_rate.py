"""The proposed learning rate is where the loss falls fastest, and a network trains with it."""

import contextlib
import functools
import json

import numpy as np
import pytest

from flax_sepconv.training import distributed, learning_rate, loop
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.config import DataConfig, UserError, from_config_dict
from flax_sepconv.training.datasets import places
from flax_sepconv.training.prepare import prepare
from flax_sepconv.training.search_plots import learning_rates
from flax_sepconv.training.sweep import changed
from tests.pictures import check, drawn

__all__ = ["drawn"]

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

ITALY = str(places.folder(DataConfig()) / "ItalyPowerDemand")
CONFIG = from_config_dict(
    {
        "data": {"path": ITALY},  # not that of config.data.name
        "augment": {"noise": 0.1},
        "model": {"width": 8, "blocks": 1, "kernel_size": 3, "dropout": 0.0},
        "train": {"epochs": 60, "batch_size": 16, "report_every": 20, "seed": 3},
        "mesh": {"data": 1},
    }
)
RATES = np.geomspace(learning_rate.LOWEST, learning_rate.HIGHEST, 351)


def made(steepest, noise, seed, until=351):
    """Return losses that fall fastest at a rate, and rise behind it."""
    decades = np.log10(RATES / steepest)
    rise = 0.5 * np.maximum(decades - 1.5, 0) ** 2
    rng = np.random.default_rng(seed)
    return (1.2 - np.tanh(2 * decades) + rise + noise * rng.standard_normal(351))[:until]


@pytest.mark.parametrize("steepest", [1e-4, 3e-3, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_the_proposal_is_where_the_loss_falls_fastest(steepest, seed):
    found = learning_rate.propose(RATES, made(steepest, 0.1, seed))
    assert abs(np.log10(found.rate / steepest)) < 0.25
    assert found.low < steepest < found.high
    assert found.high / found.low < 30


def test_a_fall_behind_a_rise_is_not_proposed():
    """A network that broke may fall back from a high loss, faster than it ever learned."""
    losses = made(1e-3, 0.05, 0)
    losses[300:310] += 50.0
    assert abs(np.log10(learning_rate.propose(RATES, losses).rate / 1e-3)) < 0.25


@pytest.mark.parametrize("losses", [np.full(351, 2.0), np.linspace(1, 3, 351)])
def test_nothing_is_proposed_where_the_loss_does_not_fall(losses):
    rng = np.random.default_rng(0)
    assert learning_rate.propose(RATES, losses) is None
    assert learning_rate.propose(RATES, losses + 0.2 * rng.standard_normal(351)) is None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("rates") / "new"
    said = []
    learning_rate.search(CONFIG, workdir, said.append)
    return workdir, "\n".join(said)


def test_a_search_leaves_its_numbers_and_a_picture(found):
    workdir, said = found
    record = json.loads((workdir / "learning_rates.json").read_text())
    count = len(record["losses"])
    np.testing.assert_allclose(record["learning_rates"], RATES[:count], rtol=1e-9)
    assert record["diverged_at"] == (None if count == 351 else record["learning_rates"][-1])
    assert record["range"][0] <= record["proposal"] <= record["range"][1]
    assert f"--config.train.learning_rate={record['proposal']:g}" in said
    assert (workdir / "learning_rates.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in workdir.iterdir()) == [
        "learning_rates.json",
        "learning_rates.png",
    ]


def test_a_network_trains_with_the_proposal(found, tmp_path):
    rate = json.loads((found[0] / "learning_rates.json").read_text())["proposal"]
    accuracy = {
        name: loop.run(changed(CONFIG, {"train.learning_rate": value}), tmp_path / name)[
            "test_accuracy"
        ]
        for name, value in {"proposed": rate, "lowest": learning_rate.LOWEST}.items()
    }
    assert accuracy["proposed"] > 0.9
    assert accuracy["lowest"] < 0.75


def test_it_is_the_same_each_time_and_ends_where_the_loss_diverges(found, monkeypatch):
    before = json.loads((found[0] / "learning_rates.json").read_text())["losses"]
    make = learning_rate.steps.make_train_step

    def broken(*arguments):
        step = make(*arguments)

        def breaks(state, batch):
            after = step(state, batch)
            loss = after.sums["loss"]
            lost = learning_rate.steps.jnp.where(state.step < 100, loss, float("nan"))
            return after.replace(sums=after.sums | {"loss": lost})

        return breaks

    monkeypatch.setattr(learning_rate.steps, "make_train_step", broken)
    rates, losses = learning_rate.measure(CONFIG, prepare(CONFIG))
    assert list(losses) == before[:100]
    assert len(rates) == 100


def test_that_no_rate_will_do_is_said_and_recorded(tmp_path, monkeypatch, drawn):
    measured = RATES, np.full(351, 0.7)
    monkeypatch.setattr(learning_rate, "measure", lambda *_: measured)
    with pytest.raises(UserError, match="falls at no learning rate from 1e-06 to 10"):
        learning_rate.search(CONFIG, tmp_path, print)
    record = json.loads((tmp_path / "learning_rates.json").read_text())
    assert (record["data_set"], record["proposal"]) == ("ItalyPowerDemand", None)
    ((_, texts),) = drawn
    assert any("ItalyPowerDemand, seed 3" in text.get_text() for text in texts)


def test_a_search_meets_the_other_processes_and_says_where_one_is_lost(
    tmp_path, monkeypatch, capsys
):
    met = []

    @contextlib.contextmanager
    def meeting(group):
        met.append(group)
        yield
        raise distributed.LostProcessError("another process of the run was lost")

    def search(config, workdir, write):
        met.append((config.data.path, workdir))

    monkeypatch.setattr(distributed, "meeting", meeting)
    monkeypatch.setattr(learning_rate, "search", search)
    flags = ["--coordinator=a:1", "--processes=2", "--process=1", f"--config.data.path={ITALY}"]
    assert main(["find-learning-rate", f"--workdir={tmp_path}", *flags]) == 75
    assert met == [distributed.Group("a:1", 2, 1), (ITALY, tmp_path)]
    words = "error: another process of the run was lost; begin the search again\n"
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("losses", [made(3e-3, 0.1, 0), made(0.1, 0.3, 1, 310)])
def test_the_picture_can_be_read(losses, drawn, tmp_path):
    rates = RATES[: len(losses)]
    draw = functools.partial(learning_rates, rates, losses)
    draw(learning_rate.propose(rates, losses), "JapaneseVowels, seed 0", tmp_path / "a.png")
    ((figure, texts),) = drawn
    check(figure, texts)
