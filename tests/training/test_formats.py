"""The formats of data sets: each gives what the same data give as .ts, and bad files are named."""

import dataclasses
import json

import numpy as np
import pytest
from aeon.datasets import load_from_ts_file

from flax_sepconv.training import data
from flax_sepconv.training.config import DataConfig, UserError
from flax_sepconv.training.datasets import formats, places, unseen
from flax_sepconv.training.splits import Scaling

PARTS = ("TRAIN", "TEST")


@pytest.fixture(scope="module")
def raw():
    """Return every ninth utterance of JapaneseVowels, (L, 12), and its speaker, by parts."""
    folder = places.folder(DataConfig()) / "JapaneseVowels"
    found = {}
    for part in PARTS:
        series, labels = load_from_ts_file(str(folder / f"JapaneseVowels_{part}.ts"))
        found[part] = [s.T for s in series[::9]], labels[::9].tolist()
    return found


def first_channel(raw):
    return {part: ([s[:, :1] for s in series], labels) for part, (series, labels) in raw.items()}


def write_ts(folder, raw, classes="123456789"):
    width = raw["TRAIN"][0][0].shape[1]
    folder.mkdir(exist_ok=True)
    for part, (series, labels) in raw.items():
        lines = [
            ":".join([*(",".join(map(repr, channel.tolist())) for channel in s.T), label])
            for s, label in zip(series, labels, strict=True)
        ]
        header = f"@univariate {str(width == 1).lower()}\n@equalLength false\n"
        header += f"@classLabel true {' '.join(classes)}\n@data\n"
        (folder / f"Vowels_{part}.ts").write_text(header + "\n".join(lines) + "\n")


def write_csv(folder, raw, splits={"TRAIN": "train", "TEST": "test"}):  # noqa: B006
    """Write a file for each series, and labels.csv beside them."""
    folder.mkdir()
    rows = ["file,label,split" if splits else "file,label"]
    for part, (series, labels) in raw.items():
        for number, (s, label) in enumerate(zip(series, labels, strict=True)):
            names = ",".join(f"c{i}" for i in range(s.shape[1]))
            lines = [names, *(",".join(map(repr, step)) for step in s.tolist())]
            (folder / f"{part}{number}.csv").write_text("\n".join(lines) + "\n")
            rows.append(f"{part}{number}.csv,{label}" + (f",{splits[part]}" if splits else ""))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def write_long(folder, raw):
    """Write one table, in which the steps of all series are shuffled."""
    folder.mkdir()
    width = raw["TRAIN"][0][0].shape[1]
    first, rest = [], []
    for part, (series, labels) in raw.items():
        for number, (s, label) in enumerate(zip(series, labels, strict=True)):
            for time, step in enumerate(s.tolist()):
                cells = [f"{part}{number}", time / 8, *step, label, part.lower()]
                (rest if time else first).append(",".join(map(str, cells)))
    names = ",".join(f"c{i}" for i in range(width))
    order = np.random.default_rng(0).permutation(len(rest))
    # Series are in the order in which they begin.
    lines = [f"series,time,{names},label,split", *first, *(rest[i] for i in order)]
    (folder / "Vowels.csv").write_text("\n".join(lines) + "\n")


def padded(series, fill):
    inputs = np.full((len(series), max(map(len, series)), series[0].shape[1]), fill)
    for row, s in zip(inputs, series, strict=True):
        row[: len(s)] = s
    return inputs


def write_npz(folder, raw):
    folder.mkdir()
    for part, (series, labels) in raw.items():
        np.savez(
            folder / f"Vowels_{part}.npz",
            inputs=padded(series, np.nan),  # behind a series anything may stand
            lengths=[len(s) for s in series],
            labels=np.array(labels).astype(int),
        )


def write_tsv(folder, raw):
    folder.mkdir()
    for part, (series, labels) in raw.items():
        rows = padded(series, np.nan)[..., 0].tolist()
        lines = ["\t".join([y, *map(str, row)]) for y, row in zip(labels, rows, strict=True)]
        (folder / f"Vowels_{part}.tsv").write_text("\n".join(lines).replace("nan", "NaN") + "\n")


WRITERS = {"csv": write_csv, "long": write_long, "npz": write_npz, "tsv": write_tsv}


