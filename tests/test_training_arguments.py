"""The help of the trainer's command line."""

import dataclasses
import pathlib

import pytest

from flax_sepconv.training import configs
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.config import Config

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
GROUPS = {group.name: group.default for group in dataclasses.fields(Config)}
SETTINGS = [(g, field) for g, values in GROUPS.items() for field in dataclasses.fields(values)]


@pytest.fixture(scope="module")
def shown():
    with pytest.MonkeyPatch.context() as patch:
        written = []
        patch.setattr("flax_sepconv.training.__main__._write", written.append)
        assert main(["train", "--help"]) == 0
    return " ".join(written[0].split())


@pytest.mark.parametrize(("group", "field"), SETTINGS, ids=lambda part: getattr(part, "name", part))
def test_every_setting_is_in_the_help(group, field, shown):
    kind = type(getattr(GROUPS[group], field.name)).__name__.upper()
    start = f"--config.{group}.{field.name} {kind} "
    assert len(field.metadata["meaning"]) > 5
    assert start in shown
    entry = shown.split(start)[1].split("--config.")[0]
    assert entry.startswith(f"{field.metadata['meaning']}; ")
    if rule := field.metadata["rule"]:
        assert f"; {rule.text}; " in entry
    assert f"default {field.default}".rstrip() in entry


def test_every_config_is_in_the_help(shown):
    assert NAMES
    for name in NAMES:
        assert f" {name} {configs.title(CONFIGS / f'{name}.py')} " in shown
