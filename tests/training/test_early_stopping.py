"""A run stops where the validation loss no longer falls, however often it was interrupted."""

import functools
import json
import signal

import chex
import flax.training.early_stopping as flax_stopping
import jax
import numpy as np
import pytest
from flax import serialization

from flax_sepconv.training import data, early_stopping, loop, plots, results
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.config import TrainConfig, UserError, from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.prepare import prepare
from flax_sepconv.training.step import create_state

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

PATIENCE = 4
SETTINGS = {
    "data": {"name": "ItalyPowerDemand", "validation_fraction": 0.3},
    "augment": {"noise": 0.1},
    "model": {"width": 4, "blocks": 1, "kernel_size": 3, "stem_multiplier": 1},
    "train": {
        "epochs": 200,
        "batch_size": 16,
        "learning_rate": 0.1,
        "ema_decay": 0.5,
        "early_stopping": PATIENCE,
        "evaluate": "best",
        "class_weights": "balanced",
        "checkpoint_every": 3,
    },
    "mesh": {"data": 1},
}
CONFIG = from_config_dict(SETTINGS)
PER_EPOCH = 2  # 67 series, of which 20 are held out


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last_state(workdir):
    """Return the state of the newest checkpoint."""
    split, _ = data.load(CONFIG.data)
    model = SeparableResNet(len(split.classes), CONFIG.model)
    state = create_state(CONFIG, model, next(data.eval_batches(split, 1)), PER_EPOCH)
    with Checkpoints(workdir) as checkpoints:
        return serialization.to_state_dict(checkpoints.restore(state))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that stopped by itself, and the title of its curves."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    titles = []

    def draw(rows, accuracy, best, title, path, unit):
        titles.append(title)
        plots.learning_curves(rows, accuracy, best, title, path, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "learning_curves", draw)
        loop.run(CONFIG, workdir)
    return workdir, titles[0]


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_it_stops_where_flax_does(delta, seed):
    """With a report an epoch; flax stops at the call behind its patience, so that is one less."""
    rng = np.random.default_rng(seed)
    losses = (1 / np.arange(1, 60) + rng.uniform(0, 0.2, 59)).astype(np.float32)
    losses[5] = np.nan
    train = TrainConfig(early_stopping=PATIENCE, early_stopping_delta=delta)
    theirs = flax_stopping.EarlyStopping(min_delta=delta, patience=PATIENCE - 1)
    known = early_stopping.start(train)
    rule = early_stopping.Rule.of(train, 7)
    assert rule == (7 * PATIENCE, delta)
    update = jax.jit(functools.partial(early_stopping.update, rule=rule))
    for epoch, loss in enumerate(losses, 1):
        known = update(known, loss=loss, step=np.int32(7 * epoch))
        theirs = theirs.update(loss)
        assert early_stopping.has_stopped(known) == theirs.should_stop
        if theirs.should_stop:
            break
    assert PATIENCE < epoch < 59


def test_without_it_nothing_is_kept():
    assert early_stopping.start(TrainConfig()) == {}
    assert not early_stopping.has_stopped({})


def test_it_stops_after_so_many_epochs_without_improvement(whole):
    workdir, title = whole
    losses = [row["validation_loss"] for row in rows(workdir)]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + PATIENCE < 200
    found = json.loads((workdir / "results.json").read_text())
    assert found["stopped_at_epoch"] == len(losses)
    assert found["weights"] == f"averaged, best (step {PER_EPOCH * best})"
    assert found["validation_loss"] == pytest.approx(losses[best - 1], rel=1e-6)
    assert list(found["class_weights"]) == ["1", "2"]  # 24 and 23 series are left
    assert list(found["class_weights"].values()) == pytest.approx([47 / 48, 47 / 46], rel=1e-6)
    assert title == f"ItalyPowerDemand, seed 0: stopped at epoch {len(losses)}"


def interrupted_at(step):
    """Return data's batches; a signal comes with the one of a step."""
    batches = data.train_batches

    def interrupted(*arguments):
        for number, batch in enumerate(batches(*arguments), arguments[3] + 1):
            if number == step:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    return interrupted


@pytest.mark.parametrize("place", ["between reports", "where it stops"])
def test_a_resumed_run_stops_at_the_same_step(place, whole, tmp_path, monkeypatch):
    total = rows(whole[0])[-1]["step"]
    step = total if place == "where it stops" else total - 2 * PER_EPOCH + 1
    with monkeypatch.context() as patch:
        patch.setattr(data, "train_batches", interrupted_at(step))
        with pytest.raises(loop.InterruptedRunError, match=f"stopped at step {step} of 400"):
            loop.run(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    found = loop.run(CONFIG, tmp_path / "run", resume=True)
    assert found["stopped_at_epoch"] == total / PER_EPOCH
    chex.assert_trees_all_equal(last_state(tmp_path / "run"), last_state(whole[0]))
    if place == "where it stops":  # of a run that came to its end nothing is left to do
        assert loop.run(CONFIG, tmp_path / "run", resume=True) == found


def test_it_needs_series_to_validate_with():
    with pytest.raises(UserError, match=r"early_stopping.*config\.data\.validation_fraction"):
        prepare(from_config_dict({"train": {"early_stopping": 3}}))
