"""Recipes and presets are valid parameters, and a preset is a complete params file."""

from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT

from hast.config import Section, read_yaml, write_yaml
from hast.errors import InputError
from hast.loops.finetune import FinetuneConfig
from hast.presets import PRESETS, own_network, preset
from hast.recipes import load_section_by_recipe, recipe_settings
from stages.params import SECTIONS, check_params

RECIPES, SIZES = ("hast", "best"), ("quick", "paper")


@pytest.mark.parametrize(("name", "recipe", "size"), [*product(PRESETS, RECIPES, SIZES)])
def test_every_preset_is_a_complete_params_file(name, recipe, size, tmp_path):
    path = tmp_path / "params.yaml"
    write_yaml(path, preset(name, recipe=recipe, size=size), comment="test")
    check_params(path)


def load_all(path: Path) -> dict[str, Section]:
    return {key: load_section_by_recipe(path, key, s) for key, s in SECTIONS.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_file_with_one_word_changed_is_the_digits_preset(recipe, tmp_path):
    shipped, written = tmp_path / "shipped.yaml", tmp_path / "written.yaml"
    text = (ROOT / "params.yaml").read_text()
    shipped.write_text(text.replace("recipe: hast", f"recipe: {recipe}", 1))
    write_yaml(written, preset("digits", recipe=recipe), comment="test")
    assert load_all(shipped) == load_all(written)
    assert read_yaml(shipped)["bit_widths"] == read_yaml(written)["bit_widths"]
    assert read_yaml(shipped)["recipe"] == read_yaml(written)["recipe"] == recipe


def test_every_word_chooses_its_own_values(tmp_path):
    path = tmp_path / "params.yaml"
    for recipe in RECIPES:
        path.write_text(f"recipe: {recipe}\nquantize: {{learning_rate: null}}")
        config = load_section_by_recipe(path, "quantize", FinetuneConfig)
        settings = recipe_settings(recipe, "quick")["quantize"]
        assert config.learning_rate == settings["learning_rate"]
        assert config.optimizer == settings["optimizer"]


def test_what_a_user_sets_wins_over_the_recipe(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("recipe: best\nquantize: {learning_rate: 0.5, scale_rate_factor: null}")
    config = load_section_by_recipe(path, "quantize", FinetuneConfig)
    assert (config.learning_rate, config.scale_rate_factor) == (0.5, 10.0)
    assert config.optimizer == "adamw"


@pytest.mark.parametrize("word", ["worst", "[best]", "null"])
def test_an_unknown_recipe_is_one_line(word, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"recipe: {word}\nquantize: {{}}")
    with pytest.raises(InputError, match="recipe must be one of hast, best, got"):
        load_section_by_recipe(path, "quantize", FinetuneConfig)


def test_the_paper_at_its_size_is_the_default_of_every_section():
    for key, values in recipe_settings("hast", "paper").items():
        assert SECTIONS[key].model_validate(values) == SECTIONS[key]()


def test_the_best_recipe_learns_the_scales_at_any_size():
    for size in SIZES:
        settings = recipe_settings("best", size)
        assert settings["layers"]["quantizer"] == "learned"
        assert settings["quantize"]["steps"] == recipe_settings("hast", size)["quantize"]["steps"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar10", "hast", "quick"), "preset must be one of digits, .* got 'cifar10'"),
        (("digits", "worst", "quick"), "recipe must be one of hast, best, got 'worst'"),
        (("digits", "hast", "huge"), "size must be one of quick, paper, got 'huge'"),
    ],
)
def test_an_unknown_word_is_refused_with_those_that_are_known(arguments, message):
    name, recipe, size = arguments
    with pytest.raises(InputError, match=message):
        preset(name, recipe=recipe, size=size)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_preset_writes_every_parameter(recipe):
    """So that `dvc exp run --set-param` and the report find it."""
    written = preset("cifar10_resnet20", recipe=recipe)
    for key, section in SECTIONS.items():
        if key != "teacher":
            assert written[key].keys() == section.model_fields.keys()


def test_a_quick_run_of_a_heavier_network_makes_less():
    def quick(macs: int, side: int = 32) -> dict:
        return own_network(
            {"source": "python:a:b"}, input_shape=(3, side, side), macs=macs,
            data_root=None, bit_widths=["w4a4"],
        )  # fmt: skip

    light, heavy, large = quick(4 * 10**7), quick(4 * 10**8), quick(2 * 10**9, side=224)
    assert light["synthesize"]["samples"] == 1280
    assert heavy["synthesize"]["samples"] == 192
    assert heavy["synthesize"]["batch_size"] == 192
    assert heavy["quantize"]["steps"] == 200
    assert heavy["quantize"]["milestones"] == [100, 150]
    assert large["synthesize"]["gamma"] == 0.5


def test_parameters_that_dvc_names_one_by_one_are_written():
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    named = {p for stage in stages for p in stage.get("params", [])}
    written = preset("digits")
    for name in named:
        section, _, key = name.partition(".")
        assert section in written
        assert not key or key in written[section], name
