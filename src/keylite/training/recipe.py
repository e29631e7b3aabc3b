"""The recipe: all choices of a training run in one frozen value that checks itself.

The flags of `keylite train` and the tables of docs/recipe.md are made from its fields. recipe_file.py reads and writes
it as YAML. Knows nothing of frameworks or data.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from keylite.runtime.errors import ArgumentError, RecipeError
from keylite.runtime.heads import HAS_PYRAMID
from keylite.runtime.kinds import plain, require_kind
from keylite.runtime.lite import FEWEST_STAGES, LITE, STAGES, possible_stages
from keylite.runtime.types import Choice, Visibility0, Visibility1
from keylite.runtime.words import quoted
from keylite.training.expected import field_types, refusal
from keylite.training.teaching import LossName

VAL_FRACTION = 0.15  # the share of objects that is held out if a run gets no validation data


def _is(description: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, **limits)


Stages = Annotated[int, msgspec.Meta(ge=FEWEST_STAGES, le=STAGES)]
Epochs = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
WarmupEpochs = Annotated[float, msgspec.Meta(ge=0)]
Lr = Annotated[float, msgspec.Meta(gt=0)]
Strength = Annotated[float, msgspec.Meta(ge=0, le=4)]
# choices that may stay open until the data set is known
AUTO = ("stages", "epochs", "lr", "warmup_epochs", "strength", "normalize")


class _Choices(msgspec.StructMeta):
    """The kind of Recipe: a choice that does not exist is refused in the words of keylite."""

    def __call__(self, *values: Any, **choices: Any) -> Any:
        if values:
            raise RecipeError(f"recipe: expected choices by name, such as epochs=30, got {quoted(values[0])}")
        require_known(choices, "recipe", self.__struct_fields__)
        return super().__call__(**choices)


class Recipe(msgspec.Struct, metaclass=_Choices, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All choices of a training run; docs/recipe.md explains each.

    Lengths are in px of the model input unless a field says otherwise. Numbers of numpy and paths are accepted in place
    of numbers and texts. An unknown choice, a wrong type or an impossible value raises RecipeError.

    Example:
        >>> recipe = keylite.Recipe(backbone="lite1", size=(160, 128), epochs=30)
    """

    framework: Annotated[Literal["pytorch", "tensorflow"], _is("framework that trains the model")] = "pytorch"
    backbone: Annotated[str, _is("network before the head: lite0 to lite4, or timm:NAME")] = "lite0"
    stages: Annotated[
        Stages | Literal["auto"], _is("first stages of the backbone that the network keeps; auto: by backbone and head")
    ] = "auto"
    head: Annotated[
        Literal["regression", "rle", "simcc", "heatmap"],
        _is("last part of the network, which turns features into points"),
    ] = "heatmap"
    hidden: Annotated[int, _is("width of the dense layer of regression and rle", ge=1, le=65_536)] = 256
    size: Annotated[int | tuple[int, int], _is("model input in px: side, or width x height, such as 160x128")] = 128
    box: Annotated[
        Literal["annotation", "image"], _is("what the crop shows: the annotation's box, or the whole image")
    ] = "annotation"
    padding: Annotated[float, _is("fraction by which the annotation's box grows before it is cut out", ge=0, le=4)] = (
        0.25
    )
    normalize: Annotated[
        str,
        _is(
            "length that errors are divided by: a keypoint pair (36,45), box_diagonal, box_side or 100px; auto: by box"
        ),
    ] = "auto"
    visibility_0: Annotated[Visibility0, _is("what 0 means in labels: ignore (nobody looked), absent")] = "ignore"
    visibility_1: Annotated[Visibility1, _is("what 1 means: train (covered, but learnt), ignore, absent")] = "train"
    pretrained: Annotated[str, _is("weights to start from: imagenet, none, or a .safetensors file")] = "imagenet"
    teacher: Annotated[str, _is("trained model to learn from, beside the labels: a .safetensors file, or none")] = (
        "none"
    )
    teacher_weight: Annotated[float, _is("share of the training loss that comes from the teacher", ge=0, le=1)] = 0.5
    mirror: Annotated[
        str | tuple[tuple[str | int, str | int], ...],
        _is("pairs of keypoints that a flip swaps: auto, off, or left:right,..."),
    ] = "auto"

    epochs: Annotated[Epochs | Literal["auto"], _is("passes over the training set; auto: by number of objects")] = (
        "auto"
    )
    effort: Annotated[float, _is("factor on the number of epochs that auto gives", gt=0, le=100)] = 1.0
    batch: Annotated[int, _is("objects per batch of each device", ge=1, le=1_000_000)] = 16
    accumulate: Annotated[int, _is("batches that are added up for one step of the optimizer", ge=1, le=1_000_000)] = 1
    loss: Annotated[LossName, _is("function that turns errors in px into the training loss")] = "mae"
    delta: Annotated[float, _is("error in px at which huber, smooth_l1 and soft_wing change branch", gt=0)] = 2.0
    wing_width: Annotated[float, _is("width in px: w of wing, omega2 of soft_wing", gt=0)] = 10.0
    wing_epsilon: Annotated[float, _is("curvature in px of wing and soft_wing", gt=0)] = 2.0
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], _is("method that updates the weights; sgd uses momentum")] = (
        "adamw"
    )
    lr: Annotated[
        Lr | Literal["auto"], _is("highest learning rate of the head's layers; auto works with adam and adamw")
    ] = "auto"
    backbone_lr_factor: Annotated[float, _is("learning rate of the backbone, as a multiple of lr", gt=0)] = 1.0
    momentum: Annotated[float, _is("momentum of the optimizer sgd", ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, _is("decay of the weights; biases and normalisation have none", ge=0)] = 1e-2
    schedule: Annotated[Literal["cosine", "constant"], _is("course of the learning rate after the warm-up")] = "cosine"
    warmup_epochs: Annotated[
        WarmupEpochs | Literal["auto"], _is("epochs in which the learning rate rises; auto: by length of the run")
    ] = "auto"
    freeze_epochs: Annotated[
        int, _is("first epochs, in which the backbone and its normalisation statistics do not change", ge=0)
    ] = 0
    ema: Annotated[float, _is("decay of the moving average of weights; 0: no average", ge=0, lt=1)] = 0.999
    clip: Annotated[float, _is("largest norm of the gradient; 0: no limit", ge=0)] = 5.0
    patience: Annotated[
        int, _is("epochs without a better val NME after which training stops; 0: it never does", ge=0)
    ] = 0
    precision: Annotated[
        Literal["32", "bf16", "16"], _is("number format of the arithmetic in training; 16 needs a GPU")
    ] = "32"
    seed: Annotated[int, _is("seed of random weights, order and augmentation", ge=0, le=2**32 - 1)] = 0

    strength: Annotated[
        Strength | Literal["auto"],
        _is("factor on ranges of geometry and on probabilities of pixel changes; auto: by number of objects"),
    ] = "auto"
    rotate: Annotated[float, _is("largest rotation in degrees, both ways", ge=0, le=180)] = 20.0
    rotate_p: Annotated[float, _is("probability of a rotation", ge=0, le=1)] = 1.0
    scale: Annotated[float, _is("the size changes by a factor from 1/(1+scale) to 1+scale", ge=0, le=4)] = 0.15
    scale_p: Annotated[float, _is("probability of a change of size", ge=0, le=1)] = 1.0
    shift: Annotated[float, _is("largest shift as a fraction of the input, both ways, in x and y", ge=0, le=1)] = 0.06
    shift_p: Annotated[float, _is("probability of a shift", ge=0, le=1)] = 1.0
    aspect: Annotated[float, _is("width / height changes by a factor from 1/(1+aspect) to 1+aspect", ge=0, le=1)] = 0.05
    aspect_p: Annotated[float, _is("probability of a change of aspect", ge=0, le=1)] = 1.0
    flip_p: Annotated[float, _is("probability of a horizontal flip, if mirror pairs are known", ge=0, le=1)] = 0.5
    flip_offset: Annotated[
        float, _is("fraction of the box's width by which labels lie too far right", ge=-0.1, le=0.1)
    ] = 0.0
    brightness: Annotated[
        float, _is("largest change of brightness as a fraction of the full range, both ways", ge=0, le=1)
    ] = 0.2
    brightness_p: Annotated[float, _is("probability of a change of brightness", ge=0, le=1)] = 0.3
    contrast: Annotated[float, _is("contrast changes by a factor from 1/(1+contrast) to 1+contrast", ge=0, le=4)] = 0.3
    contrast_p: Annotated[float, _is("probability of a change of contrast", ge=0, le=1)] = 0.3
    saturation: Annotated[
        float, _is("strength of colours changes by a factor from 1-saturation to 1+saturation", ge=0, le=1)
    ] = 0.4
    saturation_p: Annotated[float, _is("probability of a change of saturation", ge=0, le=1)] = 0.2
    hue: Annotated[
        float, _is("largest rotation of colours around the grey axis, in degrees, both ways", ge=0, le=180)
    ] = 15.0
    hue_p: Annotated[float, _is("probability of a change of hue", ge=0, le=1)] = 0.2
    grey_p: Annotated[float, _is("probability of losing all colour", ge=0, le=1)] = 0.2
    blur: Annotated[float, _is("largest sigma of the blur in px", ge=0, le=20)] = 1.2
    blur_p: Annotated[float, _is("probability of blur", ge=0, le=1)] = 0.2
    noise: Annotated[float, _is("largest sigma of the noise in grey levels of 255", ge=0, le=255)] = 10.0
    noise_p: Annotated[float, _is("probability of noise", ge=0, le=1)] = 0.2
    jpeg: Annotated[int, _is("lowest quality of JPEG compression", ge=1, le=100)] = 30
    jpeg_p: Annotated[float, _is("probability of JPEG compression", ge=0, le=1)] = 0.2
    occlude: Annotated[float, _is("largest side of a covering rectangle, as a fraction of the input", ge=0, le=1)] = (
        0.35
    )
    occlude_p: Annotated[float, _is("probability of a covering rectangle", ge=0, le=1)] = 0.2

    device: Annotated[
        Literal["auto", "cpu", "cuda"], _is("processor that trains; auto takes a GPU if there is one")
    ] = "auto"
    devices: Annotated[int, _is("processes on this machine, each with a GPU or a part of the CPU", ge=1, le=1024)] = 1
    nodes: Annotated[
        int, _is("machines that train together; each needs a launcher (torchrun, srun)", ge=1, le=1024)
    ] = 1
    compile: Annotated[
        Literal["auto", "on", "off"],
        _is("compile the step (PyTorch); auto: for long runs on a CPU with a C++ compiler"),
    ] = "auto"
    threads: Annotated[
        int, _is("threads of the arithmetic on a CPU; 0: as many as the framework takes", ge=0, le=4096)
    ] = 0
    workers: Annotated[int, _is("processes that prepare batches; -1: by machine", ge=-1, le=1024)] = -1
    cache: Annotated[
        Literal["auto", "ram", "off"],
        _is("ram keeps decoded images in memory; auto does so if they need at most a quarter of what is free"),
    ] = "auto"

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            value = getattr(self, name)
            try:
                value = msgspec.convert(str(value) if isinstance(value, os.PathLike) else plain(value), hint)
            except msgspec.ValidationError as error:
                raise RecipeError(f"recipe: {name}: {refusal(name, value, error, type(self))}") from None
            if isinstance(value, float) and not math.isfinite(value):
                raise RecipeError(f"recipe: {name}: expected a finite number, got {quoted(value)}")
            msgspec.structs.force_setattr(self, name, value)
        for name, expected in impossible(self):
            raise RecipeError(f"recipe: {name}: expected {expected}, got {quoted(getattr(self, name))}")

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the model input, px."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Resolved(Recipe, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe in which values, from the data, have replaced `auto` in the choices of AUTO; a run trains by it."""

    stages: Stages = msgspec.field()
    epochs: Epochs = msgspec.field()
    lr: Lr = msgspec.field()
    warmup_epochs: WarmupEpochs = msgspec.field()
    strength: Strength = msgspec.field()
    normalize: Annotated[str, msgspec.Meta(pattern="^(?!auto$)")] = msgspec.field()


# ---- the strength of augmentation

GEOMETRY = ("rotate", "scale", "shift", "aspect")  # ranges
PIXELS = (  # probabilities
    *("brightness_p", "contrast_p", "saturation_p", "hue_p", "grey_p", "blur_p", "noise_p", "jpeg_p", "occlude_p"),
)


def strengthened(recipe: Resolved) -> dict[str, float]:
    """The choices of GEOMETRY and PIXELS times the recipe's strength; each is at most what Recipe allows."""
    limits = {name: field_types(Recipe)[name].__metadata__[0].le for name in (*GEOMETRY, *PIXELS)}
    return {name: min(getattr(recipe, name) * recipe.strength, limit) for name, limit in limits.items()}


def augments_as_usual(recipe: Recipe) -> bool:
    """Whether all choices of GEOMETRY and PIXELS have their defaults."""
    usual = Recipe()
    return all(getattr(recipe, name) == getattr(usual, name) for name in (*GEOMETRY, *PIXELS))


# ---- checks


def impossible(recipe: Recipe) -> list[tuple[str, str]]:
    """(field, what was expected) for impossible values that no type can rule out."""
    problems = []
    if recipe.backbone not in LITE and not recipe.backbone.startswith("timm:"):
        problems.append(("backbone", f"one of {', '.join(LITE)} or timm:NAME"))
    possible, words = possible_stages(recipe.backbone, HAS_PYRAMID[recipe.head])
    if recipe.stages != "auto" and recipe.stages not in possible:
        problems.append(("stages", words))
    if any(not 32 <= side <= 4096 for side in recipe.input_size):
        problems.append(("size", "32 to 4096 px"))
    if isinstance(recipe.mirror, str) and recipe.mirror not in ("auto", "off"):
        problems.append(("mirror", "auto, off, or a list of pairs"))
    return problems


# ---- from choices


def make_recipe(choices: Mapping[str, Any], source: str = "recipe", base: Recipe | None = None) -> Recipe:
    """A recipe of these choices; what they do not name comes from `base`, or else from the defaults.

    Values may be text, as on the command line ("1e-3", "0:16,1:15"). source: where they come from, for error messages.
    Raises RecipeError for an unknown name (it suggests the nearest one), a wrong type or an impossible value.
    """
    require_known(choices, source)
    merged = (to_dict(base) if base else {}) | dict(choices)
    for name, meant in BARE_YAML.items():
        if name in merged and repr(merged[name]) in meant:
            merged[name] = meant[repr(merged[name])]
    for name, parse in FROM_TEXT.items():
        if isinstance(text := merged.get(name), str):
            merged[name] = parse(text)
    try:
        return msgspec.convert(merged, Recipe, strict=False)
    except msgspec.ValidationError as error:
        where = str(error).partition(" - at `$.")[2]
        field = where.rstrip("`").partition("[")[0]
        if not field:
            raise RecipeError(str(error).replace("recipe:", f"{source}:", 1)) from None
        got = dict(choices).get(field, merged[field])
        raise RecipeError(f"{source}: {field}: {refusal(field, got, error, Recipe)}") from None


def require_known(names: Iterable[str], source: str, known: Sequence[str] = ()) -> None:
    """Raise RecipeError, with the nearest name, for a name that no choice has. known: those of Recipe if empty."""
    known = known or Recipe.__struct_fields__
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name)[:100], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; docs/recipe.md lists them"
            raise RecipeError(f"{source}: unknown choice {quoted(name)}{hint}")


