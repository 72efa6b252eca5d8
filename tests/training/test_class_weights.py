"""Weights of classes: scikit-learn's numbers, in the loss as counted by hand."""

import functools

import jax
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from flax_sepconv.training import class_weights, data, step
from flax_sepconv.training.config import TrainConfig, UserError, from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.prepare import prepare
from flax_sepconv.training.splits import Splits

pytestmark = pytest.mark.usefixtures("compiled_once")

BALANCED = TrainConfig(class_weights="balanced")


def labelled(labels, classes="abcd"):
    n = len(labels)
    lengths = np.full(n, 5, np.int32)
    inputs = np.random.default_rng(3).standard_normal((n, 5, 2)).astype(np.float32)
    return data.Split(inputs, lengths, np.asarray(labels), tuple(classes))


def test_they_are_those_of_scikit_learn():
    labels = np.array([0] * 7 + [1] * 2 + [2] + [3] * 4, np.int32)
    ours = class_weights.of(BALANCED, labelled(labels))
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours[labels].mean() == pytest.approx(1, rel=1e-6)
    assert class_weights.of(TrainConfig(), labelled(labels)) is None


def test_a_class_without_series_does_not_count():
    labels = np.array([0, 0, 0, 2], np.int32)
    ours = class_weights.of(BALANCED, labelled(labels))
    theirs = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    np.testing.assert_allclose(ours, [theirs[0], 0, theirs[1], 0], rtol=1e-6)


@pytest.mark.parametrize("labels", [np.array([0.5, 1.0]), np.array([[0, 1], [1, 1]])])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(UserError, match=r"config\.train.class_weights must be none"):
        class_weights.of(BALANCED, labelled(labels))
    assert class_weights.of(TrainConfig(), labelled(labels)) is None


@pytest.mark.parametrize(("smoothing", "accumulation"), [(0.0, 1), (0.2, 2)])
def test_the_loss_is_the_one_counted_by_hand(smoothing, accumulation):
    settings = {
        "model": {
            "width": 4,
            "blocks": 1,
            "kernel_size": 3,
            "stem_multiplier": 1,
            "dropout": 0.0,
            "l2": 0.0,
        },
        "train": {"label_smoothing": smoothing, "accumulation": accumulation},
    }
    config = from_config_dict(settings)
    split = labelled(np.array([0, 0, 0, 0, 0, 2, 3, 3], np.int32))
    weights = class_weights.of(BALANCED, split)
    batch = {"inputs": split.inputs, "lengths": split.lengths, "labels": split.labels}
    model = SeparableResNet(4, config.model)
    state = step.create_state(config, model, batch, 5)
    after = jax.jit(step.make_train_step(config, class_weights=weights))(state, batch)

    losses = []
    for part in range(accumulation):  # each part is normalised by its own statistics
        rows = slice(part, None, accumulation)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats", "losses"])
        logits, _ = jax.jit(apply)(variables, split.inputs[rows], split.lengths[rows])
        logits = np.asarray(logits, np.float64)
        logarithms = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        targets = np.eye(4)[split.labels[rows]] * (1 - smoothing) + smoothing / 4
        losses += list(weights[split.labels[rows]] * -(targets * logarithms).sum(-1))
    assert float(after.sums["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    plain = jax.jit(step.make_train_step(config))(state, batch)
    assert abs(float(plain.sums["loss"]) - np.mean(losses)) > 1e-3


def test_they_are_counted_without_what_is_held_out(monkeypatch):
    split = labelled(np.array([0] * 20 + [1] * 10 + [3] * 5, np.int32))
    monkeypatch.setattr(data, "_load", lambda _: Splits(split, None, split))
    settings = {"data": {"validation_fraction": 0.3}, "train": {"class_weights": "balanced"}}
    prepared = prepare(from_config_dict(settings))
    labels = prepared.split.labels
    assert len(labels) == 14 + 7 + 3
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(prepared.class_weights[[0, 1, 3]], theirs, rtol=1e-6)
