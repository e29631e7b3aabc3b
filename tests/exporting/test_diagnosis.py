"""Where int8 hurts and what helps: every variant tried or named, layers in order, a spoilt calibration shown.

LiteRT's half converts a network half a dozen times: a minute. What is held to figures is drift and clipping; a random
network tells nothing about accuracy.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.exporting.calibration import OUTSIDE, calibration_set, range_doubt, some_crops
from keylite.exporting.diagnosis_report import Cost, Diagnosis, Layer, Trial
from keylite.runtime.engines import ENGINES
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import Calibration, DataId

FORMATS = {"onnx": "keylite.pytorch.workshop", "litert": "keylite.tensorflow.workshop"}
COUNT = 40


def examiner(to: str):
    for package in ("torch", "onnxruntime") if to == "onnx" else ("torch", "tensorflow", "ai_edge_litert"):
        pytest.importorskip(package, reason="needs keylite[pytorch] and keylite[tensorflow]")
    return importlib.import_module(FORMATS[to])


def dataset(skeleton, contrast: int, name: str):
    """Images of noise, the kind that the random model's statistics are of, or of grey, which is 0 to a network."""
    rng = np.random.default_rng(3)
    images = [(127 + contrast * rng.uniform(-1, 1, (64, 64, 3))).astype(np.uint8) for _ in range(COUNT)]
    xy = rng.uniform(16, 48, (COUNT, 4, 2))
    return from_arrays(images, xy, skeleton=skeleton, boxes=np.tile([8.0, 8, 56, 56], (COUNT, 1)), name=name)


@pytest.fixture(scope="module")
def model_file(tiny_file: Path) -> Path:
    return tiny_file


@pytest.fixture(scope="module")
def onnx_file(tiny_onnx_file: Path) -> Path:
    return tiny_onnx_file


@pytest.fixture(scope="module")
def noise(model_file: Path):
    return dataset(read_spec(model_file).skeleton, 127, "noise")


@pytest.fixture(scope="module")
def grey(model_file: Path):
    return dataset(read_spec(model_file).skeleton, 0, "grey")


@pytest.fixture(scope="module")
def patched(
    model_file: Path, onnx_file: Path, heatmap_file: Path, heatmap_onnx_file: Path, simcc_file: Path, certified_random
):
    """The ONNX graphs that the session has already made, in place of other exports of the same networks."""
    examining, made = examiner("onnx"), {model_file: onnx_file, heatmap_file: heatmap_onnx_file}
    made[simcc_file] = certified_random("onnx", "simcc_file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examining, "float_graph", lambda parent, *_: importlib.import_module("onnx").load(made[parent]))
        yield


def diagnosed(to: str, model: Path, data, calibration, **choices):
    from keylite.exporting import diagnosis

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "COUNTS", (16, 500) if to == "onnx" else (500,))
        return diagnosis.diagnose(model, data, to=to, calibration=calibration, calibration_count=24, **choices)


@pytest.fixture(scope="module")
def onnx_found(patched, model_file, noise, grey):
    """Diagnosed with ranges of grey images."""
    return diagnosed("onnx", model_file, noise, grey, budget=0.5)


@pytest.fixture(scope="module")
def litert_found(model_file, noise):
    """Diagnosed with ranges of images of the right kind; a wide budget, for the network is random."""
    examiner("litert")
    return diagnosed("litert", model_file, noise, noise, budget=60.0, budget_nme=9.0)


# ---- the tables


TRIED = {  # in words of the table: (images, whether there are figures)
    "onnx": {
        "minimum and maximum, weights per channel": (24, True),
        "ranges of 99.999 % of the values": (24, True),
        "last layer in int8, too": (24, True),
        "first convolution in float": (24, True),
        "one scale for all weights of a layer": (24, True),
        "fewer images": (16, True),
        "more images": (500, False),
        "fp32 in place of int8": (None, True),
    },
    "litert": {
        "minimum and maximum, weights per channel": (24, True),
        "percentile calibration": (None, False),
        "last layer in int8, too": (24, True),
        "first convolution in float": (24, True),
        "one scale for all weights of a layer": (24, True),
        "more images": (500, False),
        "fp32 in place of int8": (None, True),
        "fp16 in place of int8": (None, True),
    },
}


