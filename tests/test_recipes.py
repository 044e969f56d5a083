"""Recipes and presets are valid parameters, and a preset is a complete params file."""

from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT, refused
from ruamel.yaml import YAML

from hast.config.params import PRESETS, SECTIONS, check_params, own_network, preset
from hast.config.recipes import merged, method_settings, recipe_of, size_settings, with_recipe
from hast.config.section import Section, load_section, parse_section, read_yaml, write_yaml

RECIPES, SIZES = ("hast", "best"), ("quick", "paper")


@pytest.mark.parametrize(("name", "recipe", "size"), [*product(PRESETS, RECIPES, SIZES)])
def test_every_preset_is_a_complete_params_file(name, recipe, size, tmp_path):
    path = tmp_path / "params.yaml"
    values = preset(name, recipe=recipe, size=size)
    write_yaml(path, values, comment="test")
    check_params(path)
    for key in SECTIONS.keys() - {"teacher"}:  # so that `dvc exp run --set-param` finds them
        assert values[key].keys() == SECTIONS[key].model_fields.keys()


def load_all(path: Path) -> dict[str, Section]:
    return {key: load_section(path, key, s) for key, s in SECTIONS.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_file_with_a_recipe_is_the_digits_preset(recipe, tmp_path):
    shipped, written = tmp_path / "shipped.yaml", tmp_path / "written.yaml"
    shipped.write_text(with_recipe((ROOT / "params.yaml").read_text(), recipe)[0])
    write_yaml(written, preset("digits", recipe=recipe), comment="test")
    assert load_all(shipped) == load_all(written)
    assert read_yaml(shipped)["bit_widths"] == read_yaml(written)["bit_widths"]
    assert recipe_of(read_yaml(shipped)) == recipe_of(read_yaml(written)) == recipe


def test_the_shipped_file_follows_the_paper_and_marks_what_recipes_own():
    text = (ROOT / "params.yaml").read_text()
    assert with_recipe(text, "hast") == (text, [])
    marked = sum(" # R" in line for line in text.splitlines())
    assert marked == sum(map(len, method_settings("hast").values()))
    for key, section in SECTIONS.items():
        assert read_yaml(ROOT / "params.yaml")[key].keys() == section.model_fields.keys()


def test_a_recipe_changes_its_own_values_and_nothing_else():
    text = "# mine\nquantize:  # why\n  learning_rate: 3e-4 # tried\n  steps: 7\nother: [1,  2]\n"
    changed, differences = with_recipe(text, "best")
    assert "quantize.learning_rate" in [difference.name for difference in differences]
    assert "  learning_rate: 0.001 # tried\n  steps: 7\n" in changed
    assert changed.startswith("# mine\nquantize:  # why\n")
    assert recipe_of(YAML(typ="safe").load(changed)) == "best"
    assert with_recipe(changed, "best") == (changed, [])


def test_a_section_that_is_no_mapping_is_one_line():
    with refused("section 'quantize' must be a mapping, got 3"):
        with_recipe("quantize: 3", "best")


def test_a_recipe_with_own_values_is_named_with_them():
    values = preset("digits", recipe="best")
    values["quantize"]["learning_rate"] = 0.5
    values["layers"]["quantizer"] = "minmax"
    expected = "best, 2 values changed: layers.quantizer, quantize.learning_rate"
    assert recipe_of(values) == expected


def test_widths_of_single_layers_are_a_number_or_the_word():
    for section in ({"first_last_bits": "all"}, {"average_weight_bits": 9}):
        (name,) = section
        with refused(f"layers.{name}: .* layers.{name}: Input should be"):
            parse_section(section, SECTIONS["layers"], name="layers")


def test_the_paper_at_its_size_is_the_default_of_every_section():
    paper = merged([size_settings("paper", "hast"), method_settings("hast")])
    for key, values in paper.items():
        assert SECTIONS[key].model_validate(values) == SECTIONS[key]()


def test_an_unknown_size_is_refused_with_those_that_are_known():
    with refused("size must be one of quick, paper, got 'huge'"):
        preset("digits", recipe="hast", size="huge")


def test_a_quick_run_of_a_heavier_network_makes_less():
    def quick(macs: int, side: int = 32) -> dict:
        return own_network(
            teacher={"source": "python:a:b"}, input_shape=(3, side, side), macs=macs,
            data_root=None, bit_widths=["w4a4"],
        )  # fmt: skip

    light, heavy, large = quick(4 * 10**7), quick(4 * 10**8), quick(2 * 10**9, side=224)
    assert light["synthesize"]["samples"] == 1280
    assert heavy["synthesize"]["samples"] == 192
    assert heavy["synthesize"]["batch_size"] == 192
    assert heavy["quantize"]["steps"] == 200
    assert heavy["quantize"]["milestones"] == [100, 150]
    assert large["synthesize"]["gamma"] == 0.5
    assert (light["bank"]["crop_fraction"], large["bank"]["crop_fraction"]) == (1.0, 0.875)
