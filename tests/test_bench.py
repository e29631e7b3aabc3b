"""The speed benchmarks: each measures and tells, peers answer in turns, and the page is made of figures alone."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

for module in ("torchvision", "PIL", "timm", "tensorflow"):
    pytest.importorskip(module, reason="benchmarks need both frameworks and Pillow")

import bench
import gpu
import growth
import inference
import peers
import pipeline
import predictor
import rounds
import scaling
import startup
import step
import training

from keylite.runtime.geometry import crop_box
from keylite.runtime.images import image_size

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"bench": bench} | {
    script.__name__: script
    for script in (pipeline, step, training, growth, gpu, inference, predictor, startup, scaling)
}
FIGURES = ROOT / "docs/benchmarks.json"


# ---- what is measured


def measured(script: Any, flags: str) -> tuple[dict, str]:
    """The facts of a script as they are kept, and its section."""
    facts = json.loads(json.dumps(script.measure(script.parser().parse_args(shlex.split(flags)))))
    return facts, script.section(facts)


def test_what_workers_make_is_measured(tmp_path: Path):
    choices = gpu.parser().parse_args(["--size", "64", "--batch", "2", "--images", "32", "--workers", "1"])
    assert gpu.loaded(pipeline.gauge_files(tmp_path, 32), choices, 1) > 0
    with pytest.raises(ValueError, match="--images: expected at least 16384"):
        gpu.loaded(pipeline.gauge_files(tmp_path, 2), gpu.parser().parse_args(["--batch", "128", "--images", "2"]), 16)


def test_the_gpu_is_told_of():
    row = {"images_per_second": 900.0, "busy": 88.4, "made": 12345.6}
    facts = {
        "gpu": "A GPU",
        "size": 224,
        "precision": "bf16",
        "batch": 128,
        "images": 9,
        "bare": 1000.0,
        "rows": {"8": row},
    }
    assert "| 8 | 900 | 0.90 | 88 % | 12346 |" in gpu.section(facts)


def here(make: Any, *given: Any, threads: int = 1) -> Any:
    """A row in this process: one of its own, as in a measurement, costs a start-up of PyTorch."""
    return contextlib.nullcontext(make(*given))


def test_growth_is_measured(tiny_for_lite0: None, monkeypatch: pytest.MonkeyPatch):
    own = growth.alone
    monkeypatch.setattr(
        growth, "alone", lambda *row, threads: (here if row[1].processes == 1 else own)(*row, threads=threads)
    )
    two = "2 processes of 1 thread, batch 8 each"
    facts, told = measured(growth, f"--rounds 1 --steps 1 --rows '{two}'")
    assert list(facts["rows"]) == [growth.BASE, two]
    assert facts["rows"][growth.BASE]["ratio"] == 1
    assert f"| {two} |" in told


def test_the_pipeline_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "COPIES", 1)
    monkeypatch.setattr(pipeline, "alone", here)
    facts, told = measured(pipeline, "--rounds 1 --images 2 --scenes 2 --boxes 48 512 --size 64")
    whole, small, large = facts["cases"]
    assert (whole["averaged"], small["averaged"], large["averaged"]) == (2, 1, 8)  # 192, 60 and 640 px to 64
    assert "grown by 25%, 32 per round; the cache keeps them averaged by 8:" in told
    assert told.count("| keylite, default augmentation, cached |") == 3
    chances = (
        "brightness 0.3, contrast 0.3, saturation 0.2, hue 0.2, grey 0.2, blur 0.2, noise 0.2, jpeg 0.2, occlude 0.2"
    )
    assert chances in told.replace("\n", " ")
    assert "Other libraries" not in told


@pytest.fixture
def eagerly():
    """A step is over before its graph is made."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_a_step_is_measured(eagerly: None, monkeypatch: pytest.MonkeyPatch):
    rows = {name: make for name, make in step.ROWS.items() if "compiled" not in name}  # a compiler takes a minute
    monkeypatch.setattr(step, "ROWS", rows)
    monkeypatch.setattr(step, "alone", here)
    facts, told = measured(step, "--rounds 1 --steps 1 --batch 2 --size 32")
    assert list(facts["batches"]["2"]) == list(rows)
    assert "Batches of 2:" in told


