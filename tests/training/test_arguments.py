"""What the command line of the trainer accepts: names of settings and configs, runs to resume."""

import dataclasses
import json
import pathlib
import sys

import pytest

from flax_sepconv.training import arguments, configs
from flax_sepconv.training.__main__ import main
from flax_sepconv.training.commands import COMMANDS
from flax_sepconv.training.config import Config, from_config_dict
from tests.training_runs import refused

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of loading config files

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
GROUPS = {group.name: group.default for group in dataclasses.fields(Config)}
SETTINGS = [(g, field) for g, values in GROUPS.items() for field in dataclasses.fields(values)]


def parse(words):
    """Return the config, the folder and whether to resume, as `train` is given them."""
    given = arguments.parse(COMMANDS["train"], words)
    return given["config"], given["workdir"], given["resume"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Stand in an empty folder, with no config file loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)


# --- The help


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


# --- Settings by name


def on_the_line(path):
    return [f"--config={NAMES[0]}", f"--config.{path}=1"]


def on_the_line_of_a_resumed_run(path):
    record({})
    return ["--workdir=run", "--resume", f"--config.{path}", "1"]


def set_in_a_file(path):
    return in_a_file(f"config.{path} = 1")


def read_in_a_file(path):
    return in_a_file(f"config.model.width = config.{path}")


def updated_in_a_file(path):
    *group, name = path.split(".")
    return in_a_file(f"{'.'.join(['config', *group])}.update({name}=1)")


def returned_by_a_file(path):
    return in_a_file(f"return {nested(path)}")


def recorded(path):
    record(nested(path))
    return ["--workdir=run", "--resume"]


def nested(path):
    group, *name = path.split(".")
    return {group: {name[0]: 1} if name else 1}


def in_a_file(line):
    pathlib.Path("file.py").write_text(
        "from flax_sepconv.training.config import default_config\n"
        f"def get_config():\n    config = default_config()\n    {line}\n    return config\n"
    )
    return ["--config=file.py"]


def record(config):
    pathlib.Path("run").mkdir()
    pathlib.Path("run", "config.json").write_text(json.dumps({"config": config}))


