"""`validate-data`: what it counts and finds, and that a run begins just where it finds no error."""

import numpy as np
import pytest

from flax_sepconv.training import data, validate
from flax_sepconv.training.config import DataConfig, UserError, from_config_dict


def report(config):
    """Return the exit status and the lines that are printed."""
    lines = []
    values = {"data": {name: getattr(config, name) for name in config.__dataclass_fields__}}
    status = validate.run(from_config_dict(values), lines.append)
    return status, lines


def loads(config):
    try:
        data.load(config)
    except UserError:
        return False
    return True


def test_counts_of_a_set_are_its_published_ones():
    status, lines = report(DataConfig(name="JapaneseVowels"))
    assert status == 0
    assert lines[0] == "JapaneseVowels: ts, classification"
    table = [line.split() for line in lines]
    assert ["TRAIN", "270", "7", "15", "26", "12", "JapaneseVowels_TRAIN.ts"] in table
    assert ["TEST", "370", "7", "15", "29", "12", "JapaneseVowels_TEST.ts"] in table
    counts = [row[2] for row in table if len(row) == 3 and row[1] == "30"]
    assert counts == "31 35 88 44 29 24 40 50 29".split()
    assert "imbalance in training: 1 (most frequent / rarest)" in lines
    assert lines[-1] == "0 errors, 0 warnings"


SERIES = {
    "a": "p,q\n1,7\n2,7\n",
    "b": "p,q\n3,7\n1,7\n5,7\n",
    "c": "p,q\n4,7\n4,7\n",
    "d": "p,q\n1,7\n2,7\n",  # as a
    "e": "p,q\n9,7\n8,7\n",
    "bad": "p,q\n1,2\nx,3\n5,\n",
}
LABELS = "file,label,split\na.csv,u,train\nb.csv,u,train\nc.csv,v,train\nd.csv,v,test\n"


def write(folder, labels):
    for name, text in SERIES.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "labels.csv").write_text(labels)
    return DataConfig(path=str(folder))


def test_what_is_worth_a_warning_stops_no_run(tmp_path):
    config = write(tmp_path, LABELS)
    status, lines = report(config)
    assert status == 0
    assert loads(config)
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: channel 1 does not change in 1 of 3 training series",
        "warning: channel 2 is 7 in all training series",
        f"warning: {tmp_path / 'labels.csv'}, line 5: the same series is in TRAIN "
        f"({tmp_path / 'labels.csv'}, line 2), with label 'u' and not 'v'",
    ]
    assert lines[-1] == "0 errors, 3 warnings"
    assert "imbalance in training: 2 (most frequent / rarest)" in lines


def test_every_bad_line_is_an_error_and_the_rest_is_counted(tmp_path):
    config = write(tmp_path, LABELS + "e.csv,w,test\nbad.csv,u,train\nf.csv,u,train\ne.csv,u,dev\n")
    status, lines = report(config)
    assert status == 2
    assert not loads(config)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    labels = tmp_path / "labels.csv"
    assert errors == [
        f"{tmp_path / 'bad.csv'}, line 3: cannot read 'x' as a number (column 'p')",
        f"{tmp_path / 'bad.csv'}, line 4: has missing values, which are not supported (column 'q')",
        f"{labels}, line 8: cannot read {tmp_path / 'f.csv'}: No such file or directory",
        f"{labels}, line 9: the split must be one of train, validation, test, got 'dev'",
        f"{labels}, line 9: e.csv is in line 6 already",
        f"{labels}, line 6: label 'w' is in no training series; there are u, v",
    ]
    table = [line.split() for line in lines]
    assert ["TRAIN", "3", "2", "2", "3", "2", "labels.csv,", "train"] in table
    assert ["w", "0", "1"] in table
    assert lines[-1] == "6 errors, 3 warnings"
    findings = validate.check(config).findings
    assert [finding.place.line for finding in findings if finding.is_error] == [3, 4, 8, 9, 9, 6]


def test_other_tasks_have_their_own_counts(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(4, 6))
    for part in ("TRAIN", "TEST"):
        values = np.array([1.0, 2.0, 3.0, 6.0])
        np.savez(tmp_path / f"values_{part}.npz", inputs=inputs, labels=values)
        labels = [[1, 0], [1, 1], [0, 0], [1, 0]]
        np.savez(tmp_path / f"sets_{part}.npz", inputs=inputs, labels=labels)
        inputs = inputs + 1
    config = DataConfig(name="values", path=str(tmp_path), task="regression")
    status, lines = report(config)
    assert (status, lines[-1]) == (0, "0 errors, 0 warnings")
    rows = [line.split() for line in lines]
    assert ["targets", "least", "mean", "deviation", "largest"] in rows
    assert ["TRAIN", "1", "3", "1.87083", "6"] in rows
    status, lines = report(DataConfig(name="sets", path=str(tmp_path), task="multilabel"))
    assert status == 0
    assert [row for row in map(str.split, lines) if row[:1] in (["0"], ["1"])][:2] == [
        ["0", "3", "3"],
        ["1", "1", "1"],
    ]
    assert "warning: 1 of 4 training series have no label" in lines


def test_what_is_nowhere_is_refused_and_a_flood_is_cut(tmp_path):
    with pytest.raises(UserError, match="no data set 'Nothing'"):
        report(DataConfig(name="Nothing"))
    (tmp_path / "a_TRAIN.tsv").write_text("1\tx\n" * 120)
    (tmp_path / "a_TEST.tsv").write_text("1\t2\n")
    status, lines = report(DataConfig(path=str(tmp_path)))
    assert status == 2
    assert f"error: {tmp_path / 'a_TRAIN.tsv'}, line 50: cannot read 'x' as a number" in "".join(
        lines
    )
    assert lines[-2:] == ["and 70 errors more", "120 errors, 0 warnings"]
