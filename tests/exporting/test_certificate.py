"""A certificate's figures are those of the points, and past either budget it says so."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.evaluation.reliability import Decile, Reliability
from keylite.exporting import comparison
from keylite.exporting import drift as drifts
from keylite.exporting.certificate import (
    Certificate,
    Latency,
    OverBudgetError,
    certificate_doubt,
    certificate_page,
    certificate_path,
    over_budget,
    summary,
    write_certificate,
)
from keylite.exporting.comparison import certify
from keylite.exporting.drift import Drift, OnKernels
from keylite.exporting.form import Budget
from keylite.runtime.errors import ModelFileError
from keylite.runtime.files import sha256
from keylite.runtime.heads import Rle
from keylite.runtime.modelfile import write_tflite
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import Calibration, CertificateSummary, Confidence, DataId

COUNT = 40


def made_up(**changes: object) -> Certificate:
    drift = Drift(0.2, 0.1, 0.5, 0.9)
    made = Certificate(
        child="m.tflite",
        child_sha256="c" * 64,
        parent="m.safetensors",
        parent_sha256="p" * 64,
        engines=("pytorch", "litert"),
        held=("litert",),
        precision="int8",
        calibration=Calibration(200, 3, DataId("train", "f" * 64)),
        size=(128, 96),
        budget=1.0,
        budget_nme=0.03,
        within_budget=True,
        drift=drift,
        per_keypoint={"nose": drift, "chin": Drift(0.3, 0.2, 0.7, 1.1)},
        kernels={
            "litert": OnKernels(100, drift, 0.041, 0.04),
            "litert-reference": OnKernels(100, Drift(0.2, 0.1, 0.6, 1), 0.042, 0.04),
        },
        nme_parent=0.04,
        nme_child=0.041,
        nme_interval=(-0.001, 0.0025),
        normalize="0,1",
        pck={"0.05": (0.9, 0.89)},
        reliability=(None, Reliability(0.4, 0.3, 0.2, -0.15, (Decile(1.0, 0.85, None, 60),), 60)),
        count=123,
        groups=45,
        data=DataId("val", "d" * 64),
        bytes=4_000_000,
        operators={"CONV_2D": 33, "ADD": 9},
        latency=Latency(1.25, 0.4, "A processor"),
        notes=("m.tflite was not exported from m.safetensors",),
        created="2026-01-01T00:00:00+00:00",
        versions={"keylite": "0.0.0"},
    )
    return msgspec.structs.replace(made, **changes)


BUDGETS = {
    "within both": ({}, None),
    "just at the drift's": ({"budget": 0.5}, None),
    "over the drift's": ({"budget": 0.4}, "p95 drift 0.5 px is over the budget of 0.4 px (NME 4.00 % -> 4.10 %)"),
    "over the NME's": ({"budget_nme": 0.02}, "NME rose by 2.50 %, over the budget of 2 % (NME 4.00 % -> 4.10 %)"),
    "no NME's": ({"budget_nme": None, "nme_child": 0.4}, None),
    "a better NME": ({"nme_child": 0.01}, None),
    "no number": (
        {"drift": Drift(0.2, 0.1, float("nan"), 0.9)},
        "p95 drift nan px is over the budget of 1 px (NME 4.00 % -> 4.10 %)",
    ),
    "an NME that is none": (
        {"nme_child": float("nan"), "budget_nme": 0.1},
        "NME rose by nan %, over the budget of 10 % (NME 4.00 % -> nan %)",
    ),
    "a parent without error": (
        {"nme_parent": 0.0, "budget_nme": 0.1},
        "NME rose by inf %, over the budget of 10 % (NME 0.00 % -> 4.10 %)",
    ),
    "no error before and after": ({"nme_parent": 0.0, "nme_child": 0.0, "budget_nme": 0.1}, None),
    "over both": (
        {"budget": 0.4, "budget_nme": 0.02},
        "p95 drift 0.5 px is over the budget of 0.4 px and NME rose by 2.50 %, over the budget of 2 % "
        "(NME 4.00 % -> 4.10 %)",
    ),
}


@pytest.mark.parametrize(("changes", "words"), BUDGETS.values(), ids=BUDGETS)
def test_past_either_budget_is_said(changes, words):
    certificate = made_up(**changes)
    assert over_budget(certificate) == words
    page = certificate_page(certificate)
    if words:
        assert str(OverBudgetError(certificate)) == f"refused: {words}; nothing was written"
        assert f"Refused: {words}." in page
    else:
        assert "\n\nAccepted. " in page


def test_a_certificate_prints_its_table_and_its_lines():
    made = made_up(child="<i>.tflite")
    line = "Certificate(<i>.tflite compared with m.safetensors: accepted, p95 drift 0.5000 px of a budget of 1)"
    assert repr(made) == line
    printed = str(made).splitlines()
    assert printed[0].startswith("<i>.tflite compared with m.safetensors on 123 objects of val: drift in px of 128x96")
    assert printed[3].split() == ["all", "points", "0.2000", "0.1000", "0.5000", "0.9000"]
    assert printed[5].split() == ["chin", "0.3000", "0.2000", "0.7000", "1.1000"]
    assert printed[6:8] == ["", "NME (0,1) 4.000 % -> 4.100 % (difference -0.100 to +0.250 points, 95 %, 45 groups)"]
    assert printed[-1] == "Accepted"
    assert "refused" in repr(made_up(within_budget=False))
    assert "&lt;i&gt;.tflite" in made._repr_html_()
    assert "<i>" not in made._repr_html_()


def test_a_certificate_as_plain_values_and_as_a_data_frame(monkeypatch, tmp_path):
    made = made_up()
    write_certificate(made, tmp_path / "a.json")
    assert made.to_dict() == json.loads(made.to_json()) == json.loads((tmp_path / "a.json").read_bytes())
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = made.to_dataframe()
    assert [row["keypoint"] for row in rows] == list(made.per_keypoint)
    assert rows[-1] == {"keypoint": "chin", "mean": 0.3, "p50": 0.2, "p95": 0.7, "max": 1.1}


def test_the_page_has_all_of_it():
    page = certificate_page(made_up())
    assert page.startswith("# m.tflite, compared with m.safetensors\n")
    for words in (
        "Drift p95 0.5000 px of a 128x96 input, budget 1 px.",
        "NME (0,1) 4.000 % -> 4.100 % (difference -0.100 to +0.250 points, 95 %, 45 groups) on 123 objects of val.",
        "PCK@0.05 90.00 % -> 89.00 %.",
        "| all points | 0.2000 | 0.1000 | 0.5000 | 0.9000 |",
        "| nose | 0.2000 | 0.1000 | 0.5000 | 0.9000 |",
        "| chin | 0.3000 | 0.2000 | 0.7000 | 1.1000 |",
        f"- child `m.tflite`, sha256 `{'c' * 64}`, 4000000 bytes, int8, on litert",
        f"- parent `m.safetensors`, sha256 `{'p' * 64}`, on pytorch",
        f"- data fingerprint `{'d' * 64}`",
        f"- ranges from 200 objects of train, seed 3, fingerprint `{'f' * 64}`",
        "- operators: 33 CONV_2D, 9 ADD",
        "- kernels: held to the budget on litert; litert drift p95 0.5000, max 0.9000 px, NME 4.100 %; litert-reference "
        "drift p95 0.6000, max 1.0000 px, NME 4.200 % (on 100 objects, drawn at random)\n",
        "- latency: 1.25 ms of CPU time, 0.40 times that of the parent's fp32 ONNX, one thread of A processor",
        "- m.tflite was not exported from m.safetensors",
        "- keylite 0.0.0; 2026-01-01",
    ):
        assert words in page, words


def test_the_page_leaves_out_what_is_not_known():
    page = certificate_page(made_up(calibration=None, latency=None, operators={}, nme_interval=None, kernels={}))
    assert "- kernels: held to the budget on litert\n" in page
    for words in ("ranges from", "operators", " ms, ", "difference"):
        assert words not in page
    assert "None" not in page
    assert "latency: not measured" in page


def test_json_and_back():
    assert msgspec.json.decode(msgspec.json.encode(made_up()), type=Certificate) == made_up()
    short = summary(made_up())
    assert msgspec.json.decode(msgspec.json.encode(short), type=CertificateSummary) == short
    assert (short.drift_p95, short.budget, short.operators) == (0.5, 1.0, {"CONV_2D": 33, "ADD": 9})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["budget", "budget_nme"])
def test_a_budget_is_a_number_above_0(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected a number above 0, got {value}$"):
        Budget(**{"px": 1.0, "nme": None} | {name.replace("budget_", "").replace("budget", "px"): value})


# ---- figures: two files whose points are known


@pytest.fixture
def held(monkeypatch, tmp_path, make_spec):
    """A function: the certificate of two files with these raw outputs (N, 4, C), unit points first, right being `right`."""
    usual = make_spec(box="image", size=(64, 32), normalize="10px")

    def hold(
        right,
        parent,
        child,
        groups=None,
        parent_spec=None,
        child_spec=None,
        spec=usual,
        images=None,
        reference_too=False,
        **limits,
    ):
        paths, specs = [], {"parent": parent_spec or spec, "child": child_spec or spec}
        for name, of in specs.items():
            paths.append(tmp_path / f"{name}.tflite")
            write_tflite(paths[-1], b"\x1c\0\0\0TFL3" + name.encode(), of)

        def predictor(path, **_):
            points = {"parent": parent, "child": child}[path.stem]
            made = Predictor.of(_Told(points), specs[path.stem])
            made.path, made.engine_name = path, {"parent": "pytorch", "child": "litert"}[path.stem]
            return made

        monkeypatch.setattr(comparison, "Predictor", predictor)
        images = images or [np.zeros((64, 128, 3), np.uint8)] * len(right)  # twice the input
        data = from_arrays(images, np.asarray(right) * (128, 64), skeleton=spec.skeleton, groups=groups)
        budget = Budget(**{"px": 1.0} | limits)
        return certify(paths[1], paths[0], data, budget, reference_too=reference_too), data, paths

    return hold


class _Told:
    """An engine that gives what it was told, in order."""

    def __init__(self, points: np.ndarray) -> None:
        self.points, self.at = np.asarray(points, np.float32), 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.at += len(pixels)
        return self.points[self.at - len(pixels) : self.at]


def test_drift_is_in_px_of_the_input_by_keypoint(held):
    """Points move by (3, 4) px of 64x32 at the chin alone; errors in px of the image are twice that."""
    right = np.full((COUNT, 4, 2), 0.5)
    child = right.copy()
    child[:, 3] += (3 / 64, 4 / 32)
    made, data, paths = held(right, right + (1 / 64, 0), child)
    chin, nose = made.per_keypoint["chin"], made.per_keypoint["nose"]
    for value in (chin.mean, chin.p50, chin.p95, chin.max):
        assert value == pytest.approx(math.hypot(2, 4), abs=1e-4)
    for value in (nose.mean, nose.p50, nose.p95, nose.max, made.drift.p50):
        assert value == pytest.approx(1, abs=1e-4)
    assert made.drift.mean == pytest.approx((3 + math.hypot(2, 4)) / 4, abs=1e-4)
    assert made.drift.p95 == made.drift.max == pytest.approx(math.hypot(2, 4), abs=1e-4)
    assert made.nme_parent == pytest.approx(2 / 10, abs=1e-5)  # px of the image over 10 px
    assert made.nme_child == pytest.approx(10 / 4 / 10, abs=1e-5)
    assert made.nme_change == pytest.approx(0.25, abs=1e-4)
    assert not made.within_budget
    assert made.engines == ("pytorch", "litert")
    assert made.pck["0.2"] == (0.0, 0.75)
    assert made.notes == ("child.tflite was not exported from parent.tflite",)
    assert (made.count, made.groups, made.size) == (COUNT, COUNT, (64, 32))
    assert made.data == DataId(data.name, data.fingerprint())
    assert (made.parent_sha256, made.child_sha256) == (sha256(paths[0]), sha256(paths[1]))
    assert (made.parent, made.child, made.bytes) == ("parent.tflite", "child.tflite", paths[1].stat().st_size)


def test_the_p95_is_neither_the_p90_nor_the_max(held):
    """Objects drift by 0, 0.1, .. 10 px: each percentile is a figure of its own, and the p95 alone decides."""
    right = np.full((101, 4, 2), 0.5)
    child = right.copy()
    child[..., 0] += (np.arange(101) / 10 / 64)[:, None]
    for budget, within in ((9.0, False), (9.4, False), (9.6, True)):
        made, *_ = held(right, right, child, px=budget)
        for drift in (made.drift, *made.per_keypoint.values()):
            found = (drift.mean, drift.p50, drift.p95, drift.max)
            assert found == pytest.approx((5, 5, 9.5, 10), abs=1e-4)
        assert made.within_budget == within


def test_unlabelled_points_drift_but_have_no_error(held):
    right = np.full((COUNT, 4, 2), 0.5)
    child, right = right + (2 / 64, 0), right.copy()
    parent = np.full((COUNT, 4, 2), 0.5)
    right[:, 0] = np.nan
    child[:, 0] = 0.5 + np.array([5 / 64, 0])
    made, *_ = held(right, parent, child, px=10.0)
    assert made.per_keypoint["nose"].p50 == pytest.approx(5, abs=1e-4)
    assert made.nme_child == pytest.approx(4 / 10, abs=1e-4)
    assert made.within_budget


def test_a_keypoint_that_nothing_taught_does_not_drift(held, make_spec):
    """Two networks disagree about it by chance, and their points for it are NaN."""
    right = np.full((COUNT, 4, 2), 0.5)
    child = right.copy()
    child[:, 3] += 0.4
    spec = make_spec(box="image", size=(64, 32), normalize="10px", unlearnt={"chin": 0})
    made, *_ = held(right, right, child, spec=spec)
    assert "chin" not in made.per_keypoint
    assert (made.drift.max, made.nme_child) == (0, 0)
    assert made.within_budget
    assert any(note.startswith("no training object labels these keypoints") for note in made.notes)


def test_the_nme_has_a_budget_of_its_own(held):
    right = np.full((COUNT, 4, 2), 0.5)
    parent, child = right + (1 / 64, 0), right + (1.1 / 64, 0)
    assert held(right, parent, child)[0].within_budget
    assert held(right, parent, child, nme=0.11)[0].within_budget
    assert not held(right, parent, child, nme=0.09)[0].within_budget


def test_the_interval_is_of_the_paired_difference_by_group(held):
    """Against drawing groups again one by one. Unpaired it would be as wide as the objects differ: far wider."""
    rng = np.random.default_rng(0)
    right = np.full((COUNT, 4, 2), 0.5)
    hard = rng.uniform(2, 20, COUNT)  # how far both are off
    group = np.arange(COUNT) // 4
    worse = rng.normal(0.3, 0.5, COUNT // 4)[group] + rng.normal(0, 0.05, COUNT)
    parent, child = right.copy(), right.copy()
    parent[..., 0] += (hard / 64)[:, None]
    child[..., 0] += ((hard + worse) / 64)[:, None]
    made, *_ = held(right, parent, child, groups=[f"g{g}" for g in group])
    difference = 2 * (np.abs(hard + worse) - hard) / 10
    means = [difference.reshape(-1, 4)[rng.integers(0, COUNT // 4, COUNT // 4)].mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    assert made.nme_interval == pytest.approx((low, high), abs=0.08 * (high - low))
    assert made.nme_interval[0] < difference.mean() < made.nme_interval[1]
    alone = difference[rng.integers(0, COUNT, (4000, COUNT))].mean(axis=1)
    assert high - low > 1.5 * np.ptp(np.percentile(alone, [2.5, 97.5])), "objects drawn alone would tell another story"
    assert made.groups == COUNT // 4


def test_few_groups_have_no_interval(held):
    right = np.full((COUNT, 4, 2), 0.5)
    made, *_ = held(right, right + 0.01, right + 0.02, groups=["a", "b"] * (COUNT // 2))
    assert made.nme_interval is None
    assert made.groups == 2


@pytest.mark.parametrize("fitted", ["parent", "child"])
def test_the_sigma_of_both_is_judged_by_the_same_objects(fitted, held, make_spec):
    """By those that the one was not fitted on, though the other was fitted on none of them."""
    rng, count = np.random.default_rng(0), 100
    spec = make_spec(box="image", size=(64, 32), normalize="10px", head=Rle(4, hidden=32))
    right = np.full((count, 4, 2), 0.5)
    off = np.concatenate([right + rng.normal(0, 0.05, right.shape), rng.normal(-3, 0.5, right.shape)], axis=-1)
    learnt = Confidence((0.9,) * 4, ((1.0, 0.05),), (1.0,) * 4, 20, DataId("a", "0"))
    scored = msgspec.structs.replace(spec, confidence=learnt)
    alone, data, _ = held(right, off, off, parent_spec=scored, child_spec=scored)
    assert [one.count for one in alone.reliability] == [4 * count] * 2, "points; neither was fitted on these"
    on_data = msgspec.structs.replace(learnt, data=data.identity())
    specs = {"parent_spec": scored, "child_spec": scored} | {
        f"{fitted}_spec": msgspec.structs.replace(scored, confidence=on_data)
    }
    made, *_ = held(right, off, off, **specs)
    assert [one.count for one in made.reliability] == [2 * count] * 2
    assert made.reliability[0] == made.reliability[1]


@pytest.mark.parametrize(
    ("size", "precision", "px"),
    [
        ((128, 128), "int8", 1.0),
        ((256, 64), "int8", 2.0),
        ((64, 256), "int8", 2.0),
        ((160, 128), "fp32", 0.025),
        ((128, 160), "fp16", 0.125),
    ],
)
def test_a_budget_grows_with_the_longer_side(size, precision, px, make_spec):
    budget = Budget.for_spec(make_spec(size=size, precision=precision), None, None)
    assert budget.px == pytest.approx(px)
    assert budget.past(1.01 * px, 0.1, 0.1)
    assert not budget.past(0.99 * px, 0.1, 0.2)


OTHERS = {
    "other keypoints": (
        {"skeleton": Skeleton(("a", "b", "c", "d"))},
        "skeleton is ('a', 'b', 'c'), the parent's ('nose'",
    ),
    "another input": ({"size": (32, 32)}, "size is (32, 32), the parent's (64, 32)"),
    "another box": ({"box": "annotation"}, "box is annotation, the parent's image"),
    "another padding": ({"padding": 0.5}, "padding is 0.5, the parent's 0.25"),
}


@pytest.mark.parametrize(("changes", "words"), OTHERS.values(), ids=OTHERS)
def test_no_child_of_this_parent(changes, words, held, make_spec):
    right = np.full((COUNT, 4, 2), 0.5)
    spec = make_spec(box="image", size=(64, 32), normalize="10px")
    with pytest.raises(ValueError, match="child.tflite is no child of parent.tflite") as caught:
        held(right, right, right, child_spec=msgspec.structs.replace(spec, **changes))
    assert words in str(caught.value)


# ---- an int8 LiteRT file on two kinds of kernels: `drift.Predictor` is the reference kernels'


@pytest.fixture
def on_kernels(held, monkeypatch, make_spec):
    """As `held`, but of an int8 file whose points on the reference kernels are `reference`: only the certificate."""

    def hold(right, parent, child, reference, **limits):
        spec = make_spec(box="image", size=(64, 32), normalize="10px", precision="int8")
        asked: list[tuple[str, str]] = []

        def opened(path, engine, device):
            asked.append((path.name, engine))
            return Predictor.of(lambda pixels: np.float32(reference)[pixels[:, 0, 0, 0]], spec)

        monkeypatch.setattr(drifts, "Predictor", opened)
        numbered = [np.full((64, 128, 3), i, np.uint8) for i in range(len(right))]  # tell the objects apart
        made, *_ = held(right, parent, child, spec=spec, images=numbered, **limits)
        assert asked == [("child.tflite", "litert-reference")]
        return made

    return hold


def test_both_kernels_are_measured_on_the_same_objects(on_kernels):
    right = np.full((COUNT, 4, 2), 0.5)
    made = on_kernels(right, right, right + (0.5 / 64, 0), right + (2 / 64, 0))
    usual, reference = made.kernels["litert"], made.kernels["litert-reference"]
    assert (usual.drift, usual.nme) == (made.drift, pytest.approx(made.nme_child))
    assert reference.drift.p95 == reference.drift.max == pytest.approx(2, abs=1e-4)
    assert reference.nme == pytest.approx(4 / 10, abs=1e-5)
    assert made.within_budget, "the usual kernels decide"
    assert made.notes[1] == (
        "child.tflite would be refused on LiteRT's reference kernels, whose results are those of TensorFlow Lite Micro: "
        "p95 drift 2 px is over the budget of 1 px (NME 0.00 % -> 40.00 %)"
    )
    assert len(on_kernels(right, right, right + (2 / 64, 0), right).notes) == 1
    assert len(on_kernels(right, right, right, right, nme=0.5).notes) == 1


def test_a_device_without_xnnpack_is_held_to_the_budget_on_both_kernels(on_kernels):
    right = np.full((COUNT, 4, 2), 0.5)
    near, far = right + (0.5 / 64, 0), right + (2 / 64, 0)
    both = on_kernels(right, right, near, near, reference_too=True)
    assert over_budget(both) is None
    assert both.within_budget
    assert both.held == ("litert", "litert-reference")
    assert "\nkernels: held to the budget on litert and litert-reference; litert drift" in str(both)
    past = "p95 drift 2 px is over the budget of 1 px (NME 0.00 % -> 40.00 %)"
    usual = f"on XNNPACK: {past}"
    reference = f"on LiteRT's reference kernels, whose results are those of TensorFlow Lite Micro: {past}"
    refused = on_kernels(right, right, near, far, reference_too=True)
    assert not refused.within_budget
    assert over_budget(refused) == reference
    assert len(refused.notes) == 1, "the refusal says it"
    assert "refused, p95 drift 2.0000 px" in repr(refused)
    assert over_budget(on_kernels(right, right, far, near, reference_too=True)) == usual
    assert over_budget(on_kernels(right, right, far, far, reference_too=True)) == f"{usual}; {reference}"


def test_the_nme_s_budget_holds_on_the_objects_that_were_drawn(on_kernels, monkeypatch):
    """Half of the objects are perfect in both; an NME over all of them would be another one than over those drawn."""
    monkeypatch.setattr(drifts, "MOST", 15)
    right = np.full((COUNT, 4, 2), 0.5)
    parent = right + np.where(np.arange(COUNT) % 2, 1 / 64, 0)[:, None, None] * (1, 0)
    made = on_kernels(right, parent, parent, parent, reference_too=True, nme=1e-6)
    assert made.kernels["litert-reference"].nme_parent != made.nme_parent
    assert made.within_budget


def test_of_many_objects_some_are_drawn(on_kernels, monkeypatch):
    monkeypatch.setattr(drifts, "MOST", 15)
    right = np.full((COUNT, 4, 2), 0.5)
    off = right.copy()
    off[..., 0] += (np.arange(COUNT) / 64)[:, None]
    made = on_kernels(right, right, off, off, px=100.0)
    usual, reference = made.kernels.values()
    assert usual.drift == reference.drift != made.drift
    assert usual.nme == pytest.approx(reference.nme)
    assert (usual.count, made.count) == (15, COUNT)
    assert "(on 15 objects, drawn at random)" in str(made)


def test_kernels_that_cannot_run_a_file_are_noted(on_kernels, monkeypatch):
    def refuse(*_, **__):
        raise ModelFileError("child.tflite: LiteRT cannot open this file: Didn't find op")

    right = np.full((COUNT, 4, 2), 0.5)
    monkeypatch.setattr(drifts, "predict_dataset", refuse)
    made = on_kernels(right, right, right, right)
    assert made.kernels == {}
    assert made.notes[1].startswith("not measured on LiteRT's reference kernels: child.tflite: LiteRT cannot open")
    with pytest.raises(ModelFileError, match="LiteRT cannot open"):
        on_kernels(right, right, right, right, reference_too=True)


# ---- a real one


def test_an_export_s_certificate_lies_beside_it_and_holds_again(exported_finder, finder_file: Path, make_colours):
    path = exported_finder("litert", "int8")
    beside = msgspec.json.decode(certificate_path(path).read_bytes(), type=Certificate)
    assert certificate_path(path).with_suffix(".md").read_text() == certificate_page(beside)
    assert (beside.child_sha256, beside.parent_sha256) == (sha256(path), sha256(finder_file))
    assert beside.bytes == path.stat().st_size
    assert beside.calibration == Calibration(64, 0, make_colours(64, 11, "calibration").identity())
    assert beside.operators["CONV_2D"] == 33
    assert list(beside.kernels) == ["litert", "litert-reference"]
    usual, reference = beside.kernels.values()
    assert (usual.count, usual.drift, usual.nme) == (32, beside.drift, pytest.approx(beside.nme_child, rel=1e-9))
    assert reference.count == 32
    assert reference.drift != usual.drift
    assert abs(reference.drift.p95 - usual.drift.p95) < 1  # px of 64; measured 0.05
    again = certify(path, finder_file, make_colours(32, 9), Budget(beside.budget))
    moment = {"created": beside.created, "latency": beside.latency}
    assert msgspec.structs.replace(again, **moment) == beside
    assert Predictor(path).spec.certificate == summary(beside)
    assert certificate_doubt(path) is None
    assert again.notes == ()
    assert again.nme_change != 0
    other = certify(path, finder_file, make_colours(20, 77), Budget(0.001))
    assert not other.within_budget
    assert other.data != beside.data


def test_a_certificate_that_does_not_fit_is_doubted(tmp_path: Path, make_spec):
    path = tmp_path / "m.tflite"
    write_tflite(path, b"\x1c\0\0\0TFL3", make_spec())
    assert certificate_doubt(path) is None, "there is none"
    certificate_path(path).write_bytes(msgspec.json.encode(made_up(child_sha256=sha256(path))))
    assert certificate_doubt(path) is None
    certificate_path(path).write_bytes(msgspec.json.encode(made_up()))
    assert "is the certificate of another file, not of m.tflite" in certificate_doubt(path)
    certificate_path(path).write_text("{}")
    assert "not a certificate" in certificate_doubt(path)