def test_training_is_measured(tiny_for_lite0: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "ROWS", {"not compiled": "off"})
    facts, told = measured(training, "--steps 7 --batch 2 --size 32")
    row = facts["rows"]["not compiled"]
    assert row["steps"] == 2 and sum(row["shares"].values()) == pytest.approx(1)
    assert row["images_per_second"] == pytest.approx(2e3 / row["step_ms"])
    assert "| step | images/s | ms | data | forward | backward | optimizer | logging |" in told


def test_inference_is_measured(onnx_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inference, "model_files", lambda *_: {inference.BASE: onnx_file})
    facts, told = measured(inference, "--rounds 1 --runs 3")
    (row,) = facts["rows"].values()
    assert (row["ratio_of_each_round"], row["bytes"]) == ([1], onnx_file.stat().st_size)
    assert row["ms"]["engine"] < row["ms"]["total"]
    assert "1 rounds of 3 images" in told.replace("\n", " ")


def test_one_network_becomes_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []  # tests of the exporters make real ones

    def export(parent: Path, out: Path, spec: Any, images: Any) -> None:
        made.append((parent.name, out.name, spec.precision, spec.calibration.count, images.pixels.shape))

    monkeypatch.setattr(predictor, "export", lambda *_: None)
    monkeypatch.setattr(inference, "exporter", lambda target: SimpleNamespace(export=export))
    assert list(inference.model_files(tmp_path, (64, 64))) == ["onnx fp32", "onnx int8", "litert int8"]
    assert made == [("random.safetensors", name, "int8", 16, (16, 64, 64, 3)) for name in ("int8.onnx", "int8.tflite")]


def test_the_predictor_is_measured(onnx_file: Path):
    flags = f"--rounds 1 --images 1 --threads 1 --side 64 --memory 3 --model {onnx_file}"
    facts, told = measured(predictor, flags)
    assert list(facts["streams"]) == ["1"]
    assert list(facts["memory"]) == ["100", "3"]
    assert f"64 px per round, {onnx_file.name}, 1 thread(s)" in told
    assert "MB for 3 images" in told


def test_a_start_is_measured():
    facts, told = measured(startup, "--rounds 1")
    assert list(facts["rows"]) == list(startup.COMMANDS)
    assert facts["rows"][startup.BASE]["ratio"] == 1
    assert told.count("| `python -") == 4


def test_labels_are_told():
    step_of = {"seconds": 2, "cpu_seconds": 1, "peak": None, "cpu_seconds_ratio": 0.5, "peak_ratio": None}
    facts = {"annotations": 2000, "images": 800, "megabytes": 1.2, "pictures": 4, "rounds": 3}
    told = scaling.section(facts | {"rows": {"split": step_of | {"ratio_of_each_round": [0.5, 0.25]}}})
    assert "| split | 2.00 | 1.00 |  | 0.50 |  | 0.50 0.25 |" in told


def test_a_script_prints_its_part_and_keeps_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture):
    rounds.tell(startup, ["--rounds", "1", "--json", str(tmp_path / "facts.json")])
    facts = json.loads((tmp_path / "facts.json").read_text())
    out = capsys.readouterr().out
    assert out.startswith("## Import and start-up\n")
    assert startup.section(facts) in out


def test_rows_take_turns_and_may_tell_their_own_time():
    called = []
    rows = {"a": lambda number: called.append(("a", number)), "b": lambda number: called.append(("b", number)) or 0.25}
    seconds = rounds.interleaved(rows, steps=2, rounds=2)
    assert called == [(name, number) for number in range(6) for name in "ab"]  # the first two warm up
    assert seconds["b"] == [0.5, 0.5]
    assert all(0 <= value < 0.25 for value in seconds["a"])


