"""The library names arguments; whoever uses the command line reads flags."""

from __future__ import annotations

import pytest

from keylite.cli.flags import as_flags

TEXTS = {
    "true or false": ("pass `skip_bad=True` to leave them out", "pass --skip-bad to leave them out"),
    "no value": ("choose another `out`", "choose another --out"),
    "a text": ("use `box='image'`", "use --box image"),
    "a placeholder": ("choose one with `category=NAME`", "choose one with --category NAME"),
    "two numbers": ("take out `missing_mark=(-1.0, 0.0)`", "take out --missing-mark -1.0,0.0"),
    "a choice of the recipe": ("train with `flip_offset=0.05`", "train with --flip-offset 0.05"),
    "two flags": ("cut a video (`folds=N` `blocks=True`)", "cut a video (--folds N --blocks)"),
    "no flag": ("see `read_spec` and `points`", "see `read_spec` and `points`"),
    "nothing": ("an image", "an image"),
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.values(), ids=TEXTS)
def test_arguments_are_shown_as_flags(text: str, shown: str):
    assert as_flags(text) == shown
