"""The recipes behind the config files, and what their networks are."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from flax_sepconv.training import loop
from flax_sepconv.training.config import from_config_dict
from flax_sepconv.training.model import SeparableResNet
from flax_sepconv.training.recipes import multivariate, univariate

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
UNIVARIATE = ["acsf1", "arrow_head", "gun_point", "italy_power_demand", "osu_leaf"]
MULTIVARIATE = ["basic_motions", "japanese_vowels"]


def load(stem):
    """Return the function that a config file defines."""
    spec = importlib.util.spec_from_file_location(stem, CONFIGS / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize(
    ("recipe", "general", "stems"),
    [(univariate, "univariate", UNIVARIATE), (multivariate, "multivariate", MULTIVARIATE)],
)
def test_the_sets_of_a_kind_differ_in_their_names_alone(recipe, general, stems):
    names = set()
    for stem in stems:
        config = load(stem)()
        names.add(config.data.name)
        assert config.data.name.lower() == stem.replace("_", "")
        assert config.to_dict() == recipe(config.data.name).to_dict()
    assert len(names) == len(stems)
    assert load(general)("Other").to_dict() == recipe("Other").to_dict()
    assert load(general)().data.name in names


def parameters(config, channels, classes):
    model = SeparableResNet(classes, from_config_dict(config).model)
    x, lengths = jnp.zeros((1, 50, channels)), jnp.array([50])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, lengths)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_a_network_for_one_channel_is_as_small_as_is_said():
    assert parameters(univariate("GunPoint"), 1, 2) == 11_886


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_run_makes_the_steps_that_it_has_to(tmp_path):
    config = univariate("ItalyPowerDemand")
    config.model.update(width=4, blocks=1, kernel_size=3, stem_kernel_size=3, stem_branches=1)
    config.train.update(epochs=1, min_steps=7, batch_size=16, report_every=2)  # 4 an epoch
    loop.run(from_config_dict(config), tmp_path / "run")
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [8]
    assert json.loads(rows[0])["learning_rate"] > 0  # of the last step: the cosine knows them all


def test_the_causal_run_is_the_recipe_but_for_its_padding():
    config = load("japanese_vowels_causal")()
    assert config.model.padding == "causal"
    config.model.padding = "same"
    assert config.to_dict() == multivariate("JapaneseVowels").to_dict()