def test_small_boxes_lie_inside_their_images(tmp_path: Path):
    data = pipeline.scene_files(tmp_path, 3, 512)
    assert {image_size(path) for path in data.images} == {(1280, 720)}
    assert (data.box[:, 2:] - data.box[:, :2] == 512).all()
    assert (data.xy > data.box[:, None, :2]).all()
    assert (data.xy < data.box[:, None, 2:]).all()
    regions = np.array(pipeline.regions_of(data, 128, "annotation"))
    assert (regions[:, :2] >= 0).all()
    assert (regions[:, 2:] <= (1280, 720)).all()
    for box, region in zip(data.box, regions, strict=True):
        corners = crop_box(box, (128, 128), 0.25).to_image(np.array([[0, 0], [128, 128]]))
        np.testing.assert_allclose(region, corners.ravel(), atol=1e-9)  # 640 px: whole ones
    assert pipeline.regions_of(data, 128, "image") is None


# ---- peers

STUB = """
import json, sys
task = json.loads(sys.stdin.readline())
print(json.dumps({"stub": task["of"]}), flush=True)
for line in sys.stdin:
    number = int(line)
    if number == 9:
        sys.exit(3)
    print(number / 8, flush=True)
"""


def test_a_peer_answers_with_its_seconds():
    with peers.Peer([sys.executable, "-c", STUB], {"of": "1.0"}) as peer:
        assert peer.versions == {"stub": "1.0"}
        assert [peer(number) for number in (3, 4)] == [0.375, 0.5]
        assert rounds.interleaved({"own": lambda _: None, "peer": peer}, 1, 2)["peer"] == [0.125, 0.25]
        with pytest.raises(RuntimeError, match="the process ended with 3"):
            peer(9)


def made_by(calls: list[int]) -> Any:
    def make(task: dict) -> Any:
        side = task["pixels"]

        def item(number: int) -> tuple[np.ndarray, np.ndarray]:
            calls.append(number)
            return np.zeros((side, side, 3), np.uint8), np.zeros((4, 2))

        return item

    return make


