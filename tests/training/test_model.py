"""The network, the augmentation and the steps, without a data set."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_sepconv.training import step as steps
from flax_sepconv.training.augment import augment
from flax_sepconv.training.config import AugmentConfig, Config, ModelConfig, from_config_dict
from flax_sepconv.training.data import Split
from flax_sepconv.training.evaluate import Evaluator, forward_flops
from flax_sepconv.training.model import SeparableResNet, _largest

LENGTHS = np.array([1, 5, 11, 7], np.int32)
CLASSES = 3


def series(padding, L=11, C=2):
    """Return random series whose padding is `padding`, whatever the padded length L."""
    values = np.random.default_rng(0).normal(size=(len(LENGTHS), max(LENGTHS), C))
    inputs = np.full((len(LENGTHS), L, C), padding, np.float32)
    for row, value, length in zip(inputs, values, LENGTHS, strict=True):
        row[:length] = value[:length]
    return jnp.asarray(inputs)


FEATURES = {
    "plain": {},
    "pooled": {"pool": 2},
    "more": {"dilation": 2, "stem_branches": 2, "differences": True, "summary": "mean"},
    "filters": {"fixed_filters": 2, "padding": "causal", "detail_gain": 4.0},
}


@functools.cache
def network(features):
    config = ModelConfig(width=5, blocks=2, kernel_size=3, dropout=0.0, **FEATURES[features])
    model = SeparableResNet(CLASSES, config)
    return model, jax.jit(model.init)(jax.random.key(1), series(0.0), jnp.asarray(LENGTHS))


@functools.cache
def gradients(features, train):
    """Return a jitted function of (params, inputs): gradients by both, and the logits."""
    model, variables = network(features)

    def loss(params, inputs):
        everything = variables | {"params": params}
        logits = model.apply(everything, inputs, LENGTHS, train=train, mutable=["batch_stats"])[0]
        labels = jnp.arange(len(LENGTHS)) % CLASSES
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return entropy.sum(), logits

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("padding", [1e30, np.inf, np.nan])
def test_what_lies_behind_a_series_changes_neither_logits_nor_gradients(train, features, padding):
    run, params = gradients(features, train), network(features)[1]["params"]
    (clean_params, clean_inputs), clean_logits = run(params, series(0.0))
    (dirty_params, dirty_inputs), dirty_logits = run(params, series(padding))
    np.testing.assert_array_equal(dirty_logits, clean_logits)
    chex.assert_trees_all_equal(dirty_params, clean_params)
    np.testing.assert_array_equal(dirty_inputs, clean_inputs)
    behind = np.arange(11) >= LENGTHS[:, None]
    assert not np.asarray(dirty_inputs)[behind].any()
    assert np.abs(np.asarray(dirty_inputs)[~behind]).max() > 0


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("longer", [12, 31])
def test_how_much_padding_there_is_does_not_matter(features, longer):
    model, variables = network(features)
    apply = jax.jit(model.apply)
    logits = apply(variables, series(0.0), LENGTHS)
    padded = apply(variables, series(np.nan, L=longer), LENGTHS)
    np.testing.assert_allclose(padded, logits, rtol=1e-5, atol=1e-6)
    alone = apply(variables, series(0.0)[1:2, :5], LENGTHS[1:2])
    np.testing.assert_allclose(alone, logits[1:2], rtol=1e-5, atol=1e-6)


def test_augmentation_reads_nothing_behind_a_series():
    config = AugmentConfig(crop=0.4, stretch=0.5, scale=0.1, shift=0.2, noise=0.3)
    run = jax.jit(lambda inputs: augment(jax.random.key(3), inputs, jnp.asarray(LENGTHS), config))
    clean, lengths = run(series(0.0))
    dirty, dirty_lengths = run(series(np.nan))
    np.testing.assert_array_equal(lengths, dirty_lengths)
    assert ((lengths >= 1) & (lengths <= 11)).all()
    before = np.arange(11) < np.asarray(lengths)[:, None]
    np.testing.assert_array_equal(np.asarray(clean)[before], np.asarray(dirty)[before])


def test_augmentation_of_nothing_is_the_identity():
    inputs, lengths = augment(jax.random.key(3), series(2.0), jnp.asarray(LENGTHS), AugmentConfig())
    np.testing.assert_array_equal(inputs, series(2.0))
    np.testing.assert_array_equal(lengths, LENGTHS)


def test_cropping_a_ramp_leaves_a_part_of_the_ramp():
    ramp = jnp.broadcast_to(jnp.arange(11.0)[None, :, None], (200, 11, 1))
    config = AugmentConfig(crop=0.5, stretch=0.3)
    lengths = jnp.full(200, 9, jnp.int32)
    out, lengths = jax.jit(lambda x, n: augment(jax.random.key(0), x, n, config))(ramp, lengths)
    for values, length in zip(np.asarray(out)[..., 0], np.asarray(lengths), strict=True):
        used = values[:length]
        assert (used >= 0).all()
        assert (used <= 8).all()  # index 8 is the last of nine
        assert (used[-1] - used[0] >= 4 - 1e-4) or length == 1  # half of 8 at least
        np.testing.assert_allclose(np.diff(used, 2), 0, atol=1e-4)


@pytest.mark.parametrize(("per_epoch", "total"), [(1, 32), (3, 33), (4, 40)])
def test_a_run_of_few_series_has_as_many_more_epochs_as_it_takes(per_epoch, total):
    config = from_config_dict({"train": {"epochs": 10, "min_steps": 32}})
    assert steps.total_steps(config, per_epoch) == total
    rate = steps.schedule(config, per_epoch)
    assert rate(total - 1) > 0
    assert rate(total) == 0


def tiny_split(n=11):
    rng = np.random.default_rng(5)
    return Split(
        rng.normal(size=(n, 9, 2)).astype(np.float32),
        rng.integers(1, 10, n).astype(np.int32),
        rng.integers(0, CLASSES, n).astype(np.int32),
        tuple("abc"),
    )


def tiny_state(model=None, **train):
    model = {"width": 5, "blocks": 1, "kernel_size": 3} | (model or {})
    config = from_config_dict({"model": model, "train": {"epochs": 10} | train})
    split = tiny_split()
    batch = {"inputs": split.inputs, "lengths": split.lengths, "labels": split.labels}
    model = SeparableResNet(CLASSES, config.model)
    return config, model, steps.create_state(config, model, batch, 5), batch


def test_the_loss_is_cross_entropy_plus_l2():
    config, model, state, batch = tiny_state({"dropout": 0.0, "l2": 0.3})
    after = jax.jit(steps.make_train_step(config))(state, batch)
    logits, _ = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        batch["inputs"],
        batch["lengths"],
        train=True,
        mutable=["batch_stats"],
    )
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    squares = sum(
        (np.asarray(leaf, np.float64) ** 2).sum()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if "wise_kernel" in jax.tree_util.keystr(path)
    )
    expected = -log_p[np.arange(11), batch["labels"]].mean() + 0.3 * squares
    np.testing.assert_allclose(after.sums["loss"], expected, rtol=1e-5)


def steps_of_six_twice(count, model, accumulation=1):
    """Return the states behind steps of six series, each twice, so that both halves are alike."""
    split = tiny_split(6).take(np.repeat(np.arange(6), 2))
    batch = {"inputs": split.inputs, "lengths": split.lengths, "labels": split.labels}
    train = {"accumulation": accumulation, "learning_rate": 0.05, "warmup": 0.0}
    config, _, state, _ = tiny_state(model, **train)
    step = jax.jit(steps.make_train_step(config))
    states = []
    for _ in range(count):
        state = step(state, batch)
        states.append(state)
    return states


@pytest.fixture(scope="module")
def plain():
    return steps_of_six_twice(1, {"dropout": 0.0})[0]


def first_moments(state):
    return state.opt_state[1][0].mu


def test_micro_batches_that_are_alike_make_the_step_of_the_whole_batch(plain):
    """Their statistics are those of the whole batch then."""
    parts = steps_of_six_twice(1, {"dropout": 0.0}, accumulation=2)[0]
    for get in (first_moments, lambda state: state.batch_stats, lambda state: state.sums):
        chex.assert_trees_all_close(get(parts), get(plain), rtol=1e-5, atol=1e-7)


def test_micro_batches_move_the_statistics_once_to_their_mean():
    config, model, state, batch = tiny_state({"dropout": 0.0}, accumulation=11)
    after = jax.jit(steps.make_train_step(config))(state, batch)
    moved = [
        model.apply(
            {"params": state.params, "batch_stats": state.batch_stats},
            batch["inputs"][i : i + 1],
            batch["lengths"][i : i + 1],
            train=True,
            mutable=["batch_stats"],
        )[1]["batch_stats"]
        for i in range(11)
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *moved)
    chex.assert_trees_all_close(after.batch_stats, mean, rtol=1e-5, atol=1e-6)
    assert after.sums["examples"] == 11


def test_blocks_that_are_computed_anew_change_nothing():
    """Dropout draws the same again."""
    kept, anew = (
        steps_of_six_twice(1, {"dropout": 0.5, "remat": remat})[0] for remat in (False, True)
    )
    chex.assert_trees_all_close(first_moments(anew), first_moments(kept), rtol=1e-6, atol=1e-8)
    chex.assert_trees_all_close(anew.batch_stats, kept.batch_stats, rtol=1e-6)
    model = SeparableResNet(CLASSES, ModelConfig(width=5, blocks=2, remat=True))
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    rngs = {"dropout": jax.random.key(0)}
    variables = jax.eval_shape(model.init, jax.random.key(0), series(0.0), jnp.asarray(LENGTHS))
    text = str(jax.make_jaxpr(apply)(variables, series(0.0), jnp.asarray(LENGTHS), rngs=rngs))
    assert text.count("remat2[") + text.count("checkpoint[") == 2


def test_in_bfloat16_weights_statistics_and_loss_stay_float32(plain):
    states = steps_of_six_twice(30, {"dropout": 0.0, "dtype": "bfloat16"})
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in (plain, states[0])]
    assert dtypes[0] == dtypes[1]
    losses = np.diff([0.0, *(float(state.sums["loss"]) for state in states)])
    np.testing.assert_allclose(losses[0], plain.sums["loss"], rtol=2e-2)
    assert losses[0] != plain.sums["loss"]
    assert losses[-5:].mean() < 0.6 * losses[0]
    model = SeparableResNet(CLASSES, ModelConfig(width=5, blocks=1, dtype="bfloat16"))
    arguments = (series(0.0), jnp.asarray(LENGTHS))
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    apply = functools.partial(model.apply, capture_intermediates=True)
    logits, changed = jax.eval_shape(apply, variables, *arguments)
    assert logits.dtype == jnp.float32
    inside = jax.tree.leaves(changed["intermediates"]["_Norm_1"])
    assert {leaf.dtype for leaf in inside} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("axis", [1, 2])
def test_the_gradient_of_a_maximum_goes_to_it_alone(axis):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 4, 3)), jnp.float32)
    top, pull = jax.vjp(lambda x: _largest(x, axis), x)
    np.testing.assert_array_equal(top, np.asarray(x).max(axis))
    expected = np.asarray(x) == np.asarray(x).max(axis, keepdims=True)
    np.testing.assert_array_equal(pull(jnp.ones_like(top))[0], expected.astype(np.float32))


def test_gradients_do_not_depend_on_the_lowering():
    """That of `max` does: XLA rounds what it compares with the maximum as it fuses it."""
    _, model, state, batch = tiny_state({"dropout": 0.0, "blocks": 2, "pool": 2})

    def gradients(implementation):
        def loss(params):
            logits, _ = model.clone(implementation=implementation).apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["inputs"],
                batch["lengths"],
                train=True,
                mutable=["batch_stats"],
            )
            labels = batch["labels"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.jit(jax.grad(loss))(state.params)

    chex.assert_trees_all_close(gradients(None), gradients("shifted_sum"), rtol=1e-3, atol=1e-5)


def check_norms(config, params):
    """Check each constrained kernel by float64 arithmetic of our own; return the norms."""
    bounds = {
        "depthwise_kernel": (config.model.depthwise_max_norm, (0,)),
        "pointwise_kernel": (config.model.pointwise_max_norm, (0, 1)),
    }
    found = {name: [] for name in bounds}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key in bounds:
            bound, axes = bounds[path[-1].key]
            norms = np.sqrt((np.asarray(leaf, np.float64) ** 2).sum(axes))
            assert norms.max() <= bound * (1 + 1e-6), path
            found[path[-1].key].append(norms.max() / bound)
    assert [len(norms) for norms in found.values()] == [3, 3]
    return found


def test_training_lowers_the_loss_compiles_once_and_keeps_the_constraints():
    chex.clear_trace_counter()
    tight = {"depthwise_max_norm": 0.5, "pointwise_max_norm": 0.7}
    config, _, state, batch = tiny_state(tight, learning_rate=0.05, warmup=0.0)
    advance = jax.jit(chex.assert_max_traces(steps.make_train_step(config), n=1), donate_argnums=0)
    report = jax.jit(chex.assert_max_traces(steps.report, n=1), donate_argnums=0)
    losses = []
    for _ in range(4):
        for _ in range(10):
            state = advance(state, batch)
            norms = check_norms(config, state.params)
            check_norms(config, state.averaged["params"])
        state, metrics = report(state, None)
        losses.append(float(metrics["loss"]))
        assert metrics["finite"]
        assert metrics["examples"] == 110
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.best_step) == 10 * (1 + int(np.argmin(losses)))
    assert all(max(kind) > 0.999 for kind in norms.values())  # else nothing was projected
    assert steps.violation(state.constraints, state.params) < 1e-6
    unprojected = jax.tree.map(lambda p: 100 * p, state.params)
    assert steps.violation(state.constraints, unprojected) > 1


def test_the_best_weights_are_those_of_the_best_score():
    _, _, state, _ = tiny_state()
    report = jax.jit(steps.report)
    kept = []
    for step, score in enumerate((3.0, 1.0, np.nan, 2.0), 1):
        averaged = jax.tree.map(lambda leaf, step=step: leaf + step, state.averaged)
        state = state.replace(step=jnp.int32(step), averaged=averaged)
        state = state.replace(sums=state.sums | {"steps": jnp.float32(1)})
        kept.append(state.averaged)
        state, metrics = report(state, jnp.float32(score))
    assert int(metrics["best_step"]) == 2
    assert float(state.best_score) == 1.0
    chex.assert_trees_all_equal(state.best, kept[1])


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_a_state_with_a_nan_is_not_finite(what):
    _, _, state, _ = tiny_state()
    assert steps.is_finite(state)
    if what == "loss":
        bad = state.replace(sums=state.sums | {"loss": jnp.float32(np.nan)})
    else:
        bad = state.replace(params=jax.tree.map(lambda p: p.at[..., 0].set(jnp.inf), state.params))
    assert not steps.is_finite(bad)


def test_evaluation_does_not_depend_on_the_batch_size():
    _, model, state, _ = tiny_state()
    split = tiny_split(23)
    whole = Evaluator(model.apply, 23)(state.averaged, split)
    for size in (1, 4, 7, 100):
        chex.clear_trace_counter()
        apply = chex.assert_max_traces(lambda *args, **kw: model.apply(*args, **kw), n=1)
        parts = Evaluator(apply, size)(state.averaged, split)
        np.testing.assert_allclose(parts["logits"], whole["logits"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=1e-5)
        assert parts["accuracy"] == whole["accuracy"]


def test_flops_count_the_multiplications_of_the_network():
    _, model, state, _ = tiny_state()
    L, C, F, K, M = 9, 2, 5, 3, model.config.stem_multiplier
    stem = C * M * K + C * M * F
    block = 2 * (F * K + F * F)
    least = 2 * L * (stem + block) + 2 * 2 * F * CLASSES
    flops = forward_flops(model, state.averaged, tiny_split())
    assert 0.8 * least < flops < 2 * least  # "same" padding saves some, normalisation adds some
    assert Config().model.stem_multiplier == M
