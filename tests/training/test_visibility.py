"""What 0 and 1 mean in labels: what training is taught, what figures count, and what the model file keeps."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.evaluation.figures import report_of
from keylite.evaluation.predictions import Predictions
from keylite.runtime.errors import DataError, RecipeError
from keylite.training.checks import say_visibility, unlearnt_of
from keylite.training.recipe import make_recipe
from keylite.training.train import prepare


@pytest.fixture(scope="module")
def hidden() -> Dataset:
    """Twelve gauges; in all, the first point is hidden, and in the first four the second, too."""
    data = keylite.gauges(12, size=64)
    visible = data.visible.copy()
    visible[:, 0] = 1
    visible[:4, 1] = 1
    return dataclasses.replace(data, visible=visible)


def test_hidden_points_teach_unless_they_are_left_out(hidden: Dataset):
    usual, without = (Examples(hidden, (64, 64), box="image", hidden=taught) for taught in (True, False))
    assert usual[0][2].all() and without[0][2].tolist()[:2] == [0, 0] and without[5][2].tolist()[:2] == [0, 1]
    np.testing.assert_array_equal(usual[5][1][1:], without[5][1][1:])
    assert np.isnan(without[0][1][:2]).all()
    assert without.mean_shape()[0].tolist() == [0.5, 0.5]


LINES = {
    ("ignore", "train"): (None, []),
    ("ignore", "ignore"): ("left out of training: 16 hidden points (`visibility_1='ignore'`)", []),
    ("absent", "train"): (None, ["visibility_0: absent is kept in the model file"]),
    ("absent", "absent"): ("left out of training: 16 hidden points", ["visibility_0: absent", "visibility_1: absent"]),
}


@pytest.mark.parametrize("values", LINES)
def test_what_is_left_out_or_only_kept_is_said(values, hidden: Dataset, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    say_visibility(make_recipe({"visibility_0": values[0], "visibility_1": values[1]}), hidden, quiet=False)
    left_out, kept = LINES[values]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(left_out) + len(kept)
    assert all(any(line in text for text in said) for line in [*([left_out] if left_out else []), *kept])


def test_nothing_left_to_learn_is_one_line(hidden: Dataset):
    all_hidden = dataclasses.replace(hidden, visible=np.ones_like(hidden.visible))
    with pytest.raises(
        DataError, match=r"all 48 labelled points are hidden \(visibility 1\).* use `visibility_1='train'`"
    ):
        say_visibility(make_recipe({"visibility_1": "ignore"}), all_hidden, quiet=True)


def test_a_value_that_is_none_is_refused():
    with pytest.raises(RecipeError, match="visibility_1: expected .*'train', 'ignore', 'absent'|visibility_1"):
        make_recipe({"visibility_1": "hidden"})


def test_figures_do_not_count_what_was_left_out(hidden: Dataset):
    xy = hidden.xy + np.where(hidden.visible == 1, 50, 3)[..., None] * np.array([1.0, 0])
    score = np.full(xy.shape[:2], np.nan)
    predictions = Predictions(xy, xy, score, hidden.whole_boxes(), ())
    usual, without = (
        report_of(dataclasses.replace(predictions, hidden=counted), hidden, "100px") for counted in (True, False)
    )
    assert (usual.points, without.points) == (48, 32)
    assert without.pixel_error.max == pytest.approx(3) and usual.pixel_error.max == pytest.approx(50)
    assert without.signed_error.x == pytest.approx(3)
    assert [each.count for each in without.per_keypoint.values()] == [0, 8, 12, 12]
    assert "left out: 16 hidden points, because the model was trained without them" in without.notes
    assert usual.data == without.data, "the labels are the same"


def test_a_model_file_keeps_it(hidden: Dataset, tmp_path: Path):
    pytest.importorskip("lightning", reason="needs keylite[pytorch]")
    pytest.importorskip("matplotlib", reason="needs keylite[pytorch]")
    recipe = keylite.Recipe(
        stages=3, size=32, box="image", pretrained="none", visibility_0="absent", visibility_1="ignore", workers=0
    )
    named = dataclasses.replace(hidden, category="gauge")
    plan = prepare(
        recipe, named, hidden, tmp_path / "run", resume=False, overwrite=False, skip_bad=False, max_megapixels=1
    )
    spec = plan.state.spec
    assert (spec.visibility_0, spec.visibility_1, spec.category, spec.teaches_hidden) == (
        "absent",
        "ignore",
        "gauge",
        False,
    )
    assert spec.unlearnt == unlearnt_of(recipe, hidden, None) == {hidden.skeleton.names[0]: 0}
    assert plan.examples[0][2].tolist()[:2] == [0, 0]
    assert spec.provenance.data.fingerprint == named.fingerprint()
