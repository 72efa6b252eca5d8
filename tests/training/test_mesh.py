"""How a run is divided over devices, and what cannot be."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flax_sepconv.training import mesh
from flax_sepconv.training import step as steps
from flax_sepconv.training.checkpoint import Checkpoints
from flax_sepconv.training.config import UserError, from_config_dict
from flax_sepconv.training.evaluate import Evaluator
from tests.conftest import DEVICES
from tests.training.test_model import tiny_split, tiny_state

pytestmark = [
    pytest.mark.skipif(DEVICES != 4, reason="for four devices"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# --- What is refused

REFUSED = {
    "devices": ({"data": 3}, 12, 12, "data * config.mesh.sequence * config.mesh.model must divide "
                "the number of devices, 4, got 3"),
    "too many": ({"data": 4, "model": 2}, 8, 12, "must divide the number of devices, 4, got 8"),
    "others": ({"sequence": 3}, 8, 12, "config.mesh.sequence * config.mesh.model must divide the "
               "number of devices, 4, got 3"),
    "batch": ({"data": 4}, 6, 12, "config.mesh.data must divide the series of a batch, 6, got 4"),
    "micro": ({"data": 4}, 24, 12, "config.mesh.data must divide the series of a micro batch, 6"),
    "parts": ({}, 10, 12, "config.train.accumulation must divide the series of a batch, 10, got 4"),
    "length": ({"sequence": 2}, 8, 9, "config.mesh.sequence must divide the length of the padded "
               "series, 9, got 2"),
}  # fmt: skip


def configured(width=5, accumulation=1, **sizes):
    return from_config_dict(
        {"mesh": sizes, "model": {"width": width}, "train": {"accumulation": accumulation}}
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_divide_is_refused_by_name(case):
    sizes, series, length, words = REFUSED[case]
    parts = 4 if case in ("micro", "parts") else 1
    with pytest.raises(UserError) as error:
        mesh.place(configured(accumulation=parts, **sizes), series, length)
    assert words in str(error.value)


def test_processes_divide_too(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(UserError, match="2 processes, which have not met: --coordinator"):
            mesh.place(configured(), 8, 12)
        patch.setattr(jax.distributed, "is_initialized", lambda: True)
        with pytest.raises(UserError, match="multiple of the number of processes, 2, got 1"):
            mesh.place(configured(data=1), 8, 12)
        words = "the series of a batch, 7, can be divided evenly over 2 processes, got 7"
        with pytest.raises(UserError, match=f"train.batch_size must .* {words}"):
            mesh.place(configured(), 7, 12)


@pytest.mark.parametrize(
    ("sizes", "series", "shares", "note"),
    [
        ({}, 8, 4, "mesh: data 4, sequence 1, model 1; 4 of 4 devices"),
        ({}, 6, 3, "3 of 4 devices, for no more of them divide a batch evenly"),
        ({}, 7, 1, "1 of 4 devices, for no more of them divide a batch evenly"),
        ({"data": 1}, 8, 1, "1 of 4 devices"),
        ({"sequence": 2}, 8, 2, "data 2, sequence 2, model 1; 4 of 4 devices"),
        ({"model": 2}, 8, 2, "config.mesh.model divides no kernel, for these have 5 filters"),
    ],
)
def test_as_many_devices_as_divide_a_batch_are_taken_and_that_is_said(sizes, series, shares, note):
    found = mesh.place(configured(**sizes), series, 12)
    assert found.shares == shares
    assert found.note.endswith(note)


# --- What is divided


def run(placement, config, state, batch):
    """Return the state behind a step, whole."""
    state = placement.put(jax.tree.map(np.array, state))
    step = placement.jit(steps.make_train_step(config, placement.divide), placement.of_state(state))
    return step(state, placement.batch(batch, 12))


@pytest.fixture(scope="module")
def divided():
    """Return a state behind a step on four devices, where each axis but `data` divides."""
    model = {"width": 6, "dropout": 0.3, "stem_multiplier": 1}
    model |= {"blocks": 2, "dilation": 2, "stem_branches": 2, "differences": True}
    model["fixed_filters"] = 2
    config, model, state, _ = tiny_state(model, accumulation=2, learning_rate=0.05, warmup=0.0)
    config = dataclasses.replace(config, mesh=configured(sequence=2, model=2).mesh)
    split = tiny_split(12)
    series = np.pad(split.inputs, ((0, 0), (0, 1), (0, 0)))
    batch = {"inputs": series, "lengths": split.lengths, "labels": split.labels}
    placement = mesh.place(config, 12, 10)
    return placement, run(placement, config, state, batch), config, model, state, batch


def test_a_step_is_that_of_one_device(divided):
    """With dropout, micro batches, divided steps and divided filters."""
    _, after, config, _, state, batch = divided
    alone = run(mesh.Placement(), config, state, batch)
    for name in ("params", "averaged", "batch_stats", "sums"):
        chex.assert_trees_all_close(
            getattr(after, name), getattr(alone, name), rtol=2e-5, atol=1e-6
        )


def test_filters_of_pointwise_kernels_are_divided_with_their_moments(divided):
    after = divided[1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        is_pointwise = path and getattr(path[-1], "key", None) == "pointwise_kernel"
        assert leaf.sharding.spec == (P(None, None, "model") if is_pointwise else P()), path
    names = [str(path) for path, leaf in jax.tree_util.tree_leaves_with_path(after)
             if leaf.sharding.spec != P()]  # fmt: skip
    for part in ("params", "averaged", "best", "mu", "nu"):
        assert sum(f"'{part}'" in name or f".{part}" in name for name in names) >= 3


def test_scores_do_not_depend_on_the_devices(divided):
    placement, _, _, model, state, _ = divided
    split = tiny_split(11)
    split = dataclasses.replace(split, inputs=np.pad(split.inputs, ((0, 0), (0, 1), (0, 0))))
    alone = Evaluator(model.apply, 7)(state.averaged, split)
    both = Evaluator(model.apply, 7, placement)(placement.put(state.averaged), split)
    np.testing.assert_allclose(both["logits"], alone["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both["loss"], alone["loss"], rtol=1e-5)
    assert both["accuracy"] == alone["accuracy"]


def test_a_checkpoint_has_the_same_bits_on_any_devices(divided, tmp_path):
    placement, after, _, _, state, _ = divided
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(placement.fetch(after))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(state)
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(found))
    chex.assert_trees_all_equal(placement.fetch(after), jax.tree.map(np.array, found))
    chex.assert_trees_all_equal(placement.fetch(placement.put(found)), placement.fetch(after))
