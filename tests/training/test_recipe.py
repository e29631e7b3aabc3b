"""A recipe takes what it says it takes, from Python, YAML or text, and refuses the rest by name."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

yaml = pytest.importorskip("yaml", reason="needs keylite[cli]")

from keylite.runtime.heads import HEADS
from keylite.runtime.packages import FRAMEWORKS
from keylite.runtime.skeleton import Skeleton
from keylite.training.presets import PRESETS, preset
from keylite.training.recipe import (
    AUTO,
    GEOMETRY,
    PIXELS,
    Recipe,
    Resolved,
    augments_as_usual,
    descriptions,
    make_recipe,
    to_dict,
)
from keylite.training.recipe_file import read_recipe, write_recipe
from keylite.training.train import augmentation_of

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
    "a fraction of epochs": ({"epochs": 1.5}, "epochs: expected auto or int, got", "1.5"),
    "no epochs": ({"epochs": 0}, "epochs: expected auto or int from 1 to 1000000, got", "0"),
    "too many stages": ({"stages": "9"}, "stages: expected auto or int from 2 to 7, got", "'9'"),
    "too few stages": ({"stages": 1}, "stages: expected auto or int from 2 to 7, got", "1"),
    "too few stages for a pyramid": ({"stages": 2}, "stages: expected 3 to 7 for this head, got", "2"),
    "no number of workers": ({"workers": -2}, "workers: expected int from -1 to 1024, got", "-2"),
    "no teacher": (
        {"teacher": None},
        "teacher: expected a .safetensors model file, or none, got None; leave it",
        "'none'",
    ),
    "no weights": ({"pretrained": None}, "pretrained: expected imagenet, none, or a .safetensors file, got", "None"),
    "no backbone": ({"backbone": None}, "backbone: expected a text, got None; leave it out, and it is", "'lite0'"),
    "a word for epochs": ({"epochs": "many"}, "epochs: expected auto or int, got", "'many'"),
    "a word for the warm-up": ({"warmup_epochs": "off"}, "warmup_epochs: expected auto or float, got", "'off'"),
    "a negative warm-up": ({"warmup_epochs": -1}, "warmup_epochs: expected auto or float >= 0", "-1"),
    "too strong": ({"strength": "5"}, "strength: expected auto or float", "'5'"),
    "no effort": ({"effort": 0}, "effort: expected float > 0", "0"),
    "auto where it is none": ({"rotate": "auto"}, "rotate: expected float", "'auto'"),
    "lr of 0": ({"lr": 0}, "lr: expected", "0"),
    "negative": ({"weight_decay": -1}, "weight_decay: expected", "-1"),
    "probability": ({"flip_p": 1.5}, "flip_p: expected", "1.5"),
    "momentum of 1": ({"momentum": 1.0}, "momentum: expected", "1.0"),
    "loss": ({"loss": "l1"}, "loss: expected one of mse, mae, huber, smooth_l1, wing, soft_wing", "'l1'"),
    "head": ({"head": "spatial"}, "head: expected one of regression, rle, simcc, heatmap", "'spatial'"),
    "framework": ({"framework": "jax"}, "framework: expected one of pytorch, tensorflow", "'jax'"),
    "backbone": (
        {"backbone": "lite5"},
        "backbone: expected one of lite0, lite1, lite2, lite3, lite4, tiny or timm:NAME",
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
    "auto": ("epochs", "auto", "auto"),
    "a number in place of auto": ("warmup_epochs", "2", 2.0),
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


BOMB = b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c, c, c - 1, c - 1) for c in range(ord("b"), ord("z")))
BAD_FILES = {
    "not YAML": (b"lr: [1,\nb: 2", "not a YAML file at line 2"),
    "tabs": (b"lr: 1\n\tbatch: 2", "not a YAML file at line 2"),
    "several documents": (b"lr: 1\n---\nlr: 2", "not a YAML file at line 2"),
    "UTF-16": ("lr: 1".encode("utf-16"), "expected text in UTF-8, got UTF-16; save it as UTF-8"),
    "Latin-1": (b"lr: 1\n# \xe4", "expected text in UTF-8, got another encoding at line 2"),
    "bytes": (b"lr: \0", "expected text in UTF-8, got a binary file"),
    "a control character": (b"lr: \x07", "not a YAML file"),
    "too large": (b"# " + b"x" * 100_000, "expected at most 100,000 bytes, got more"),
    "a list": (b"- lr\n- 1", "expected lines of `name: value`, got a list"),
    "a date": (b"2001-01-01", "expected lines of `name: value`, got a single value"),
    "a number": (b"7", "expected lines of `name: value`, got a single value"),
    "empty": (b"# nothing\n", "expected lines of `name: value`, got nothing"),
    "twice": (b"lr: 1\nbatch: 2\nlr: 3\n", "lr: is there twice, in lines 1 and 3"),
    "a bomb": (BOMB, "b: line 2: an alias (*a); write the value itself there"),
    "a merge": (b"a: &a {lr: 1}\n<<: *a", "<<: line 2: an alias (*a)"),
    "an alias of itself": (b"lr: &a [*a]", "lr: line 1: an alias (*a)"),
    "nesting": (b"lr: " + b"[" * 9999, "lr: line 1: brackets in brackets"),
    "nesting by dashes": (b"lr:\n- - - - - 1", "lr: line 2: brackets in brackets"),
    "brackets as a name": (b"? [a, b]\n: 1", "line 1: expected `name: value`, got brackets as a name"),
    "code": (
        b"lr: !!python/object/apply:os.getcwd []",
        "lr: line 1: a tag (tag:yaml.org,2002:python/object/apply:os.get",
    ),
    "a tag": (b"lr: 1\nhidden: !!int ''", "hidden: line 2: a tag (tag:yaml.org,2002:int); write the value without it"),
    "a tag of its own": (b"hidden: !mine 1", "hidden: line 1: a tag (!mine)"),
    "no digits": (b"hidden: 0x_", "hidden: expected a number or a word, got '0x_'"),
    "many digits": (b"hidden: " + b"9" * 5000, "hidden: expected a number or a word, got '999"),
    "many digits in a list": (b"size: [" + b"9" * 5000 + b"]", "size: expected a number or a word, got a list"),
}


@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused(data: bytes, message: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value)) < len(str(path)) + 400


BAD_VALUES = {  # a line of a recipe, and what is said of it
    "a date": ("epochs: 2001-99-99", "epochs: expected auto or int, got '2001-99-99'"),
    "a merge": ("<<: {lr: 1}", "unknown choice '<<'"),
    "a number as a name": ("7: 1", "unknown choice '7'"),
    "a long name": (f"{'x' * 900}: 1", f"unknown choice '{'x' * 146}...{'x' * 49}'"),
    "a long value": (f"lr: {'x' * 9000}", f"lr: expected auto or float, got '{'x' * 146}...{'x' * 49}'"),
    "a mapping": ("lr: {a: 1}", "lr: expected auto or float, got {'a': 1}"),
    "nothing": ("lr:", "lr: expected auto or float, got None; leave it out, and it is 'auto'"),
    "too much": ("hidden: 1000000000", "hidden: expected int from 1 to 65536, got 1000000000"),
    "not in 64 bits": ("seed: 99999999999999999999999", "seed: expected "),
    "a digit that is none": ("mirror: '²:³'", ""),
}


@pytest.mark.parametrize(("line", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_in_a_file_is_refused_with_its_field(line: str, message: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(line)
    if not message:
        assert make_recipe(read_recipe(path), str(path)).mirror == (("²", "³"),)
        return
    with pytest.raises(ValueError) as caught:
        make_recipe(read_recipe(path), str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbflr: 1e-3\nmirror:\n- [a, b]\n- [0, 1]\n")
    assert read_recipe(tmp_path / "r.yaml") == {"lr": "1e-3", "mirror": [["a", "b"], [0, 1]]}


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such recipe file"):
        read_recipe(tmp_path / "r.yaml")


def test_every_head_can_be_chosen():
    assert set(get_args(get_type_hints(Recipe)["head"])) == set(HEADS)


def test_every_framework_has_an_extra_that_installs_it():
    assert get_args(get_type_hints(Recipe)["framework"]) == tuple(FRAMEWORKS)


def test_every_choice_is_described_and_its_default_is_allowed():
    found = descriptions()
    assert list(found) == list(Recipe.__struct_fields__)
    for name, (text, default) in found.items():
        assert len(text) > 1, name
        assert getattr(make_recipe({name: default}), name) == default, name
    assert make_recipe(to_dict(Recipe())) == Recipe()
    recipe = Recipe(size=(160, 128), mirror=[("a", "b"), (2, 3)], lr=1.0)
    plain = to_dict(recipe)
    assert (plain["size"], plain["mirror"], plain["lr"]) == ([160, 128], [["a", "b"], [2, 3]], 1.0)
    assert make_recipe(plain) == recipe


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0
    assert msgspec.structs.replace(Recipe(), lr=0.5).lr == 0.5


# ---- presets

PRESET_CHOICES = {name: {**choices} for name, choices in PRESETS.items()}


@pytest.mark.parametrize(("name", "choices"), PRESET_CHOICES.items())
def test_a_preset_is_the_defaults_but_for_its_choices(name: str, choices: dict):
    recipe, usual = preset(name), to_dict(Recipe())
    assert {key for key, value in to_dict(recipe).items() if value != usual[key]} == choices.keys()
    assert make_recipe({"lr": 0.5}, base=recipe) == make_recipe({**choices, "lr": 0.5})


def test_choices_of_ones_own_replace_those_of_a_preset():
    assert preset("tiny", size=(64, 80), backbone="lite1") == Recipe(stages=4, size=(64, 80), backbone="lite1")
    for choices, words in (({"siz": 64}, "siz'; did you mean size"), ({"size": 4}, "size: expected 32 to 4096 px")):
        with pytest.raises(ValueError, match=f"^recipe: .*{words}"):
            preset("tiny", **choices)


def test_balanced_is_the_defaults_and_the_others_lie_around_it():
    assert preset("balanced") == Recipe()
    efforts = [preset(name).effort for name in ("fast", "balanced", "accurate")]
    assert efforts == sorted(set(efforts))


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="^preset: expected one of tiny, small, fast, balanced, accurate, got 'fest'$"):
        preset("fest")


# ---- what is left to auto, and strength


def resolved(**choices: object) -> Resolved:
    return Resolved(
        **{"stages": 5, "epochs": 1, "lr": 1e-3, "warmup_epochs": 0.0, "strength": 1.0, "normalize": "9px"} | choices
    )


@pytest.mark.parametrize("name", AUTO)
def test_nothing_of_a_resolved_recipe_is_auto(name: str):
    assert getattr(Recipe(), name) == "auto"
    with pytest.raises(ValueError, match=f"^recipe: {name}: expected (int|float|str matching .*), got 'auto'$"):
        resolved(**{name: "auto"})


STRENGTHS = {  # strength, choices: what they become
    "as it stands": (1.0, {"rotate": 20.0, "noise_p": 0.2}, {"rotate": 20.0, "noise_p": 0.2}),
    "stronger": (1.25, {"rotate": 20.0, "scale": 0.2, "aspect": 0.04}, {"rotate": 25.0, "scale": 0.25, "aspect": 0.05}),
    "weaker": (0.75, {"shift": 0.08, "jpeg_p": 0.2}, {"shift": 0.06, "jpeg_p": 0.15}),
    "a probability is 1 at most": (2.0, {"grey_p": 0.6, "blur_p": 0.4}, {"grey_p": 1.0, "blur_p": 0.8}),
    "a turn is a whole one at most": (1.25, {"rotate": 180.0}, {"rotate": 180.0}),
    "none": (0.0, {}, dict.fromkeys((*GEOMETRY, *PIXELS), 0.0)),
}


@pytest.mark.parametrize(("strength", "given", "wanted"), STRENGTHS.values(), ids=STRENGTHS)
def test_strength_multiplies_the_augmentation(strength: float, given: dict, wanted: dict):
    made = augmentation_of(resolved(strength=strength, **given), Skeleton(("a", "b"), mirror=(1, 0)))
    assert {name: getattr(made, name) for name in wanted} == pytest.approx(wanted)


def test_strength_leaves_everything_else_as_it_is():
    recipe = resolved(strength=0.5, flip_offset=0.01)
    made = augmentation_of(recipe, Skeleton(("a", "b"), mirror=(1, 0)))
    changed = {
        field.name for field in dataclasses.fields(made) if getattr(made, field.name) != getattr(recipe, field.name)
    }
    assert changed == {*GEOMETRY, *PIXELS}
    chances = {field.name for field in dataclasses.fields(made) if field.name.endswith("_p")}
    assert chances - set(PIXELS) == {"flip_p", *(f"{name}_p" for name in GEOMETRY)}


@pytest.mark.parametrize("text", ["1:30:00", "010", "-1:30", "1:30.5"])
def test_numbers_of_base_60_and_8_stay_as_they_are_written(text: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(f"epochs: {text}\n")
    assert read_recipe(path) == {"epochs": text}


@pytest.mark.parametrize(("size", "good"), [("31", False), ("32", True), ("4096x32", True), ("32x4097", False)])
def test_inputs_are_of_32_to_4096_px(size: str, good: bool):
    with contextlib.nullcontext() if good else pytest.raises(ValueError, match="size: expected 32 to 4096 px"):
        make_recipe({"size": size})


def test_a_range_or_a_chance_of_ones_own_is_told_from_the_usual():
    assert augments_as_usual(make_recipe({"epochs": 3, "strength": 0.5}))
    assert not augments_as_usual(make_recipe({"rotate": 3}))
    assert not augments_as_usual(make_recipe({"blur_p": 0.9}))


def test_on_and_off_need_no_quotes(tmp_path: Path):
    """YAML 1.1 takes them for true and false."""
    for field, kind in get_type_hints(Recipe).items():
        for word in {"on", "off"} & set(get_args(kind)):
            (tmp_path / "r.yaml").write_text(f"{field}: {word}\n")
            assert getattr(make_recipe(read_recipe(tmp_path / "r.yaml")), field) == word
