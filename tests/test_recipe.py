"""A recipe takes what it says it takes, from Python, YAML or text, and refuses the rest by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
import yaml

from keylite.recipe import Recipe, descriptions, make_recipe, read_recipe, to_dict, write_recipe
from keylite.runtime.engines import FRAMEWORKS

UNKNOWN = {
    "learning_rte": "recipe: unknown choice 'learning_rte'; docs/recipe.md lists them",
    "epoch": "recipe: unknown choice 'epoch'; did you mean epochs?",
    "weight-decay": "recipe: unknown choice 'weight-decay'; did you mean weight_decay?",
    "LR": "recipe: unknown choice 'LR'",
    "zzz": "recipe: unknown choice 'zzz'; docs/recipe.md lists them",
}


@pytest.mark.parametrize(("name", "message"), UNKNOWN.items())
def test_an_unknown_choice_names_the_nearest(name: str, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make_recipe({name: 1})


REFUSED = {
    "text for a number": ({"lr": "fast"}, "lr: expected", "'fast'"),
    "no number": ({"lr": None}, "lr: expected", "None"),
    "a fraction of epochs": ({"epochs": 1.5}, "epochs: expected", "1.5"),
    "no epochs": ({"epochs": 0}, "epochs: expected", "0"),
    "lr of 0": ({"lr": 0}, "lr: expected", "0"),
    "negative": ({"weight_decay": -1}, "weight_decay: expected", "-1"),
    "probability": ({"flip_p": 1.5}, "flip_p: expected", "1.5"),
    "momentum of 1": ({"momentum": 1.0}, "momentum: expected", "1.0"),
    "loss": ({"loss": "l1"}, "loss: expected one of mse, mae, huber, smooth_l1, wing, soft_wing", "'l1'"),
    "head": ({"head": "spatial"}, "head: expected one of regression, heatmap", "'spatial'"),
    "framework": ({"framework": "jax"}, "framework: expected one of pytorch, tensorflow", "'jax'"),
    "backbone": (
        {"backbone": "lite5"},
        "backbone: expected one of lite0, lite1, lite2, lite3, lite4 or timm:NAME",
        "'lite5'",
    ),
    "size too small": ({"size": 31}, "size: expected 32 to 4096 px", "31"),
    "one side too large": ({"size": [64, 5000]}, "size: expected 32 to 4096 px", "(64, 5000)"),
    "three sides": ({"size": [64, 64, 3]}, "size: expected", "[64, 64, 3]"),
    "size of words": ({"size": "small"}, "size: expected", "small"),
    "half a size": ({"size": "128x"}, "size: expected", "128"),
    "mirror of a word": ({"mirror": "yes"}, "mirror: expected auto, off, or a list of pairs", "'yes'"),
    "mirror on": ({"mirror": True}, "mirror: expected", "True"),
    "mirror of 0": ({"mirror": 0}, "mirror: expected", "0"),
    "precision": ({"precision": 64}, "precision: expected one of 32, bf16, 16", "64"),
    "mirror of three": ({"mirror": [[0, 1, 2]]}, "mirror: expected", "[[0, 1, 2]]"),
    "a list": ({"lr": [1e-3]}, "lr: expected", "[0.001]"),
    "negative seed": ({"seed": -1}, "seed: expected", "-1"),
}


@pytest.mark.parametrize(("choices", "expected", "got"), REFUSED.values(), ids=REFUSED.keys())
def test_an_impossible_value_is_named(choices: dict, expected: str, got: str):
    with pytest.raises(ValueError, match=re.escape(f"mine.yaml: {expected}")) as caught:
        make_recipe(choices, "mine.yaml")
    assert got in str(caught.value).partition("got ")[2]
    assert "\n" not in str(caught.value)


TEXTS = {
    "exponent": ("lr", "1e-3", 1e-3),
    "whole number": ("epochs", "30", 30),
    "float that is whole": ("rotate", "30", 30.0),
    "side": ("size", "128", 128),
    "width by height": ("size", "128x96", (128, 96)),
    "capital x": ("size", "128X96", (128, 96)),
    "pairs by index": ("mirror", "0:16,1:15", ((0, 16), (1, 15))),
    "pairs by name": ("mirror", "left_eye:right_eye, 3:4", (("left_eye", "right_eye"), (3, 4))),
    "mirror off": ("mirror", "off", "off"),
    "name": ("backbone", "timm:resnet18", "timm:resnet18"),
    "a file": ("pretrained", "weights-1.safetensors", "weights-1.safetensors"),
    "precision that looks like a number": ("precision", "32", "32"),
}


@pytest.mark.parametrize(("name", "text", "value"), TEXTS.values(), ids=TEXTS.keys())
def test_text_as_on_the_command_line(name: str, text: str, value: object):
    found = getattr(make_recipe({name: text}), name)
    assert found == value
    assert type(found) is type(value)


def test_the_input_size_is_width_then_height():
    assert make_recipe({"size": 96}).input_size == (96, 96)
    assert make_recipe({"size": [128, 96]}).input_size == (128, 96)


def test_later_sources_win():
    base = make_recipe({"lr": 0.01, "epochs": 7})
    merged = make_recipe({"lr": "0.02"}, base=base)
    assert (merged.lr, merged.epochs) == (0.02, 7)
    assert make_recipe({}, base=base) == base
    assert make_recipe({}) == Recipe()


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"size": [128, 96], "lr": 1e-5},
        {"mirror": [["a", "b"], [3, 4]], "pretrained": "none"},
        {"size": 96, "precision": "16"},
        {"framework": "tensorflow"},
    ],
    ids=["defaults", "a pair", "nested", "text that YAML could take for a number", "the other framework"],
)
def test_yaml_gives_back_what_was_written(choices: dict, tmp_path: Path):
    recipe, path = make_recipe(choices), tmp_path / "new" / "recipe.yaml"
    write_recipe(recipe, path)
    assert make_recipe(read_recipe(path), str(path)) == recipe
    assert list(yaml.safe_load(path.read_text())) == list(Recipe.__struct_fields__), "every choice, in order"


@pytest.mark.parametrize("quote", ["", "'"], ids=["bare", "quoted"])
def test_yaml_means_what_a_reader_takes_it_for(quote: str, tmp_path: Path):
    values = {"lr": "1e-3", "size": "128x96", "mirror": "off", "cache": "off", "precision": "16"}
    path = tmp_path / "r.yaml"
    path.write_text("".join(f"{name}: {quote}{value}{quote}\n" for name, value in values.items()))
    recipe = make_recipe(read_recipe(path), str(path))  # YAML 1.1: a bare 1e-3 is text, a bare off is false
    assert (recipe.lr, recipe.size, recipe.mirror, recipe.cache, recipe.precision) == (
        1e-3,
        (128, 96),
        "off",
        "off",
        "16",
    )


BAD_FILES = {
    "not YAML": (b"lr: [1,\nb: 2", "not a YAML file at line 2"),
    "not text": (b"\xff\xfe\x00", "not a YAML file"),
    "a list": (b"- lr\n- 1", "expected lines of `name: value`, got list"),
    "empty": (b"", "expected lines of `name: value`, got NoneType"),
}


@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused(data: bytes, message: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_recipe(path)


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such recipe file"):
        read_recipe(tmp_path / "r.yaml")


def test_every_framework_has_an_extra_that_installs_it():
    assert get_args(get_type_hints(Recipe)["framework"]) == tuple(FRAMEWORKS)


def test_every_choice_is_described_and_its_default_is_allowed():
    found = descriptions()
    assert list(found) == list(Recipe.__struct_fields__)
    for name, (text, default) in found.items():
        assert len(text) > 1, name
        assert getattr(make_recipe({name: default}), name) == default, name
    assert make_recipe(to_dict(Recipe())) == Recipe()


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0
    assert msgspec.structs.replace(Recipe(), lr=0.5).lr == 0.5
