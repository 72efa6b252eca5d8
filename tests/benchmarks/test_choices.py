"""The tables that ship for accelerators, made from what was compiled."""

import json

import pytest

from benchmarks import choices
from flax_sepconv.ops.choices.table import read


def record(target="v4", **floors):
    candidates = {name: {"roof_microseconds": floor} for name, floor in floors.items()}
    row = {"workload": "jax13800_k5-0", "dtype": "bfloat16", "program": "forward"}
    row["candidates"] = candidates | {"triton": {"declined": "no GPU"}}
    return {"target": target, "date": "2026-01-01", "versions": {"jax": "0.10.2"}, "rows": [row]}


def written(tmp_path, **records):
    for name, told in records.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{told['target']}.json").write_text(json.dumps(told))
    folders = [f"{tmp_path / 'rules'}", f"grouped_conv={tmp_path / 'conv'}"]
    choices.main([*folders, "--output", str(tmp_path)])
    return read(tmp_path / "tpu-v4.json")


@pytest.mark.parametrize(("floor", "choice"), [(80.0, "grouped_conv"), (95.0, "default")])
def test_a_form_is_chosen_where_it_is_clearly_better(tmp_path, floor, choice):
    """Not a kernel, which was not run, nor a form by name, which is another program."""
    rules = record(selected=100.0, stock=90.0, mosaic=10.0, shifted_sum=20.0)
    made = written(tmp_path, rules=rules, conv=record(selected=floor))
    assert made.devices == ("TPU v4",)
    assert made.evidence == "compiled, not run"
    (row,) = made.rows
    assert row.choice == choice
    assert row.problem == "B8 L1024 C512->128 K5 S1 D1 M1 same"
    floors = {name: facts["roof_microseconds"] for name, facts in row.candidates.items()}
    assert floors == {"default": 100, "stock": 90, "mosaic": 10, "grouped_conv": floor}


def test_a_lowering_can_be_forced(tmp_path):
    """On every device there is a table for, at the whole suite."""
    choices.main(["--force", "shifted_sum", "--output", str(tmp_path)])
    made = [read(path) for path in tmp_path.iterdir()]
    assert {each.devices for each in made} == set(choices.KINDS.values())
    assert {row.choice for each in made for row in each.rows} == {"shifted_sum"}


@pytest.mark.parametrize("words", [[], ["runs", "--force", "grouped_conv"], ["--force", "mosaic"]])
def test_unusable_flags_end_the_program(words):
    with pytest.raises(SystemExit, match="2"):
        choices.main(words)