@pytest.mark.parametrize("to", FORMATS)
def test_the_table_is_complete(to: str, request):
    found = request.getfixturevalue(f"{to}_found")
    assert {trial.words: (trial.images, trial.cost is not None) for trial in found.trials} == TRIED[to]
    for trial in found.trials:
        assert trial.cost or trial.note, "what is not possible says why"
        assert trial.exportable or trial.note, "what export does not make says by what"
        if trial.cost:
            assert np.isfinite([trial.cost.drift_mean, trial.cost.drift_p95, trial.cost.nme, trial.cost.ratio]).all()
            assert 0 < trial.cost.drift_mean <= trial.cost.drift_p95 or trial.precision == "fp32"
    by_words = {trial.words: trial.cost for trial in found.trials if trial.cost}
    usual, fp32 = by_words[next(iter(TRIED[to]))], by_words["fp32 in place of int8"]
    assert fp32.drift_p95 < 0.01, "the reference is the network itself"
    assert (
        usual.bytes < 0.4 * fp32.bytes
    )  # measured 0.38 and 0.37 of a tiny network, whose description weighs; lite0 under 0.35
    assert by_words["one scale for all weights of a layer"].bytes < usual.bytes, "fewer scales"
    assert by_words["first convolution in float"] != usual


@pytest.mark.parametrize("to", FORMATS)
def test_layers_come_from_input_to_output(to: str, request):
    layers = request.getfixturevalue(f"{to}_found").layers
    names = [layer.name for layer in layers]
    assert names[:3] == ["conv_stem", "blocks.0.0.conv_dw", "blocks.0.0.conv_pw"]
    assert names.index("blocks.5.1.conv_pwl") < names.index("blocks.5.1.add") < names.index("blocks.6.0.conv_pw")
    assert names.index("conv_head") < names.index("head.hidden")
    assert len([name for name in names if ".conv_" in name or name.startswith("conv_")]) == 25
    assert len(set(names)) == len(names)
    assert sum(layer.hurts for layer in layers) == 5
    assert max(layer.own for layer in layers if layer.hurts) <= min(layer.own for layer in layers if not layer.hurts)


def test_litert_ranges_of_the_right_kind_clip_little_and_the_default_is_the_cheapest(litert_found):
    assert litert_found.doubt is None
    assert max(layer.clipped for layer in litert_found.layers) < 10 * OUTSIDE, "24 images; 0.0013 measured"
    assert litert_found.layers[0].signal_to_noise > 30, "a convolution with weights per channel"
    assert all(layer.held[0] <= 0 < layer.held[1] for layer in litert_found.layers)
    assert litert_found.cheapest is litert_found.trials[0]


def test_ranges_of_grey_images_show_as_clipping_drift_and_doubt(onnx_found):
    assert "of the values of layer" in onnx_found.doubt and "24 objects of grey" in onnx_found.doubt
    assert max(layer.clipped for layer in onnx_found.layers) > 10 * OUTSIDE
    usual = onnx_found.trials[0]
    assert usual.cost.drift_p95 > 5
    assert not onnx_found.within(usual)
    assert onnx_found.cheapest.precision == "fp32", "no int8 file is within the budget"


def test_nothing_is_cheapest_if_nothing_is_within_the_budget(onnx_found):
    from keylite.exporting.diagnosis import _cheapest

    assert _cheapest([]) is None
    assert _cheapest([trial for trial in onnx_found.trials if not trial.exportable]) is None
    assert _cheapest([trial for trial in onnx_found.trials if trial.exportable]) is onnx_found.trials[0]


@pytest.mark.parametrize("to", FORMATS)
def test_the_page_has_it_all(to: str, request):
    from keylite.exporting.diagnosis_report import diagnosis_page

    found = request.getfixturevalue(f"{to}_found")
    page = diagnosis_page(found, "keylite export here")
    for layer in found.layers:
        assert page.count(f"| {layer.name} |") == 1
    for words in TRIED[to]:
        assert f"| {words} |" in page
    assert page.count("| **!** |") == 5
    assert page.count("not possible: ") == sum(not made for _, made in TRIED[to].values())
    assert "```\nkeylite export here\n```" in page
    assert (f"**{found.doubt}.**" in page) == (found.doubt is not None)
    assert page.startswith(str(found).rstrip())