@pytest.mark.parametrize(("side", "words"), [(8, ""), (9, "expected uint8 pixels of the input")])
def test_the_process_of_a_peer(side: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    calls: list[int] = []
    monkeypatch.setitem(peers.MAKERS, "stub", made_by(calls))
    monkeypatch.setitem(peers.PINS, "stub", (f"numpy=={np.__version__}",))
    task = {"paths": ["a", "b", "c"], "batch": 2, "size": 8, "pixels": side}
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{json.dumps(task)}\n0\n1\n"))
    if words:
        with pytest.raises(ValueError, match=words):
            peers.serve("stub")
        return
    peers.serve("stub")
    versions, *seconds = capsys.readouterr().out.splitlines()
    assert json.loads(versions) == {"numpy": np.__version__}
    assert calls == [0, 1, 2, 0]  # past the end, the first again
    assert [float(value) > 0 for value in seconds] == [True, True]


def test_peers_know_nothing_of_keylite():
    code = "import sys; sys.path.append(sys.argv[1]); import peers; print([n for n in sys.modules if 'keylite' in n])"
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_peers_are_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        ran.append(command)
        refused = any(word.startswith("mmpose") for word in command)
        return SimpleNamespace(returncode=int(refused), stderr="x\nImportError: no pip\nnote: it is not pip's\n")

    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(peers.subprocess, "run", run)
    failed = peers.installed()
    assert list(failed) == ["mmpose"]
    assert failed["mmpose"].endswith("ends with `ImportError: no pip`")
    assert len(ran) == 1 + len(peers.PINS) + len(peers.ALONE)
    assert [command[5] for command in ran[1:]].count("--no-deps") == len(peers.ALONE)
    assert {*peers.PINS["torchvision v2"], *peers.PINS["albumentations"]} <= {*ran[2]}  # a later one fits the earlier
    assert peers.installed() == failed
    assert len(ran) == 1 + len(peers.PINS) + len(peers.ALONE)
    monkeypatch.setitem(peers.PINS, "albumentations", ("albumentations==0",))
    peers.installed()
    assert len(ran) == 2 * (1 + len(peers.PINS) + len(peers.ALONE))


def test_pins_are_exact_and_peers_have_notes():
    assert all(
        re.fullmatch(r"[\w-]+==[\d.]+", pin) for pins in (*peers.PINS.values(), *peers.ALONE.values()) for pin in pins
    )
    assert set(peers.NOTES) == set(peers.LIKE) == set(peers.MAKERS) == set(peers.PINS) >= set(peers.ALONE)


# ---- the page


@pytest.fixture
def parts() -> dict[str, Any]:
    """The committed figures."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_committed_figures(parts: dict[str, Any]):
    assert list(parts) == list(bench.PARTS)
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert bench.page(parts) == page, "run: python benchmarks/bench.py --page"


def sevens(value: Any) -> Any:
    """The same with every number 7."""
    if isinstance(value, dict):
        return {key: sevens(one) for key, one in value.items()}
    if isinstance(value, list):
        return [sevens(one) for one in value]
    return 7 if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_no_figure_is_typed(parts: dict[str, Any]):
    of_sevens = {name: part | {"facts": sevens(part["facts"])} for name, part in parts.items()}
    cells = {cell for row in re.findall(r"^\|(.*)\|$", bench.page(of_sevens), re.MULTILINE) for cell in row.split("|")}
    numbers = {word for cell in cells if re.fullmatch(r"[\d. ]+", cell) for word in cell.split()}
    assert numbers == {"7", "7.0", "7.00", "7000", "0.00"}  # 7 s in ms, 7 bytes in MB


def test_the_page_says_how_busy_the_machine_was(parts: dict[str, Any]):
    for part in parts.values():
        part["load"]["first"] = 0.2
    assert bench.BUSY not in bench.page(parts).replace("\n", " ")
    parts["startup"]["load"]["first"] = 3.0
    told = bench.page(parts).replace("\n", " ")
    assert "measured: 0.2 and 3.0." in told
    assert bench.BUSY in told


def test_some_parts_are_measured_and_the_others_kept(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, asked = tmp_path / "page.md", []

    def measured(name: str, flags: tuple[str, ...], load: float) -> Any:
        asked.append((name, "--peers" in flags))
        return parts[name]

    monkeypatch.setattr(bench, "measured", measured)
    bench.main(["--out", str(out), "--only", "startup", "pipeline", "--peers"])
    assert asked == [("pipeline", True), ("startup", False)]
    assert re.findall("^## (.*)", out.read_text(), re.MULTILINE) == [pipeline.TITLE, startup.TITLE]
    bench.main(["--out", str(out), "--only", "step"])
    assert re.findall("^## (.*)", out.read_text(), re.MULTILINE) == [pipeline.TITLE, step.TITLE, startup.TITLE]
    made = out.read_text()
    out.unlink()
    bench.main(["--out", str(out), "--page"])
    assert out.read_text() == made
    parts["scaling"]["facts"]["machine"] = "another"
    bench.main(["--out", str(out), "--only", "scaling"])
    assert re.findall("^## (.*)", out.read_text(), re.MULTILINE) == [scaling.TITLE]  # the others were of this machine


def test_a_page_of_no_figures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--out", str(tmp_path / "page.md"), "--page"])
    assert "expected the figures of a run in" in capsys.readouterr().err


def test_a_part_runs_in_a_process_of_its_own():
    found = bench.measured("startup", ("--rounds", "1"), 0.5)
    assert found["command"] == "python benchmarks/startup.py --rounds 1"
    assert (found["load"]["first"], found["facts"]["rounds"]) == (0.5, 1)
    assert startup.section(found["facts"])


@pytest.mark.parametrize("name", bench.PARTS)
def test_the_short_form_parses_and_has_rounds_enough(name: str):
    flags = [*bench.PARTS[name], *(["--peers"] if name == bench.PEERED else [])]
    choices = SCRIPTS[name].parser().parse_args(flags)
    assert getattr(choices, "rounds", 5) >= 5  # shares of one run have none


README = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(rf"^ *python benchmarks/({'|'.join(SCRIPTS)})\.py(.*)$", README, re.MULTILINE)


@pytest.mark.parametrize(("script", "flags"), COMMANDS)
def test_commands_of_the_readme_parse(script: str, flags: str):
    SCRIPTS[script].parser().parse_args(shlex.split(flags, comments=True))


def test_the_readme_shows_every_script():
    assert {script for script, _ in COMMANDS} == set(SCRIPTS)