def check_same(found, wanted):
    for name in ("inputs", "lengths", "labels"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for name in ("mean", "deviation"):  # the order of steps in memory changes their last digit
        ours, theirs = getattr(found.scaling, name), getattr(wanted.scaling, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert (found.classes, found.contents) == (wanted.classes, wanted.contents)


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_gives_what_the_same_data_give_as_ts(form, raw, tmp_path):
    raw = first_channel(raw) if form == "tsv" else raw
    write_ts(tmp_path / "ts", raw)
    wanted = data.load(DataConfig(path=str(tmp_path / "ts")))
    WRITERS[form](tmp_path / "Vowels", raw)
    # By the folder of data sets, by the set's own folder, and with its format named.
    by_name = DataConfig(path=str(tmp_path), name="Vowels")
    own = DataConfig(path=str(tmp_path / "Vowels"), name="Vowels")
    named = dataclasses.replace(by_name, format="csv" if form == "long" else form)
    for config in (by_name, own, named):
        found = data.load(config)
        for ours, theirs in zip(found, wanted, strict=True):
            check_same(ours, theirs)
        assert found[0].name == formats.title(config) == "Vowels"
    assert wanted[0].classes == tuple("123456789")


def test_a_file_is_a_data_set_and_a_lone_one_needs_no_name(raw, tmp_path):
    write_ts(tmp_path / "ts", raw)
    write_long(tmp_path / "long", raw)
    wanted, _ = data.load(DataConfig(path=str(tmp_path / "ts" / "Vowels_TEST.ts")))
    for path in ("ts", "long/Vowels.csv"):
        config = DataConfig(path=str(tmp_path / path))
        check_same(data.load(config)[0], wanted)
        assert formats.title(config) == "Vowels"
    with pytest.raises(UserError, match=r"no data set 'JapaneseVowels'.* as npz"):
        data.load(DataConfig(path=str(tmp_path / "ts"), format="npz"))
    (tmp_path / "ts" / "Other_TEST.ts").write_text("")
    with pytest.raises(UserError, match="holds Other, Vowels: which one is meant"):
        data.load(DataConfig(path=str(tmp_path / "ts")))


@pytest.mark.parametrize("form", ["ts", "long", "npz", "tsv"])
def test_the_only_file_of_a_folder_is_its_data_set(form, raw, tmp_path):
    raw = first_channel(raw)
    ({"ts": write_ts} | WRITERS)[form](tmp_path / "all", raw)
    (tmp_path / "mine").mkdir()
    name, ending = ("Vowels", "csv") if form == "long" else ("Vowels_TRAIN", form)
    file = (tmp_path / "all" / f"{name}.{ending}").rename(tmp_path / "mine" / f"Mine.{ending}")
    (tmp_path / "mine" / "notes.txt").write_text("")
    for path in (file, file.parent):
        config = DataConfig(path=str(path), test_fraction=0.5)
        train, test = data.load(config)
        assert train.name == formats.title(config) == "Mine"
        whole = len(raw["TRAIN"][0]) + (len(raw["TEST"][0]) if form == "long" else 0)
        assert len(train) + len(test) == whole
    (tmp_path / "mine" / "other.csv").write_text("")
    names = ", ".join(sorted([file.name, "other.csv"]))
    with pytest.raises(UserError, match=rf"{names}: .* named by config\.data\.path; .*labels\.csv"):
        data.load(DataConfig(path=str(file.parent)))
    named = DataConfig(path=str(file.parent), format="csv" if form == "long" else form)
    if form == "long":
        with pytest.raises(UserError, match=r"labels\.csv must be beside them"):
            formats.find(named)
    else:
        assert formats.find(named)[1].paths == {"ALL": file}


def test_equally_long_series_of_an_archive_need_no_lengths(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for part in PARTS:
        np.savez(tmp_path / f"Made_{part}.npz", inputs=values, labels=list("bababa"))
    train, test = data.load(DataConfig(path=str(tmp_path), standardize="none"))
    np.testing.assert_array_equal(train.inputs[..., 0], values)
    assert train.lengths.tolist() == [5] * 6
    assert (train.classes, test.labels.tolist()) == (("a", "b"), [1, 0] * 3)


def test_dates_order_steps_and_columns_are_chosen(tmp_path):
    lines = ["who,when,x,note,y,kind", "1,2026-03-01,3,n,30,b", "2,2026-01-05T10:00,5,n,50,a"]
    lines += ["1,2026-01-31,1,n,10,b", "2,2026-01-05T09:30,4,n,40,a", "1,2026-02-28,2,n,20,b"]
    (tmp_path / "all.csv").write_text(
        "\n".join(
            [*lines, *(f"3,{y}-01-01,0,n,0,a" for y in range(2000, 2003)), "4,2000-01-01,1,n,1,b"]
        )
    )
    config = DataConfig(
        path=str(tmp_path / "all.csv"),
        series_column="who",
        time_column="when",
        channel_columns="y, x",
        label_column="kind",
        standardize="none",
        test_fraction=0.5,
    )
    splits = data.load(config)
    rows = [s.inputs[i, :n].tolist() for s in splits for i, n in enumerate(s.lengths)]
    assert [[10, 1], [20, 2], [30, 3]] in rows
    assert [[40, 4], [50, 5]] in rows


def test_data_without_a_split_are_divided_by_class_and_seed_aloud(raw, tmp_path, capsys):
    (series, labels) = raw["TEST"]
    write_csv(tmp_path / "all", {"TEST": (series, labels)}, splits=None)
    config = DataConfig(path=str(tmp_path / "all"), test_fraction=0.3)
    train, test = data.load(config)
    assert "labels.csv has no split: " in (said := capsys.readouterr().err)
    assert f"{len(test)} of its {len(series)} series are drawn for the test" in said
    counts = np.array([labels.count(name) for name in train.classes])
    assert np.bincount(test.labels, minlength=9).tolist() == np.round(0.3 * counts).tolist()
    assert len(train) + len(test) == len(series)
    again = data.load(config)
    np.testing.assert_array_equal(again[1].inputs, test.inputs)
    other = data.load(dataclasses.replace(config, split_seed=1))
    assert other[1].contents != test.contents
    with pytest.raises(UserError, match="test_fraction must leave series on both sides"):
        data.load(dataclasses.replace(config, test_fraction=0.0))


def test_a_validation_split_of_the_data_is_used_and_noted(raw, tmp_path):
    """A run whose validation series change is another one, as its training series' are."""
    write_csv(tmp_path / "a", raw)
    table = tmp_path / "a" / "labels.csv"
    table.write_text(table.read_text().replace("TRAIN3.csv,1,train", "TRAIN3.csv,1,Validation"))
    assert "Validation" in table.read_text()
    config = DataConfig(path=str(tmp_path / "a"))
    splits = data.load_splits(config, seed=0)
    whole = raw["TRAIN"][0]
    assert [len(s) for s in splits if s] == [len(whole) - 1, 1, len(raw["TEST"][0])]
    np.testing.assert_allclose(
        splits.validation.inputs[0, : len(whole[3])],
        splits.train.scaling(whole[3]),
        rtol=1e-5,
        atol=1e-6,
    )
    assert splits.train.contents.series == len(whole)
    with pytest.raises(UserError, match=r"validation_fraction must be 0, got 0\.2"):
        data.load_splits(dataclasses.replace(config, validation_fraction=0.2), seed=0)


# What is in the files, and what is said, with the file and the line.
GOOD = {"labels.csv": "file,label,split\na.csv,x,train\nb.csv,y,train\nc.csv,x,test\n"}
GOOD |= {f"{name}.csv": f"p,q\n1,2\n{i},4\n" for i, name in enumerate("abc")}
FOLDERS = {
    "a word": (
        {"b.csv": "p,q\n1,2\n3,4x\n"},
        "b.csv, line 3: cannot read '4x' as a number (column 'q')",
    ),
    "NaN": ({"b.csv": "p,q\n1,2\n\n3,nan\n"}, "b.csv, line 4: has missing values"),
    "nothing": ({"b.csv": "p,q\n1,\n"}, "b.csv, line 2: has missing values"),
    "infinite": ({"b.csv": "p,q\n1,-inf\n"}, "b.csv, line 2: -inf is not finite"),
    "a cell more": ({"b.csv": "p,q\n1,2\n1,2,3\n"}, "b.csv, line 3: has 3 cells; the header has 2"),
    "a channel more": (
        {"b.csv": "p,q,r\n1,2,3\n"},
        "b.csv, line 1: the number of channels is 3, not 2",
    ),
    "other channels": ({"b.csv": "q,p\n1,2\n"}, "b.csv, line 1: the channels are q, p, not p, q"),
    "no steps": ({"b.csv": "p,q\n"}, "b.csv: holds no steps"),
    "no header": ({"b.csv": ""}, "b.csv is empty: its first line must name the columns"),
    "no text": ({"b.csv": b"p,q\n1,\xff\n"}, "b.csv: it is not text in UTF-8"),
    "a quote": ({"b.csv": 'p,q\n1,2\n"3,4\n'}, "b.csv, line 3: unexpected end of data"),
    "no file": (
        {"labels.csv": GOOD["labels.csv"].replace("b.csv", "d.csv")},
        "labels.csv, line 3: cannot read",
    ),
    "twice": (
        {"labels.csv": GOOD["labels.csv"] + "a.csv,x,test\n"},
        "line 5: a.csv is in line 2 already",
    ),
    "a new label": (
        {"labels.csv": GOOD["labels.csv"].replace("x,test", "z,test")},
        "labels.csv, line 4: label 'z' is in no training series; there are x, y",
    ),
    "no label": (
        {"labels.csv": GOOD["labels.csv"].replace("x,test", ",test")},
        "labels.csv, line 4: has no label",
    ),
    "a new split": (
        {"labels.csv": GOOD["labels.csv"].replace("y,train", "y,dev")},
        "labels.csv, line 3: the split must be one of train, validation, test, got 'dev'",
    ),
    "no column": (
        {"labels.csv": "file,class\na.csv,x\n"},
        "has no column 'label' (config.data.label_column)",
    ),
    "no test": (
        {"labels.csv": "file,label,split\na.csv,x,train\n"},
        "labels.csv, test holds no series",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_file_of_a_folder_is_named_with_its_line(case, tmp_path):
    files, words = FOLDERS[case]
    for name, text in (GOOD | files).items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        data.load(DataConfig(path=str(tmp_path)))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert " more" not in str(error.value)  # one fault, one finding


LONG = "series,time,p,label,split\n1,0,5,x,train\n1,1,6,x,train\n2,0,5,y,train\n3,0,7,x,test\n"
LONGS = {
    "two labels": (
        LONG + "2,1,5,x,train\n",
        "line 6: the label of series '2' is 'y' in line 4, here 'x'",
    ),
    "two splits": (LONG + "2,1,5,y,test\n", "line 6: series '2' is of another split in line 4"),
    "one time": (LONG + "1,1.0,5,x,train\n", "line 6: series '1' has this time in line 3 already"),
    "no time": (LONG + "2,soon,5,y,train\n", "line 6: the time must be a number or a date"),
    "kinds of time": (
        LONG + "2,2026-01-01,5,y,train\n",
        "line 6: times must be all numbers or all dates: line 2",
    ),
    "endless time": (LONG + "2,inf,5,y,train\n", "line 6: the time must be finite"),
    "a word": (LONG + "2,1,five,y,train\n", "line 6: cannot read 'five' as a number (column 'p')"),
    "no such channel": (
        LONG.replace(",p,", ",r,"),
        "has no column 'p' (config.data.channel_columns)",
    ),
    "no series": (
        LONG.replace("series,", "id,"),
        "has no column 'series' (config.data.series_column)",
    ),
    "two columns": (
        LONG.replace("time,p", "time,time"),
        "line 1: columns must have different names",
    ),
}


@pytest.mark.parametrize("case", LONGS)
def test_a_bad_line_of_a_long_table_is_named(case, tmp_path):
    text, words = LONGS[case]
    (tmp_path / "long.csv").write_text(text)
    with pytest.raises(UserError) as error:
        data.load(DataConfig(path=str(tmp_path / "long.csv"), channel_columns="p"))
    assert f"{tmp_path / 'long.csv'}" in str(error.value)
    assert words in str(error.value)


X, Y = np.ones((3, 4, 2)), np.array([0, 1, 0])
ARCHIVES = {
    "NaN": (
        {"inputs": np.where(np.arange(24).reshape(3, 4, 2) == 13, np.nan, X)},
        "inputs[1, 2, 1] is NaN",
    ),
    "infinite": (
        {"inputs": np.where(np.arange(24).reshape(3, 4, 2) == 0, np.inf, X)},
        "inputs[0, 0, 0] is not finite",
    ),
    "objects": (
        {"inputs": np.array([X[0], X[0, :2], X[0]], object)},
        "array 'inputs' has dtype object, which only a pickle can hold, and pickles are not "
        "loaded: pad the series",
    ),
    "object labels": (
        {"labels": np.array(["a", "b", "a"], object)},
        "array 'labels' has dtype object",
    ),
    "no labels": ({"labels": None}, "has no array 'labels'; it has: inputs"),
    "shape": (
        {"inputs": np.ones(3)},
        "inputs must be numbers (N, L, C) or (N, L), got float64 (3,)",
    ),
    "words": ({"inputs": np.array([["a"]] * 3)}, "inputs must be numbers"),
    "counts": ({"labels": Y[:2]}, "labels must be numbers or strings (3,), got int64 (2,)"),
    "too long": ({"lengths": [4, 5, 1]}, "lengths[1] must be in 1..4, got 5"),
    "empty": ({"lengths": [4, 0, 1]}, "lengths[1] must be in 1..4, got 0"),
    "no integers": ({"lengths": [4.0, 1, 1]}, "lengths must be integers (3,), got float64 (3,)"),
    "mistyped": ({"length": [4, 1, 1]}, "array 'length' is unknown; there may be: inputs, labels"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_bad_archive_is_named_with_the_array(case, tmp_path):
    arrays, words = ARCHIVES[case]
    given = {"inputs": X, "labels": Y} | arrays
    given = {name: array for name, array in given.items() if array is not None}
    np.savez(tmp_path / "Made_TRAIN.npz", **given)
    np.savez(tmp_path / "Made_TEST.npz", inputs=X, labels=Y)
    with pytest.raises(UserError) as error:
        data.load(DataConfig(path=str(tmp_path)))
    assert words in str(error.value)
    assert str(tmp_path / "Made_TRAIN.npz") in str(error.value)


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04nothing", None])
def test_what_is_no_archive_is_refused(content, tmp_path):
    if content is None:
        with (tmp_path / "a.npz").open("wb") as file:
            np.save(file, X)
    else:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz"):
        data.load(DataConfig(path=str(tmp_path / "a.npz")))


LINES = {
    "tsv word": (
        "a.tsv",
        "1\t5\t6\n2\t5\tx\n",
        "a.tsv, line 2: cannot read 'x' as a number (column 2)",
    ),
    "tsv gap": ("a.tsv", "1\t5\tNaN\t6\n2\t5\t6\tNaN\n", "a.tsv, line 1: has missing values"),
    "tsv width": ("a.tsv", "1\t5\t6\n2\t5\n", "a.tsv, line 2: has 1 values; the first line has 2"),
    "tsv empty": ("a.tsv", "1\t5\t6\n2\tNaN\tNaN\n", "a.tsv, line 2: holds no steps"),
    "ts word": ("a.ts", "1,2:3,4:x\n1,b:3,4:y\n", "a.ts, line 6: cannot read 'b' as a number"),
    "ts gap": (
        "a.ts",
        "1,2:3,4:x\n1,?:3,4:y\n1,2:3,?:y\n",
        "line 6: has missing values, which are not supported (and 1 more",
    ),
    "ts width": ("a.ts", "1,2:3,4:x\n1,2:y\n", "a.ts, line 6: the number of channels is 1, not 2"),
    "ts length": (
        "a.ts",
        "1,2:3,4:x\n1,2:3:y\n",
        "a.ts, line 6: the channels are not equally long",
    ),
    "ts label": (
        "a.ts",
        "1,2:3,4:x\n1,2:3,4:z\n1,2:3,4:x\n1,2:3,4:x\n",
        "a.ts, line 6: label 'z' is not declared",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_of_ts_and_tsv_is_named(case, tmp_path):
    name, text, words = LINES[case]
    header = "# a note\n@univariate false\n@equalLength false\n@classLabel true x y\n@data\n"
    header = header.replace("# a note\n", "") if name == "a.ts" else ""
    (tmp_path / name).write_text(header + text)
    with pytest.raises(UserError) as error:
        data.load(DataConfig(path=str(tmp_path / name), test_fraction=0.5))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["a.ts", "a.tsv"])
def test_one_label_a_series_is_not_several(name, tmp_path):
    (tmp_path / name).write_text("1\t5\n")
    with pytest.raises(UserError, match="multilabel store the data as csv or npz"):
        data.load(DataConfig(path=str(tmp_path / name), task="multilabel"))


def test_the_settings_name_the_formats_of_the_table():
    (rule,) = (f.metadata["rule"] for f in dataclasses.fields(DataConfig) if f.name == "format")
    assert all(rule.holds(name) for name in ("auto", *formats.FORMATS))
    assert json.dumps(rule.text) == json.dumps(f"must be one of auto, {', '.join(formats.FORMATS)}")


@pytest.mark.parametrize("form", [*WRITERS, "ts"])
def test_other_series_are_read_with_what_a_run_knows(form, raw, tmp_path):
    raw = first_channel(raw) if form == "tsv" else raw
    ({"ts": write_ts} | WRITERS)[form](tmp_path / "Vowels", raw)
    config = DataConfig(path=str(tmp_path), name="Vowels")
    _, test = data.load(config)
    names = {"csv": "", "long": "Vowels.csv"}
    path = tmp_path / "Vowels" / names.get(form, f"Vowels_TEST.{form}")
    channels = tuple(f"c{i}" for i in range(12)) if form in names else ()
    assert test.channels == channels
    part = unseen.read(path, config, test.channels, is_labelled=True)
    series, labels = raw["TEST"]
    if form in names:  # all that is there, whatever its split
        series, labels = [a + b for a, b in zip(raw["TRAIN"], raw["TEST"], strict=True)]
        assert part.ids[-1] == ("TEST41.csv" if form == "csv" else "TEST41")
    else:
        assert part.ids == [str(n) for n in range(1, 43)]
    for ours, theirs in zip(part.series, series, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    targets = unseen.targets(part, config, test.classes, None)
    assert targets.dtype == np.int32
    assert [test.classes[i] for i in targets] == labels
    with pytest.raises(UserError, match=r"label '9' is in no training series"):
        unseen.targets(part, config, test.classes[:-1], None)


def test_series_to_be_told_of_need_no_labels_and_the_same_channels(tmp_path):
    (tmp_path / "long.csv").write_text("series,time,p,q\nx,1,2,3\nx,0,4,5\ny,0,6,7\n")
    path, config = tmp_path / "long.csv", DataConfig()
    part = unseen.read(path, config, ("p", "q"), is_labelled=False)
    assert part.ids == ["x", "y"]
    assert [s.tolist() for s in part.series] == [[[4, 5], [2, 3]], [[6, 7]]]
    with pytest.raises(UserError, match="has no column 'label'"):
        unseen.read(path, config, ("p", "q"), is_labelled=True)
    with pytest.raises(UserError, match="the channels are p, q; in training they were q, p"):
        unseen.read(path, config, ("q", "p"), is_labelled=False)
    np.savez(tmp_path / "a.npz", inputs=np.ones((2, 3, 2)))
    part = unseen.read(tmp_path / "a.npz", config, ("p", "q"), is_labelled=False)
    with pytest.raises(UserError, match=r"a\.npz: has no label \(and 1 more"):
        unseen.targets(part, config, ("a", "b"), None)
    text = "@univariate true\n@equalLength false\n@classLabel false\n@data\n1,2\n3\n"
    (tmp_path / "a.ts").write_text(text)
    part = unseen.read(tmp_path / "a.ts", config, (), is_labelled=False)
    assert [s.tolist() for s in part.series] == [[[1], [2]], [[3]]]
    for name, words in (("none.csv", "there is no file"), ("a.txt", "must end in")):
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(UserError, match=words):
            unseen.read(tmp_path / name, config, (), is_labelled=False)
    with pytest.raises(UserError, match=r"must end in \.ts or \.csv"):
        data.load(DataConfig(path=str(tmp_path / "a.txt")))
    values = unseen.targets(
        dataclasses.replace(part, labels=["3", "5"]),
        DataConfig(task="regression"),
        ("value",),
        Scaling(np.array([1.0]), np.array([2.0])),
    )
    assert values.tolist() == [1, 2]
