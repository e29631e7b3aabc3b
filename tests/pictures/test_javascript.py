"""The crop and the decode of the page in JavaScript, run by Node.js, are those of the predictor."""

from __future__ import annotations

import base64
import importlib.resources
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from ports import BOXES

import keylite
from keylite.runtime.geometry import crop_box
from keylite.runtime.heads import HEADS
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import Confidence, DataId, encode_spec

WEB = Path(str(importlib.resources.files("keylite.pictures"))) / "web"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    """A function: (JavaScript that uses `given`, a value) -> what it gives; crop.js and decode.js are imported."""
    program = shutil.which("node") or pytest.skip("needs Node.js")
    folder = tmp_path_factory.mktemp("node")
    for name in ("crop", "decode"):
        shutil.copy(WEB / f"{name}.js", folder / f"{name}.mjs")
    start = 'import fs from "fs"; import * as crop from "./crop.mjs"; import * as decode from "./decode.mjs";\n'
    start += 'const given = JSON.parse(fs.readFileSync("given.json"));\n'
    start += "const image = ({width, height, rgb}) => ({width, height, read: (left, top, w, h) => Uint8Array.from({length: 4 * w * h},"
    start += " (_, i) => i % 4 === 3 ? 255 : rgb[3 * ((top + Math.floor(i / 4 / w)) * width + left + Math.floor(i / 4) % w) + i % 4])});\n"

    def run(code: str, given: object):
        (folder / "given.json").write_text(json.dumps(given))
        (folder / "run.mjs").write_text(f"{start}console.log(JSON.stringify({code}))")
        done = subprocess.run([program, "run.mjs"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def as_json(image: np.ndarray) -> dict[str, object]:
    return {"width": image.shape[1], "height": image.shape[0], "rgb": image.ravel().tolist()}


@pytest.mark.parametrize(("padding", "box"), BOXES.values(), ids=BOXES)
def test_the_crop_is_the_predictor_s(padding: float, box: list[float], node):
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 256, (25, 31, 3), np.uint8), (101, 75))  # odd sides: blocks reach beyond
    expected = crop_box(np.array(box), (40, 32), padding)
    given = {"image": as_json(image), "box": box, "padding": padding}
    code = "(({scale, shiftX, shiftY}) => [scale, shiftX, shiftY])(crop.cropOf(given.box, [40, 32], given.padding))"
    np.testing.assert_allclose(node(code, given), expected.matrix[[0, 0, 1], [0, 2, 2]], rtol=1e-9)
    code = "[...crop.pixelsOf(image(given.image), crop.cropOf(given.box, [40, 32], given.padding), [40, 32])]"
    pixels = np.array(node(code, given)).reshape(32, 40, 3)
    assert np.abs(pixels - expected.warp(image)).max() <= 1  # of 255: other rounding in the warp


def test_a_large_picture_is_read_in_parts(node):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8), (240, 200))
    code = "crop.pixelsOf(image(given), crop.cropOf([0, 0, 240, 200], [24, 24], 0), [24, 24])"
    whole, parts = (node(f"[...{code}]", as_json(image)), crop_box(np.array([0.0, 0.0, 240.0, 200.0]), (24, 24)))
    assert np.abs(np.array(whole).reshape(24, 24, 3) - parts.warp(image)).max() <= 1
    text = (WEB / "crop.js").read_text()
    assert "2 ** 22" in text
    small = text.replace("2 ** 22", "7000")  # pixels that are read at once
    code = f'await import("data:text/javascript;base64,{base64.b64encode(small.encode()).decode()}").then((crop) => [...{code}])'
    assert node(code, as_json(image)) == whole


@pytest.mark.parametrize("head", HEADS)
def test_decode_is_the_head_s(head: str, node, make_spec):
    made = HEADS[head](4, 1, (40, 32))
    spec = make_spec(head=made, size=(40, 32), unlearnt={"chin": 0, "nose": 3})
    raw = np.random.default_rng(0).normal(0, 3, (4, made.channels)).astype(np.float32)
    code = "decode.decode(Float32Array.from(given.raw), given.spec)"
    found = node(code, {"raw": raw.ravel().tolist(), "spec": json.loads(encode_spec(spec))})
    xy, score = made.decode(raw[None])
    assert (found["x"][3], found["y"][3], found["score"][3]) == (None, None, None)
    np.testing.assert_allclose(np.array([found["x"], found["y"]], float).T[:3], xy[0, :3], atol=1e-5)
    np.testing.assert_allclose(np.array(found["score"], float)[:3], score[0, :3], atol=1e-5)


def test_sigma_is_the_spec_s(node):
    knots = ((0.01, 0.3), (0.5, 0.1), (1.2, 0.04))
    fitted = Confidence((0.5, 0.25, 0.8, 0.6), knots, (1.0, 2.0, 0.5, 1.5), 9, DataId("d", "0" * 64))
    fields = {name: getattr(fitted, name) for name in ("levels", "knots", "factors")}
    for scores in ([0.4, 0.2, 0.7, 0.5], [0.001, 0.9, 0.3, 0.6], [0.4, np.nan, 0.7, 0.1], [9.0, 9.0, 9.0, 9.0]):
        score = [None if np.isnan(value) else value for value in scores]
        code = "decode.sigmas(given.score.map((s) => s ?? NaN), given.fitted, [40, 32], 0.25)"
        found = np.array(node(code, {"score": score, "fitted": fields}), float)
        np.testing.assert_allclose(found, fitted.sigma(np.array(scores)) * 40 / 0.25, rtol=1e-9)
    assert node("decode.sigmas([1], null, [40, 32], 1)", None) == [None]


def test_the_port_passes_the_golden_vectors(node, heatmap_onnx_file: Path, tmp_path: Path):
    data = keylite.gauges(2, size=96)
    spec = read_spec(heatmap_onnx_file)
    facts = json.loads(keylite.write_golden(heatmap_onnx_file, _with_names(data, spec), tmp_path, 2).read_text())
    for row, case in enumerate(facts["cases"]):
        given = {
            "image": as_json(data.read_image(row)),
            "box": data.box[row].tolist(),
            "raw": np.ravel(case["raw"]).tolist(),
        }
        given["spec"] = json.loads(encode_spec(spec))
        code = """(() => {
            const {spec} = given, place = crop.cropOf(given.box, spec.size, spec.padding);
            const {x, y} = decode.decode(Float32Array.from(given.raw), spec);
            const xy = x.map((unitX, k) => crop.imagePoint(unitX, y[k], place, spec.size));
            return {xy, pixels: [...crop.pixelsOf(image(given.image), place, spec.size)]};
        })()"""
        found = node(code, given)
        np.testing.assert_allclose(found["xy"], case["xy"], atol=1e-3)
        stored = np.fromfile(tmp_path / f"{case['crop']}.bin", np.uint8)
        assert np.abs(np.array(found["pixels"]) - stored).max() <= 1


def _with_names(data: keylite.Dataset, spec: keylite.ModelSpec) -> keylite.Dataset:
    """Gauges, which have four points, with the names of a model's."""
    return keylite.from_arrays(
        list(map(data.read_image, range(len(data)))), data.xy, skeleton=spec.skeleton, boxes=data.box
    )
