"""Errors in mm: where the length of a px comes from, and what a report makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.converting import convert
from keylite.evaluation.figures import report_of
from keylite.evaluation.metrics import pck_of
from keylite.evaluation.predictions import Predictions, errors_of
from keylite.evaluation.report import report_parts
from keylite.runtime.errors import DataError
from keylite.runtime.images import write_image
from keylite.runtime.tables import as_text

NAN = float("nan")


def faces(count: int, mm_per_px: object) -> Dataset:
    xy = np.random.default_rng(0).uniform(5, 60, (count, 3, 2))
    xy[0, 0] = NAN
    return keylite.from_arrays([np.zeros((64, 64, 3), np.uint8)] * count, xy, mm_per_px=mm_per_px)


def moved(data: Dataset) -> Predictions:
    xy = np.nan_to_num(data.xy) + np.random.default_rng(1).normal(0, 6, data.xy.shape)
    return Predictions(xy, xy, np.full(xy.shape[:2], NAN), data.whole_boxes(), ())


def test_a_rate_in_mm_is_a_pck_with_that_length():
    data = faces(12, 0.3)
    predictions = moved(data)
    report, errors = report_of(predictions, data, "100px"), errors_of(predictions, data)
    assert report.mm.mean == pytest.approx(0.3 * report.pixel_error.mean)
    assert report.mm.sdr == {
        at: pytest.approx(pck_of(errors, np.full(12, 1.0), float(at) / 0.3)) for at in report.mm.sdr
    }
    assert list(report.mm.sdr) == ["2", "2.5", "3", "4"] and 0.1 < report.mm.sdr["2"] < report.mm.sdr["4"]
    assert (report.mm.points, report.mm.count) == (35, 12)
    low, high = report.mm.interval
    assert low < report.mm.mean < high
    for at, (low, high) in report.mm.sdr_intervals.items():
        assert low < report.mm.sdr[at] < high
    shown = as_text(report_parts(report))
    assert "error in mm (MRE)" in shown and "SDR@2.5 mm" in shown
    assert json.loads(report.to_json())["mm"]["sdr"].keys() == report.mm.sdr.keys()
    without = report_of(predictions, dataclasses.replace(data, mm_per_px=None), "100px")
    assert without.mm is None and "mm" not in as_text(report_parts(without))
    assert (without.signed_error, without.nme) == (report.signed_error, report.nme), "other intervals stay"


def test_each_image_may_have_its_own_length():
    scales = np.where(np.arange(12) % 2, 0.3, 0.1)
    scales[:2] = NAN
    data = faces(12, scales)
    predictions = moved(data)
    report, errors = report_of(predictions, data, "100px"), errors_of(predictions, data)
    assert report.mm.mean == pytest.approx((errors[2:] * scales[2:, None]).mean())
    assert (report.mm.points, report.mm.count) == (30, 10)
    assert "2 of 12 objects have no mm per px and count in no figure in mm" in report.notes
    assert report_of(moved(data[:2]), data[:2], "100px").mm is None


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((40, 60, 3), np.uint8))
    (tmp_path / "l.csv").write_text("file,nose_x,nose_y,mm_per_px\na.png,10,12,0.25\nb.png,11,13,\n")
    return tmp_path


def test_a_file_says_it_and_a_caller_before_it(written: Path):
    data = keylite.read_dataset(written / "l.csv")
    np.testing.assert_array_equal(data.mm_per_px, [0.25, NAN])
    assert data.skeleton.names == ("nose",)
    assert keylite.read_dataset(written / "l.csv", mm_per_px=0.1).mm_per_px.tolist() == [0.1, 0.1]
    (written / "l.tps").write_text("LM=1\n10 12\nIMAGE=a.png\nSCALE=0.5\nLM=1\n4 5\nIMAGE=b.png\nSCALE=0.125\n")
    tps = keylite.read_dataset(written / "l.tps")
    assert tps.mm_per_px.tolist() == [0.5, 0.125]
    assert "SCALE is taken as mm per px" in " ".join(tps.notes)


@pytest.mark.parametrize(
    ("format", "out"), [("coco", "c.json"), ("csv", "c.csv"), ("label-studio", "c.json"), ("labelme", "")]
)
def test_formats_that_hold_it_give_it_back(format: str, out: str, written: Path):
    data = keylite.read_dataset(written / "l.csv")
    assert not any("mm" in line for line in convert(data, written / out, format=format))
    np.testing.assert_array_equal(keylite.read_dataset(written / out, format=format).mm_per_px, [0.25, NAN])
    assert any("mm per px" in line for line in convert(data, written / "c.xml", format="cvat"))


BAD = {"text": "x", "0": "0", "negative": "-1", "infinite": "inf", "no number": "nan"}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_length_that_is_none_is_one_line(value: str, written: Path):
    (written / "l.csv").write_text(f"file,nose_x,nose_y,mm_per_px\na.png,10,12,{value}\nb.png,11,13,1\n")
    with pytest.raises(
        DataError, match=r"l\.csv: mm_per_px: expected numbers above 0, got others in 1 of 2: line 2"
    ) as line:
        keylite.read_dataset(written / "l.csv")
    assert "\n" not in str(line.value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), NAN, "0.1"])
def test_a_caller_s_length_is_checked(value: object, written: Path):
    with pytest.raises(ValueError, match="mm_per_px: expected a number above 0|mm_per_px"):
        keylite.read_dataset(written / "l.csv", mm_per_px=value)