def _size_from_text(text: str) -> Any:
    width, cross, height = text.lower().partition("x")
    return [width, height] if cross else text


NUMBER = re.compile("[0-9]{1,9}")  # the number of a keypoint


def _mirror_from_text(text: str) -> Any:
    if ":" not in text:
        return text
    ends = [pair.split(":") for pair in text.split(",")]
    return [[int(end) if NUMBER.fullmatch(end.strip()) else end.strip() for end in pair] for pair in ends]


FROM_TEXT: dict[str, Callable[[str], Any]] = {"size": _size_from_text, "mirror": _mirror_from_text}
BARE_YAML = {  # YAML 1.1 reads an unquoted off as false, and 32 as a number
    "mirror": {"False": "off"},
    "cache": {"False": "off"},
    "compile": {"False": "off", "True": "on"},
    "precision": {"32": "32", "16": "16"},
}


def checked(recipe: Recipe) -> Recipe:
    """The recipe that a user gave in Python, checked again; raises as `make_recipe` does."""
    require_kind("recipe", recipe, Recipe, "a Recipe", "use Recipe(...) or preset(...)")
    return make_recipe(to_dict(recipe))


def to_dict(recipe: Recipe) -> dict[str, Choice]:
    """Every choice by name, as plain numbers, texts and lists."""
    return msgspec.json.decode(msgspec.json.encode(recipe), type=dict[str, Choice])


def descriptions() -> dict[str, tuple[str, Any]]:
    """(description, default) of every choice by name, in the order of the fields."""
    return {
        field.name: (next(m.description for m in field_types(Recipe)[field.name].__metadata__), field.default)
        for field in msgspec.structs.fields(Recipe)
    }


def require_no_patience(recipe: Recipe) -> None:
    """Raise ArgumentError if a recipe would stop folds early."""
    if recipe.patience:
        raise ArgumentError(
            f"patience: expected 0 with folds, got {recipe.patience}: a fold would stop by the images of its own report"
        )