def made_up(possible: bool) -> Diagnosis:
    """One layer, and two trials of which one is within the budget."""
    costs = [Cost(0.1, drift, 0.05, 0.5, 10**6) for drift in (0.4, 1.2)]
    trials = tuple(Trial(f"<b>{n}", "int8", 16, "", True, n == 0, cost) for n, cost in enumerate(costs))
    layer = Layer("head.<i>", "Conv", -1.0, 6.0, (-1.0, 5.5), 0.01, 30.0, None, True)
    return Diagnosis(
        model="m.safetensors", to="onnx", suffix=".onnx", data=DataId("val", "0" * 64), count=40, looked_at=24,
        calibration=Calibration(16, 0, DataId("train", "f" * 64)), nme=0.05, normalize="box_diagonal", size=(64, 64),
        budget=1.0, budget_nme=None, layers=(layer,), trials=trials, cheapest=trials[0] if possible else None, doubt="a < b",
    )  # fmt: skip


def test_a_diagnosis_prints_its_page_without_a_command():
    found = made_up(possible=True)
    assert repr(found) == "Diagnosis(m.safetensors in int8, onnx: 1 layer, 2 trials; within the budget: <b>0, int8)"
    assert str(found).endswith("## The cheapest within the budget (p95 drift 1 px)\n\n<b>0, int8.\n")
    assert str(made_up(possible=False)).endswith("\n\nNothing that keylite export makes is within the budget.\n")
    shown = found._repr_html_()
    assert shown.count("<table>") == 2
    for words in ("a &lt; b", "head.&lt;i&gt;", "&lt;b&gt;1"):
        assert words in shown
    assert "<b>" not in shown


def test_a_diagnosis_as_plain_values():
    found = made_up(possible=True)
    layer = dataclasses.replace(found.layers[0], signal_to_noise=float("inf"))
    written = dataclasses.replace(found, layers=(layer,)).to_dict()
    assert written == json.loads(dataclasses.replace(found, layers=(layer,)).to_json())
    assert (written["layers"][0]["signal_to_noise"], written["layers"][0]["held"]) == (None, [-1.0, 5.5])
    assert written["cheapest"] == written["trials"][0]


# ---- one file at a time


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_alone_tells_when_its_ranges_do_not_fit(to: str, patched, model_file, noise, grey, tmp_path):
    examining, spec = examiner(to), read_spec(model_file)
    looked_at, held_to = some_crops(spec, noise), some_crops(spec, noise, 32)
    workshop = examining.Workshop(model_file, spec, tmp_path, looked_at[:8])
    right = Predictor(model_file).run(held_to)[0]
    moved = {}
    for data in (grey, noise) if to == "onnx" else (grey,):  # LiteRT's diagnosis above is of ranges that fit
        path = tmp_path / f"{data.name}{ENGINES[to].suffix}"
        calibration = calibration_set(spec, data, 24)
        workshop.make(path, "int8", calibration)
        assert read_spec(path).calibration == calibration.facts
        moved[data.name] = np.abs(Predictor(path).run(held_to)[0] - right).mean()
        doubt = range_doubt(examining.watch(path, looked_at), calibration.facts, "val")
        assert (doubt is None) == (data is noise), doubt
    assert moved["grey"] > 1.3 * moved.get("noise", 0.01)


OTHER_HEADS = {  # file: the variant that its default is not
    "heatmap_file": "last-float",  # its last layer, a convolution, is int8
    "simcc_file": "last-int8",  # its last layer, a dense one, is float
}


@pytest.mark.parametrize(("file", "variant"), OTHER_HEADS.items())
def test_layers_of_other_heads_are_named_too(file, variant, patched, noise, request, tmp_path):
    model = request.getfixturevalue(file)
    examining, spec = examiner("onnx"), read_spec(model)
    pixels = some_crops(spec, noise, 4)
    workshop = examining.Workshop(model, spec, tmp_path, pixels)
    assert {"last-float", "last-int8"} & workshop.variants.keys() == {variant}
    child, reference = tmp_path / "child.onnx", tmp_path / "reference.onnx"
    calibration = calibration_set(spec, noise, 16)
    workshop.make(child, "int8", calibration)
    workshop.make(reference, "fp32")
    seen = next(examining.watch(child, pixels, reference))
    names = [activation.layer for activation in seen]
    assert names[0] == "conv_stem" and names[-1] == "head.maps"
    other = tmp_path / "other.onnx"
    workshop.make(other, "int8", calibration, variant)
    assert (len(examining.quantised(importlib.import_module("onnx").load(other))) > len(names)) == (
        variant == "last-int8"
    )
    assert workshop.own_noise(child, calibration).keys() == set(names)
    assert all(activation.values.shape == activation.reference.shape for activation in seen)