WAYS = [
    on_the_line,
    on_the_line_of_a_resumed_run,
    set_in_a_file,
    read_in_a_file,
    updated_in_a_file,
    returned_by_a_file,
    recorded,
]
WRONG = {
    **{
        f"{group}.{first}x": (f"config.{group}.{first}", dataclasses.asdict(values))
        for group, values in GROUPS.items()
        for first in [dataclasses.fields(values)[0].name]
    },
    "trian": ("config.train", GROUPS),
    "epochs": ("config.train.epochs", GROUPS),  # in another group
    "model.unheard_of": (None, dataclasses.asdict(GROUPS["model"])),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_name_is_answered_with_those_there_are(way, path, capsys):
    meant, known = WRONG[path]
    hint = f"did you mean {meant}? " if meant else ""
    words = f"config.{path} is not a setting; {hint}there are: {', '.join(known)}"
    assert "Error" not in refused(way(path), words, capsys)


@pytest.mark.parametrize("text", ["{values}", "ml_collections.ConfigDict({values})"])
def test_flags_change_what_a_file_leaves_out(text, tmp_path):
    values = text.format(values={"train": {"epochs": 7}})
    pathlib.Path("file.py").write_text(
        f"import ml_collections\ndef get_config():\n    return {values}\n"
    )
    config, _, _ = parse(["--config=file.py", "--config.train.seed=3", "--config.model.width=9"])
    wanted = {"train": {"epochs": 7, "seed": 3}, "model": {"width": 9}}
    assert config == from_config_dict(wanted)


# --- Configs by name

FORMS = [["--config={}"], ["--config", "{}"], ["-config={}"], ["-config", "{}"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_known_by_its_name(name):
    by_name = parse(["--config", name])[0]
    sys.modules.pop("config_config")
    assert by_name == parse(["--config", str(CONFIGS / f"{name}.py")])[0]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
@pytest.mark.parametrize("what", [NAMES[0], str(CONFIGS / f"{NAMES[0]}.py")])
def test_every_form_of_the_flag_takes_names_and_paths(form, what):
    flags = [word.format(what) for word in form]
    config, workdir, resume = parse([*flags, "--config.train.epochs=3", "--workdir", "x"])
    assert config.data.name == "ACSF1"
    assert config.train.epochs == 3
    assert (workdir, resume) == (pathlib.Path("x"), False)


@pytest.mark.parametrize("folder", ["flax_sepconv/configs", "configs"])
def test_configs_lie_in_the_package_or_beside_it(folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir(parents=True)
    text = "def get_config():\n    return {'train': {'epochs': 7}}\n"
    (tmp_path / folder / "here.py").write_text(text)
    (tmp_path / folder / "__init__.py").write_text("")
    monkeypatch.setattr(configs, "_PACKAGE", tmp_path / "flax_sepconv")
    assert configs.shipped() == {"here": tmp_path / folder / "here.py"}
    assert parse(["--config=here"])[0].train.epochs == 7


def test_a_file_goes_before_a_name_and_a_folder_does_not():
    pathlib.Path(NAMES[0]).mkdir()
    assert parse([f"--config={NAMES[0]}"])[0].data.name == "ACSF1"
    pathlib.Path(NAMES[1]).write_text("def get_config():\n    return {'train': {'epochs': 7}}\n")
    sys.modules.pop("config_config")
    assert parse([f"--config={NAMES[1]}"])[0].train.epochs == 7


@pytest.mark.parametrize(
    ("word", "hint"), [("gunpoint", "did you mean gun_point? "), ("", ""), ("zzz:more", "")]
)
def test_an_unknown_config_is_answered_with_those_there_are(word, hint, capsys):
    name = word.partition(":")[0]
    words = f"got {name!r}; {hint}there are: {', '.join(NAMES)}"
    refused([f"--config={word}"], words, capsys)
    refused([], f"--config FILE is required, or one of these names: {', '.join(NAMES)}", capsys)


def test_data_of_ones_own_need_no_config():
    config, workdir, resume = parse(["--config.data.path=sets/mine.npz", "--config.train.seed=3"])
    assert config == from_config_dict({"data": {"path": "sets/mine.npz"}, "train": {"seed": 3}})
    assert not resume
    assert str(workdir).startswith("runs/JapaneseVowels-")  # there is no such file


# --- Runs to resume


def test_a_run_knows_its_config():
    wanted = {"data": {"name": "GunPoint"}, "train": {"epochs": 7}}
    record(wanted)
    flags = ["--workdir=run", "--resume"]
    assert parse(flags) == (from_config_dict(wanted), pathlib.Path("run"), True)
    changed = {**wanted, "train": {"epochs": 8}}
    # Flags change it, as they change a file's; whether it may be changed is asked later.
    assert parse([*flags, "--config.train.epochs=8"])[0] == from_config_dict(changed)


RECORDS = {
    "no folder": (None, "run holds no run: there is no such folder"),
    "no run": ("", "run holds no run: it has no config.json"),
    "cut off": ('{"config": {', "run/config.json is not the record of a run"),
    "no object": ("[]", "run/config.json is not the record of a run"),
    "bad value": ('{"config": {"train": {"epochs": 0}}}', "config.train.epochs must be > 0, got 0"),
}


@pytest.mark.parametrize("case", RECORDS)
@pytest.mark.parametrize("more", [[], ["--config.train.epochs=3"], [f"--config={NAMES[0]}"]])
def test_a_folder_that_holds_no_run_is_not_resumed(case, more, capsys):
    text, words = RECORDS[case]
    if text is not None:
        pathlib.Path("run").mkdir()
    if text:
        pathlib.Path("run", "config.json").write_text(text)
    refused(["--workdir=run", "--resume", *more], words, capsys)
    assert sorted(map(str, pathlib.Path().rglob("*.json"))) == ["run/config.json"] * bool(text)
