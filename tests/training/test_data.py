"""The loader: what it reads, how it pads, and in which order training sees it."""

import dataclasses

import numpy as np
import pytest

from flax_sepconv.training import data
from flax_sepconv.training.config import DataConfig, UserError

# train, test, channels, longest, classes: the sets' published facts
SETS = {
    "ACSF1": (100, 100, 1, 1460, 10),
    "ArrowHead": (36, 175, 1, 251, 3),
    "BasicMotions": (40, 40, 6, 100, 4),
    "GunPoint": (50, 150, 1, 150, 2),
    "ItalyPowerDemand": (67, 1029, 1, 24, 2),
    "JapaneseVowels": (270, 370, 12, 29, 9),
    "OSULeaf": (200, 242, 1, 427, 6),
}

TS = """@problemName Tiny
@timeStamps false
@missing false
@univariate false
@dimension 2
@equalLength false
@classLabel true a b
@data
{rows}"""


def write_set(folder, train, test, header=TS):
    (folder / "Tiny").mkdir(exist_ok=True)
    for part, rows in (("TRAIN", train), ("TEST", test)):
        text = header.format(rows="".join(f"{row}\n" for row in rows))
        (folder / "Tiny" / f"Tiny_{part}.ts").write_text(text)
    return DataConfig(name="Tiny", path=str(folder))


@pytest.mark.parametrize("name", SETS)
def test_every_shipped_set_loads_with_its_published_sizes(name):
    train, test = data.load(DataConfig(name=name))
    n_train, n_test, channels, longest, classes = SETS[name]
    assert train.inputs.shape == (n_train, longest, channels)
    assert test.inputs.shape == (n_test, longest, channels)
    assert set(train.labels) == set(range(classes))
    assert len(train.classes) == classes
    for split in (train, test):
        assert split.inputs.dtype == np.float32
        behind = np.arange(longest) >= split.lengths[:, None]
        assert not split.inputs[behind].any()


def test_japanese_vowels_has_its_known_lengths_and_thirty_utterances_a_speaker():
    train, test = data.load(DataConfig(name="JapaneseVowels"))
    assert (train.lengths.min(), train.lengths.max()) == (7, 26)
    assert (test.lengths.min(), test.lengths.max()) == (7, 29)
    assert np.bincount(train.labels).tolist() == [30] * 9
    assert np.bincount(test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_standardisation_uses_the_training_split_alone(tmp_path):
    config = write_set(
        tmp_path, ["1,3:10,30:a", "5:50:b"], ["100,200,300:1000,2000,3000:a", "3,3:30,30:b"]
    )
    train, test = data.load(config)
    mean, deviation = 3.0, np.std([1, 3, 5])
    expected = (np.array([1, 3]) - mean) / deviation
    np.testing.assert_allclose(train.inputs[0, :2], np.stack([expected] * 2, 1), rtol=1e-6)
    expected = (np.array([100, 200, 300]) - mean) / deviation
    np.testing.assert_allclose(test.inputs[0], np.stack([expected] * 2, 1), rtol=1e-6)
    assert not test.inputs[1].any()  # every value of it is the training mean
    np.testing.assert_allclose(test.scaling([[5, 50]]), [[2 / deviation] * 2], rtol=1e-12)
    assert data.load(dataclasses.replace(config, standardize="none"))[0].inputs[1, 0, 1] == 50
    own, _ = data.load(dataclasses.replace(config, standardize="series"))
    assert own.scaling is None
    np.testing.assert_allclose(own.inputs[0, :2], [[-1, -1], [1, 1]])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["1,?:1,2:a"], ["1:1:a"], "missing values"),
        (["1:1:a"], ["1:1:c"], "not declared"),
        (["1:1:a"], ["1:1:1:a"], "number of channels"),
        (["1,x:1,2:a"], ["1:1:a"], "cannot read"),
        ([], ["1:1:a"], "Tiny_TRAIN.ts holds no series"),
        (["1:1:a"], [], "Tiny_TEST.ts holds no series"),
    ],
)
def test_a_set_that_will_not_do_is_refused_by_name(tmp_path, train, test, message):
    with pytest.raises(UserError, match=message):
        data.load(write_set(tmp_path, train, test))


@pytest.mark.parametrize("path", ["~no.such.user/x", "a" * 300, "a\0b"], ids=range(3))
def test_paths_that_no_system_has(path):
    with pytest.raises(UserError, match=r"'GunPoint'|there is no file or folder"):
        data.load(DataConfig(name="GunPoint", path=path))


def test_a_regression_set_is_refused(tmp_path):
    header = TS.replace("@classLabel true a b", "@targetLabel true")
    with pytest.raises(UserError, match="class labels"):
        data.load(write_set(tmp_path, ["1:1:0.5"], ["1:1:0.5"], header))


def numbered(n):
    labels = np.arange(n, dtype=np.int32)
    inputs = np.broadcast_to(labels[:, None, None], (n, 3, 2)).astype(np.float32)
    return data.Split(inputs, np.full(n, 3, np.int32), labels, tuple(map(str, labels)))


def test_hold_out_takes_the_fraction_of_every_class():
    split = data.Split(
        np.arange(60, dtype=np.float32).reshape(30, 2, 1),
        np.full(30, 2, np.int32),
        np.repeat(np.arange(3, dtype=np.int32), 10),
        ("a", "b", "c"),
    )
    rest, held = data.hold_out(split, 0.2, seed=1)
    assert np.bincount(held.labels).tolist() == [2, 2, 2]
    assert np.bincount(rest.labels).tolist() == [8, 8, 8]
    both = np.concatenate([rest.inputs, held.inputs])
    assert np.sort(both.ravel()).tolist() == list(range(60))


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_hold_out_leaves_series_on_both_sides(fraction):
    with pytest.raises(UserError, match=r"validation_fraction must leave series on both sides, .*"):
        data.hold_out(numbered(11), fraction, seed=1)


def test_a_step_has_the_same_batch_wherever_the_run_was_resumed():
    split = numbered(11)
    whole = [b["labels"].tolist() for b in data.train_batches(split, 4, 7, 0, 9)]
    resumed = [b["labels"].tolist() for b in data.train_batches(split, 4, 7, 5, 9)]
    assert len(whole) == 9
    assert whole[5:] == resumed
    assert whole != [b["labels"].tolist() for b in data.train_batches(split, 4, 8, 0, 9)]
    assert data.steps_per_epoch(split, 4) == 2
    for epoch in (whole[0:2], whole[2:4], whole[4:6]):
        assert len(set(epoch[0] + epoch[1])) == 8  # no series twice in an epoch


def test_evaluation_batches_cover_the_split_once_at_one_shape():
    batches = list(data.eval_batches(numbered(11), 4))
    assert [b["inputs"].shape for b in batches] == [(4, 3, 2)] * 3
    seen = np.concatenate([b["labels"][b["valid"]] for b in batches])
    assert seen.tolist() == list(range(11))
