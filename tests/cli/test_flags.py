"""The library names arguments; whoever uses the command line reads flags."""

from __future__ import annotations

import pytest

from keylite.cli.flags import as_flags, error_as_flags, spoken

TEXTS = {
    "true or false": ("pass `skip_bad=True` to leave them out", "pass --skip-bad to leave them out"),
    "no value": ("choose another `out`", "choose another --out"),
    "a text": ("use `box='image'`", "use --box image"),
    "a placeholder": ("choose one with `category=NAME`", "choose one with --category NAME"),
    "two numbers": ("take out `missing_mark=(-1.0, 0.0)`", "take out --missing-mark -1.0,0.0"),
    "a size": ("train with `size=(72, 56)`", "train with --size 72x56"),
    "a preset": ("train with `preset('tiny')`", "train with --preset tiny"),
    "a choice of the recipe": ("train with `flip_offset=0.05`", "train with --flip-offset 0.05"),
    "two flags": ("cut a video (`folds=N` `blocks=True`)", "cut a video (--folds N --blocks)"),
    "no flag": ("see `read_spec` and `points`", "see `read_spec` and `points`"),
    "an argument without a flag": ("leave out `model`", "leave out `model`"),
    "a function": ("or use `train_folds`", "or use --folds"),
    "nothing": ("an image", "an image"),
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.values(), ids=TEXTS)
def test_arguments_are_shown_as_flags(text: str, shown: str):
    assert as_flags(text) == shown


HEADS = {  # verb, error of the library: what the command line shows
    "a flag": ("train", "val_fraction: expected a", "--val-fraction: expected a"),
    "a choice of the recipe": ("train", "flip_p: expected `mirror`", "--flip-p: expected --mirror"),
    "two flags": ("train", "resume, overwrite: expected one", "--resume, --overwrite: expected one"),
    "of many that a verb has": ("evaluate", "jitter_box: expected a", "--jitter-box: expected a"),
    "how labels are read": ("export", "missing_mark: expected", "--missing-mark: expected"),
    "written by --json": ("info", "json: expected", "--json: expected"),
    "a flag of another verb": ("predict", "folds: expected", "folds: expected"),
    "an argument without a flag": ("evaluate", "model: expected a", "model: expected a"),
    "a verb": ("predict", "predict: expected", "predict: expected"),
    "a file": ("train", "data.json: expected", "data.json: expected"),
    "no head": ("train", "the data: expected", "the data: expected"),
}


@pytest.mark.parametrize(("verb", "line", "shown"), HEADS.values(), ids=HEADS)
def test_an_error_begins_with_the_flag_that_it_is_about(verb: str, line: str, shown: str):
    before = spoken.set(verb)
    try:
        assert error_as_flags(line) == shown
    finally:
        spoken.reset(before)