def test_export_warns_of_ranges_that_do_not_fit(patched, model_file, noise, grey, tmp_path, caplog, monkeypatch):
    from keylite.exporting import export as exports

    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])  # the command line's, of another test
    monkeypatch.setattr(exports, "_reference", lambda *given: None)
    for data, warned in ((noise, False), (grey, True)):
        caplog.clear()
        exports.export(
            model_file, noise, tmp_path / f"{data.name}.onnx", precision="int8", calibration=data,
            calibration_count=24, budget=1000.0,
        )  # fmt: skip
        said = [record for record in caplog.records if "calibration: " in record.getMessage()]
        assert len(said) == warned
        assert all(record.levelno == logging.WARNING and "\n" not in record.getMessage() for record in said)


def test_ends_of_relu6_are_no_doubt(model_file, noise):
    from keylite.exporting.calibration import Activation

    facts = calibration_set(read_spec(model_file), noise, 16).facts
    values = np.repeat([0.0, 6.0, 3.0], 100)
    assert range_doubt([[Activation("a", "Conv", 0.0, 6.0, values, None)]], facts, "val") is None
    assert "33 % of the values of layer a" in range_doubt(
        [[Activation("a", "Conv", -1.0, 6.0, values - 1, None)]], facts, "val"
    )
    assert "33 % of the values of layer a" in range_doubt(
        [[Activation("a", "Conv", 0.0, 4.0, values - 2, None)]], facts, "val"
    )


# ---- bad input


WRONG = {
    "no int8": (["--to", "litert"], "the only precision that it examines, got 'fp32'"),
    "no calibration": (["--to", "onnx", "--precision", "int8"], "calibration: int8 takes its ranges from images"),
    "all formats": (
        ["--to", "all", "--precision", "int8"],
        "to: --diagnose is for one format: expected onnx or litert, got all",
    ),
    "no format": (["--precision", "int8"], "to: --diagnose is for one format: expected onnx or litert, got none"),
    "an unknown format": (["--to", "tensorrt", "--precision", "int8", "--calibration", "LABELS"], "expected one of"),
    "too few images": (
        ["--to", "onnx", "--precision", "int8", "--calibration", "LABELS", "--calibration-count", "8"],
        "at least 16",
    ),
}


@pytest.mark.parametrize(("flags", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line(flags, words, model_file, noise, tmp_path, capsys):
    examiner("onnx")
    from keylite.cli import main
    from keylite.data.formats.reading import write_dataset

    labels = str(write_dataset(noise.subset(np.arange(20)), tmp_path / "data"))
    flags = [labels if flag == "LABELS" else flag for flag in flags]
    with pytest.raises(SystemExit) as left:
        main(["export", str(model_file), "--data", labels, "--diagnose", *flags])
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in line


def test_out_is_asked_for_where_something_is_exported(model_file, capsys):
    from keylite.cli import main

    with pytest.raises(SystemExit) as left:
        main(["export", str(model_file), "--data", "labels.json"])
    assert left.value.code == 2
    assert "out: expected a file to write" in capsys.readouterr().err


def test_the_command_line_writes_the_page_with_a_command_that_runs(
    patched, model_file, noise, tmp_path, capsys, monkeypatch
):
    from keylite import cli
    from keylite.data.formats.reading import write_dataset
    from keylite.exporting import diagnosis
    from keylite.exporting import export as exports

    monkeypatch.setattr(diagnosis, "COUNTS", ())
    examining = examiner("onnx")
    monkeypatch.setattr(examining, "VARIANTS", {"default": examining.VARIANTS["default"]})
    monkeypatch.setattr(exports, "_reference", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    labels = str(write_dataset(noise, tmp_path / "with space"))
    given = ["export", str(model_file), "--data", labels, "--precision", "int8", "--calibration", labels]
    given += ["--calibration-count", "20", "--seed", "3", "--budget", "60", "--group", "image"]
    with pytest.raises(SystemExit) as left:
        cli.main([*given, "--diagnose", "--to", "onnx", "--out", "page.md"])
    assert left.value.code in (None, 0)
    page = (tmp_path / "page.md").read_text()
    command = page.split("```")[1].strip()
    import shlex

    words = shlex.split(command)
    assert words[:3] == ["keylite", "export", str(model_file)]
    assert words[words.index("--calibration-count") + 1] == "20"
    assert words[words.index("--group") + 1] == "image"
    with pytest.raises(SystemExit) as left:
        cli.main(words[1:])
    assert left.value.code in (None, 0), capsys.readouterr().err
    assert read_spec(tmp_path / "tiny.int8.onnx").calibration.seed == 3
