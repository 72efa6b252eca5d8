"""The table of commands: their help, what is said of unknown ones, what each one imports."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib

import pytest

from flax_sepconv import __main__ as program
from flax_sepconv.training import __main__ as trainer
from flax_sepconv.training.commands import COMMANDS

ROOT = pathlib.Path(__file__).parents[2]
NAMES = (
    "train evaluate predict export stream validate-data find-learning-rate"  # as documented
).split()


def whole(words):
    """Do as the process of the program does, which may end by itself; return the exit status."""
    try:
        return program.main(words)
    except SystemExit as end:
        return end.code


def test_the_commands_are_those_that_are_documented():
    assert list(COMMANDS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("main", [trainer.main, whole])
def test_help_of_a_command_names_its_options(name, main, capsys):
    command = COMMANDS[name]
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: flax-sepconv {name} ")
    assert command.about[1:] in out
    for option in command.options:
        assert f"\n  --{option.name} {option.value}".rstrip() in out
    assert ("--config.train.epochs INT" in out) == (command.settings != "no")
    assert "Exit status: 0 done" in out
    assert max(map(len, out.splitlines())) <= 100


def test_help_of_all_names_every_command(capsys):
    for words in (["--help"], ["-h"], ["--config=x", "--help"]):
        assert trainer.main(words) == 0
        out = capsys.readouterr().out
        assert all(f"\n  {name:<20}  {COMMANDS[name].about}\n" in out for name in NAMES)
    with pytest.raises(SystemExit, match="0"):
        program.main(["--help"])
    out = capsys.readouterr().out
    for name in (*program._OWN, *NAMES):
        assert re.search(rf"^    {name}\s", out, re.MULTILINE)
    assert COMMANDS["predict"].about in out


@pytest.mark.parametrize("main", [trainer.main, whole])
@pytest.mark.parametrize(("word", "meant"), [("trian", "train"), ("predcit", "predict"), ("x", "")])
def test_an_unknown_command_is_answered_with_those_there_are(main, word, meant, capsys):
    assert main([word, "--workdir=x"]) == 2
    out, err = capsys.readouterr()
    hint = f"did you mean {meant}? " if meant else ""
    assert out == ""
    assert f"there is no command {word!r}; {hint}there are: " in err
    assert err.startswith("error: ")
    assert err.endswith(", ".join(NAMES) + "\n")


def python(program, *words, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


NOWHERE = """
    import sys

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ABSENT:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    from flax_sepconv.__main__ import main

    # What neither JAX nor Flax needs.
    ABSENT = "aeon grain matplotlib ml_collections sklearn tensorboardX tqdm".split()
    assert not set(ABSENT) & {name.partition(".")[0] for name in sys.modules}
    sys.meta_path.insert(0, Nowhere())
"""


def test_without_the_extra_each_command_says_what_to_install():
    ran = python(
        NOWHERE
        + """
    for name in sys.argv[1:]:
        assert main([name, "--workdir=x"]) == 2
    """,
        *NAMES,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == len(NAMES)
    for name, line in zip(NAMES, lines, strict=True):
        words = f"error: {name} needs what pip install 'flax-sepconv[train]' brings: No module"
        assert line.startswith(words)


def test_the_other_commands_do_without_what_the_trainer_needs(tmp_path):
    ran = python(
        NOWHERE
        + """
    import numpy as np
    from flax_sepconv import interop

    weights = {"depthwise_kernel": np.ones((3, 4, 1)), "pointwise_kernel": np.ones((1, 4, 5))}
    interop.save("weights.safetensors", [interop.Layer("conv", weights)])
    assert main(["inspect", "weights.safetensors"]) == 0
    for words in (["--help"], ["convert", "--help"]):
        try:
            main(words)
        except SystemExit as done:
            assert done.code == 0
    """,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert "conv" in ran.stdout


def test_the_script_is_the_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"flax-sepconv": "flax_sepconv.__main__:main"}


def test_what_the_extra_brings_is_known():
    """Each package of the extra by the name of its module; aeon and ml_collections bring more."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {"orbax-checkpoint": "orbax", "scikit-learn": "sklearn", "etils": "etils"}
    brought = {
        need.split(">=")[0].split("[")[0] for need in project["optional-dependencies"]["train"]
    }
    assert {named.get(each, each) for each in brought} <= set(trainer.PACKAGES)
