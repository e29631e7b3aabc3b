"""The documentation is true: links lead somewhere, commands parse, Python runs, tables and names are those of the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import logging
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args, get_type_hints

import cv2
import numpy as np
import pytest
import yaml
from cyclopts import CycloptsError
from others import OTHERS
from ports import BOXES

import keylite
from keylite import cli
from keylite.cli import shared
from keylite.cli.predict import predict
from keylite.cli.train import recipe_of
from keylite.data import mirror, symmetry
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import write_dataset
from keylite.data.formats.tables import EMPTY, FILE_COLUMNS
from keylite.data.labels import GROUP_FIELDS
from keylite.evaluation.figures import PCK_AT
from keylite.evaluation.metrics import DRAWS, FAILURE_LIMIT, FEWEST_GROUPS
from keylite.evaluation.report import Report
from keylite.exporting import targets
from keylite.exporting.calibration import COUNT, FEWEST, LOOKS, OUTSIDE
from keylite.exporting.certificate import Certificate, Latency
from keylite.exporting.drift import MOST, Drift, OnKernels
from keylite.exporting.form import DRIFT_BUDGET
from keylite.exporting.form import FORMATS as EXPORT_FORMATS
from keylite.exporting.golden import CASES, write_golden
from keylite.labels.findings import KINDS
from keylite.prediction import cluster, shards
from keylite.prediction.points import points_line
from keylite.prediction.prelabels import PRELABELS as FORMATS_OF_POINTS
from keylite.runtime.engines import ENGINES, open_engine
from keylite.runtime.geometry import crop_box
from keylite.runtime.heads import HEADS, Head, Regression
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.runtime.modelfile import READERS as SPEC_READERS
from keylite.runtime.modelfile import SEAL, TFLITE_MEMBER
from keylite.runtime.predictor import Found
from keylite.runtime.spec import FORMAT, Calibration, CertificateSummary, ModelSpec, Provenance, encode_spec
from keylite.runtime.stream import READERS
from keylite.training.folder import RESULTS, WITHOUT_EFFECT
from keylite.training.folds import MODEL, REPORT
from keylite.training.folds_report import FoldFigures, FoldReport, FoldsReport, PartReport
from keylite.training.presets import PRESETS
from keylite.training.recipe import AUTO, GEOMETRY, PIXELS, Recipe, make_recipe, to_dict
from keylite.training.schedule import (
    FEWEST_EPOCHS,
    LONGEST_WARMUP,
    MOST_EPOCHS,
    STRENGTHS,
    USUAL_EPOCHS,
    USUAL_OBJECTS,
    WARMUP_SHARE,
    WARMUP_STEPS,
    resolve,
)

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md") for path in sorted(ROOT.glob(pattern))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
GUIDES = (
    *("README.md", "docs/data-formats.md", "docs/check.md"),
    *("docs/recipe.md", "docs/tensorflow.md", "docs/evaluation.md"),
    *(
        "docs/prediction.md",
        "docs/prelabels.md",
        "docs/suggest.md",
        "docs/model-file.md",
        "docs/exporting.md",
        "docs/diagnosis.md",
        "docs/results.md",
    ),
    *("docs/scaling.md", "docs/benchmarks.md", "docs/reliability.md"),
    *("docs/install.md", "docs/command-line.md", "docs/python.md", "docs/glossary.md"),
    *("docs/targets.md", "docs/targets/micro.md"),
    *("docs/targets/raspberry-pi.md", "docs/targets/android.md", "docs/targets/ios.md"),
    *("docs/targets/browser.md", "docs/targets/cpp.md"),
)
(
    README,
    FORMATS,
    CHECK,
    RECIPE,
    TENSORFLOW,
    EVALUATION,
    PREDICTION,
    PRELABELS,
    SUGGEST,
    MODEL_FILE,
    EXPORTING,
    DIAGNOSIS,
    FIGURES,
    SCALING,
    SPEED,
    RELIABILITY,
    INSTALL,
    COMMANDS,
    NETWORK,
    GLOSSARY,
    CHIPS,
    MICRO,
    *TARGETS,
) = GUIDES
CPP = TARGETS[-1]
ANDROID = "docs/targets/android.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every code block in a language."""
    return [(page, text) for page, whole in PAGES.items() for found, text in FENCE.findall(whole) if found == language]


def script(name: str) -> ModuleType:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# ---- links


def anchors(path: Path) -> set[str]:
    """What `#...` may name in a page, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_relative_links_lead_somewhere():
    broken, found = [], 0
    for page, text in PAGES.items():
        for target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = ((ROOT / page).parent / name) if name else ROOT / page
            found += 1
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page}: {target}")
    assert broken == []
    assert found >= 15


def test_the_readme_links_to_every_guide():
    assert set(GUIDES[1:]) | {"ARCHITECTURE.md", "CONTRIBUTING.md"} <= set(LINK.findall(PAGES[README]))


def test_every_guide_leads_to_the_glossary():
    without = {GLOSSARY, SPEED, RELIABILITY}  # the last two use none of its terms
    assert [page for page in GUIDES if "glossary.md" not in PAGES[page] and page not in without] == []


# ---- commands


def shown_commands() -> list[str]:
    lines = [line for _, text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("keylite ")]


def flags_of(verb: str) -> set[str]:
    """--help aside, the long flags of a verb."""
    return {n for argument in cli.app[verb].assemble_argument_collection() for n in argument.names if n[:2] == "--"}


VERBS = [name for name in cli.app if not name.startswith("-")]


@pytest.mark.parametrize("command", shown_commands())
def test_commands_in_blocks_parse(command: str):
    try:
        function, bound, _ = cli.app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)
    except CycloptsError as error:
        pytest.fail(str(error))
    if function.__name__ == "train":  # its flags and --set are text to the parser: the recipe must take them too
        flags = bound.arguments.get("flags")
        given = {name: getattr(flags, name, None) for name in Recipe.__struct_fields__}
        recipe_of(None, bound.arguments.get("set_", ()), given, bound.arguments.get("preset_"))


def test_blocks_show_the_main_road():
    shown = {command.split()[1] for command in shown_commands()}
    assert {"train", "evaluate", "export", "predict"} <= shown <= set(VERBS)


MEASURED = (FIGURES, SCALING, SPEED, "docs/prediction.md")  # pages that quote commands of benchmarks
BENCHMARK_FLAGS = {
    flag for script in ROOT.glob("benchmarks/*.py") for flag in re.findall(r'add(?:_argument)?\(\s*"(--[a-z-]+)"', script.read_text())
}  # fmt: skip


FUZZ_FLAGS = {"--kinds", "--share", "--seed", "--case"}  # of tests/fuzz/run.py
LAUNCHER_FLAGS = {  # of torchrun and srun
    *("--nnodes", "--nproc-per-node", "--node-rank", "--master-addr", "--master-port"),
    *("--ntasks-per-node", "--gpus-per-node"),
}


CONVERTER_FLAGS = {"--model", "--biz"}  # of MNNConvert, up to their capitals


def test_the_page_of_prelabels_lists_every_format():
    assert tuple(re.findall(r"^\| `([a-z][\w-]*)` \|", PAGES[PRELABELS], re.MULTILINE)) == FORMATS_OF_POINTS


@pytest.mark.parametrize("page", GUIDES)
def test_flags_in_lines_exist(page: str):
    of = {verb: flags_of(verb) | {"--help"} for verb in VERBS}
    everywhere = set().union(*of.values(), BENCHMARK_FLAGS if page in MEASURED else ())
    everywhere |= LAUNCHER_FLAGS if page == SCALING else set()
    everywhere |= CONVERTER_FLAGS if page == CHIPS else set()
    everywhere |= FUZZ_FLAGS if page == "docs/reliability.md" else set()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGES[page])) <= everywhere
    for code in re.findall(r"`(keylite[^`]*)`", FENCE.sub("", PAGES[page])):
        verb, *rest = code.split()[1:] or ["info"]
        assert {word for word in rest if word.startswith("--")} <= of[verb], code


def test_the_page_of_the_command_line_lists_every_verb():
    assert sorted(re.findall(r"^\| `keylite (\w+)` \|", PAGES[COMMANDS], re.MULTILINE)) == sorted(VERBS)


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for text in PAGES.values() for name in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)}
    assert {"demo", "test", "check"} <= named <= targets


def test_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for text in PAGES.values() for name in re.findall(r"\.\[([\w-]+)\]", text)}
    assert {"pytorch", "onnx"} <= named <= set(extras)
    table = PAGES[INSTALL].partition("| extra |")[2].partition("\n\n")[0]
    assert {name for name in extras if f"`{name}`" in table} == set(extras)


# ---- code


@pytest.fixture(scope="session")
def objects(onnx_file: Path) -> Dataset:
    """Six objects with the keypoints of `onnx_file`."""
    pytest.importorskip("onnxruntime")
    generator = np.random.default_rng(0)
    return keylite.from_arrays(
        [cv2.resize(generator.integers(0, 256, (12, 16, 3), np.uint8), (160, 120)) for _ in range(6)],
        generator.uniform(30, 90, (6, 4, 2)),
        skeleton=keylite.Predictor(onnx_file).spec.skeleton,
        boxes=np.tile([[20.0, 15.0, 110.0, 105.0]], (6, 1)),
    )


@pytest.fixture(scope="session")
def golden(onnx_file: Path, objects: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of golden vectors of `onnx_file`."""
    return write_golden(onnx_file, objects, tmp_path_factory.mktemp("golden"), 2).parent


@pytest.fixture
def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_file: Path,
    onnx_file: Path,
    objects: Dataset,
    golden: Path,
    float_file: Path,
) -> Path:
    """The folder that the pages assume: labels, a photo, faces.onnx, faces_float.onnx, golden vectors.

    train and export hand out files made before.
    """
    labels = write_dataset(objects, tmp_path)
    for name in ("train", "val", "test"):
        shutil.copy(labels, tmp_path / f"{name}.json")
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), objects.read_image(0)[..., ::-1])
    shutil.copy(onnx_file, tmp_path / "faces.onnx")
    shutil.copy(onnx_file, tmp_path / "four.onnx")  # the name that the golden vectors have
    shutil.copy(float_file, tmp_path / "faces_float.onnx")
    shutil.copytree(golden, tmp_path / "golden")
    signatures = {name: inspect.signature(getattr(keylite, name)) for name in ("train", "train_folds", "export")}

    def train(*values: object, **named: object) -> Path:
        arguments = signatures["train"].bind(*values, **named).arguments
        make_recipe(to_dict(arguments["recipe"]))
        out = tmp_path / arguments["out"]
        out.mkdir(parents=True)
        return Path(shutil.copy(model_file, out / "model.safetensors"))

    def train_folds(*values: object, **named: object) -> SimpleNamespace:
        make_recipe(to_dict(signatures["train_folds"].bind(*values, **named).arguments["recipe"]))
        figures = FoldFigures(0.1, 0.3, 0.1, 1.0, 0.0)
        return SimpleNamespace(mean=figures, std=figures, pooled=keylite.evaluate(model_file, objects))

    def export(*values: object, **named: object) -> SimpleNamespace:
        assert Path(signatures["export"].bind(*values, **named).arguments["model"]).is_file()
        return SimpleNamespace(drift=Drift(0.0, 0.0, 0.0, 0.0), nme_change=0.0)

    monkeypatch.setitem(vars(keylite), "train", train)
    monkeypatch.setitem(vars(keylite), "train_folds", train_folds)
    monkeypatch.setitem(vars(keylite), "export", export)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "text"), blocks("python"), ids=lambda value: value.split("\n")[0][:40])
def test_python_blocks_run(page: str, text: str, desk: Path, request: pytest.FixtureRequest):
    for package in ("torch", "tensorflow", "openvino", "ncnn", "MNN", "tract"):
        if re.search(rf"^ *(import|from) {package}\b", text, re.MULTILINE):
            pytest.importorskip(package)
            if package in ("ncnn", "MNN"):
                OTHERS[package].open(desk / "faces_float.onnx", desk)  # makes the converted file
    if "tensorflow" in text:
        request.getfixturevalue("quick_graphs")
        request.getfixturevalue("tiny_for_lite0")
    exec(compile(text, page, "exec"), {"__name__": page})


def test_pages_show_python():
    assert {page for page, _ in blocks("python")} == {*GUIDES} - {
        DIAGNOSIS,
        FIGURES,
        SCALING,
        SPEED,
        RELIABILITY,
        INSTALL,
        COMMANDS,
        GLOSSARY,
        MICRO,
        *TARGETS[1:],
    }


class Session:
    """Stands in for ONNX Runtime's: a model file of any kind, and the description in it."""

    def __init__(self, path: Path) -> None:
        self.engine, _, spec, _ = open_engine(path)
        self.meta = SimpleNamespace(custom_metadata_map={"keylite": encode_spec(spec)})

    def get_modelmeta(self) -> SimpleNamespace:
        return self.meta

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [self.engine(inputs["pixels"])]


def test_a_heatmap_without_keylite_is_the_predictor_s(desk: Path, heatmap_file: Path, monkeypatch: pytest.MonkeyPatch):
    (text,) = [text for page, text in blocks("python") if page == MODEL_FILE and "onnxruntime" in text]
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda name: Session(heatmap_file))
    found: dict = {}
    exec(text, found)
    points = keylite.Predictor(heatmap_file)("photo.jpg", boxes=[[20, 30, 100, 110]])
    assert np.ptp(points.xy[0], axis=0).min() > 1
    np.testing.assert_allclose(found["xy"], points.xy[0], atol=1e-2)


def test_the_points_without_keylite_are_the_predictor_s(desk: Path):
    (text,) = [text for page, text in blocks("python") if page == MODEL_FILE and "onnxruntime" in text]
    assert "keylite" not in text.replace('["keylite"]', "").partition("#")[0]
    found: dict = {}
    exec(text, found)
    points = keylite.Predictor("faces.onnx")("photo.jpg", boxes=[[20, 30, 100, 110]])
    assert np.ptp(points.xy[0], axis=0).min() > 1
    np.testing.assert_allclose(found["xy"], points.xy[0], atol=1e-3)


def test_a_device_that_is_this_machine_gives_the_golden_points(desk: Path, capsys: pytest.CaptureFixture):
    (text,) = [text for page, text in blocks("python") if page == TARGETS[0] and "golden" in text]
    exec(text, {})
    moved = re.findall(r"^crop_\d: (\d\.\d{4}) px$", capsys.readouterr().out, re.MULTILINE)
    assert [float(px) < 1e-3 for px in moved] == [True, True]


# ---- ports

MAIN = """
#include <iostream>
int main() {
    int width, height, keypoints, channels, columns, rows, bins_x, bins_y, byte;
    double padding;
    std::array<double, 4> box;
    Image image;
    std::cin >> width >> height >> padding >> box[0] >> box[1] >> box[2] >> box[3] >> image.width >> image.height;
    for (int i = 0; i < 3 * image.width * image.height; ++i) std::cin >> byte, image.rgb.push_back(byte);
    std::cin >> keypoints >> channels >> columns >> rows >> bins_x >> bins_y;
    std::vector<float> raw(keypoints * channels);
    for (float& value : raw) std::cin >> value;
    const Crop crop = crop_of(box, width, height, padding);
    std::cout.precision(12);
    for (double value : {crop.scale, crop.shift_x, crop.shift_y}) std::cout << value << ' ';
    for (const Point& point : bins_x    ? decode_bins(raw.data(), keypoints, bins_x, bins_y, crop, width, height)
                              : columns ? decode(raw.data(), keypoints, columns, rows, crop, width, height)
                                        : decode(raw.data(), keypoints, channels, crop, width, height))
        std::cout << point.x << ' ' << point.y << ' ';
    for (int value : pixels_of(image, crop, width, height)) std::cout << value << ' ';
}
"""


KOTLIN_MAIN = """
fun main() {
    val given = System.`in`.bufferedReader().readText().trim().split(" ").iterator()
    fun count() = given.next().toInt()
    fun number() = given.next().toDouble()
    val (width, height) = List(2) { count() }
    val padding = number()
    val box = DoubleArray(4) { number() }
    val (imageWidth, imageHeight) = List(2) { count() }
    val image = Image(imageWidth, imageHeight, ByteArray(3 * imageWidth * imageHeight) { count().toByte() })
    val (keypoints, channels, columns, rows, binsX) = List(5) { count() }
    count()  // bins of y
    val raw = Array(keypoints) { FloatArray(channels) { given.next().toFloat() } }
    val crop = cropOf(box, width, height, padding)
    val xy = when {
        binsX > 0 -> decodeBins(raw, binsX, crop)
        columns > 0 -> decodeMaps(raw, columns, rows, crop)
        else -> decode(raw, crop)
    }
    val pixels = pixelsOf(image, crop).map { it.toInt() and 255 }
    println((listOf(crop.scale, crop.shiftX, crop.shiftY) + xy.flatMap { listOf(it.x, it.y) } + pixels).joinToString(" "))
}
"""


def compiled_cpp(folder: Path) -> list[str]:
    """The command of a program with the code of the C++ page."""
    compiler = shutil.which("g++") or shutil.which("clang++") or pytest.skip("needs a C++ compiler")
    code = next(text for page, text in blocks("cpp") if page == CPP)
    source = folder / "port.cpp"
    source.write_text(code + MAIN, encoding="utf-8")
    strict = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *strict, "-o", folder / "port", source], check=True)
    return [str(folder / "port")]


def compiled_kotlin(folder: Path) -> list[str]:
    """The command of a program with the code of the Android page that needs no Android."""
    compiler, run = (shutil.which(name) or pytest.skip("needs a Kotlin compiler") for name in ("kotlinc", "kotlin"))
    code = next(text for page, text in blocks("kotlin") if page == ANDROID)
    source = folder / "port.kt"
    source.write_text(code + KOTLIN_MAIN, encoding="utf-8")
    subprocess.run([compiler, source, "-d", folder / "port.jar"], check=True, capture_output=True)
    return [run, "-cp", str(folder / "port.jar"), "PortKt"]


@pytest.fixture(scope="session", params=[compiled_cpp, compiled_kotlin], ids=["cpp", "kotlin"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A function: crop (scale, shift x, shift y), points and pixels by the code of a page."""
    command = request.param(tmp_path_factory.mktemp("port"))

    def run(size: tuple[int, int], padding: float, box: list[float], image: np.ndarray, head: Head, raw: np.ndarray):
        parts = [*raw.shape, *getattr(head, "grid", (0, 0)), *getattr(head, "bins", (0, 0))]
        given = [*size, padding, *box, *image.shape[1::-1], *image.ravel(), *parts, *raw.ravel()]
        text = " ".join(map(str, given))
        finished = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        crop, xy, pixels = np.split(np.array(finished.stdout.split(), float), [3, 3 + 2 * len(raw)])
        return crop, xy.reshape(-1, 2), pixels.reshape(size[1], size[0], 3)

    return run


@pytest.mark.parametrize(("padding", "box"), BOXES.values(), ids=BOXES)
def test_a_port_is_the_predictor_s(padding: float, box: list[float], port):
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 256, (25, 31, 3), np.uint8), (101, 75))  # odd sides: blocks reach beyond
    size = (40, 32)
    expected = crop_box(np.array(box), size, padding)
    for make in HEADS.values():
        head = make(3, 1, size)
        raw = generator.normal(0, 3, (3, head.channels)).astype(np.float32)
        crop, xy, pixels = port(size, padding, box, image, head, raw)
        np.testing.assert_allclose(crop, expected.matrix[[0, 0, 1], [0, 2, 2]], rtol=1e-9)
        np.testing.assert_allclose(xy, expected.from_unit(head.decode(raw[None])[0][0]), atol=1e-3)
    assert np.abs(pixels - expected.warp(image)).max() <= 2  # of 255: other rounding


def test_a_port_passes_the_golden_vectors(port, golden: Path, onnx_file: Path, objects: Dataset):
    spec = keylite.Predictor(onnx_file).spec
    facts = json.loads((golden / "golden.json").read_text())
    for row, case in enumerate(facts["cases"]):
        raw, box = np.array(case["raw"], np.float32), objects.box[row].tolist()
        crop, xy, pixels = port(facts["size"], spec.padding, box, objects.read_image(row), Regression(4), raw)
        stored = np.fromfile(golden / f"{case['crop']}.bin", np.uint8).reshape(pixels.shape)
        (across, _, left), (_, _, top) = case["matrix"]  # as the exporting page reads it
        np.testing.assert_allclose(crop, [1 / across, -left / across, -top / across], rtol=1e-6)
        np.testing.assert_allclose(xy, case["xy"], atol=1e-3)
        assert np.abs(pixels - stored).max() <= 2


def test_the_exporting_page_names_all_of_a_golden_file(golden: Path):
    facts = json.loads((golden / "golden.json").read_text())
    table = PAGES[EXPORTING].partition("## Golden vectors")[2]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    assert named == facts.keys() | facts["cases"][0].keys()


def test_targets_name_the_tensors_of_a_file(onnx_file: Path):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(onnx_file))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.type, given.type) == ("tensor(uint8)", "tensor(float)")
    for page in TARGETS:
        assert f"`{taken.name}`, uint8" in PAGES[page], page
        assert f"`{given.name}`, float32" in PAGES[page], page
        if page != TARGETS[0]:  # keylite's own
            code = "".join(text for _, text in FENCE.findall(PAGES[page]))
            assert f'"{taken.name}"' in code and f'"{given.name}"' in code, page


def test_the_table_of_files_is_the_exporters_s():
    made = {(ENGINES[to].suffix, precision) for to, kind in EXPORT_FORMATS.items() for precision in kind.precisions}
    assert set(re.findall(r"^\| `(\.\w+)` \| `(\w+)` \|", PAGES[EXPORTING], re.MULTILINE)) == made


# ---- examples of label files


def test_the_coco_example_reads(desk: Path):
    ((_, text),) = blocks("json")
    (desk / "example.json").write_text(text, encoding="utf-8")
    data = keylite.read_dataset(desk / "example.json")
    assert data.skeleton == keylite.Skeleton(("left_eye", "right_eye", "chin"), ((0, 2), (1, 2)), (1, 0, 2))
    np.testing.assert_array_equal(data.xy, [[[120.5, 130.5], [210.5, 128.5], [np.nan, np.nan]]])
    assert data.box.tolist() == [[80, 60, 280, 300]]
    assert data.groups == ("anna",)


CSV = {
    "numbered": (("k0", "k1"), ("a.jpg", "b.jpg")),
    "named": (("nose", "chin"), ("anna", "ben")),
}


@pytest.mark.parametrize(("word", "text"), list(zip(CSV, [text for _, text in blocks("csv")], strict=True)))
def test_the_csv_examples_read(word: str, text: str, desk: Path):
    (desk / "example.csv").write_text(text, encoding="utf-8")
    data = keylite.read_dataset(desk / "example.csv")
    assert (data.skeleton.names, data.groups) == CSV[word]
    assert data.labelled.tolist() == [[True, True], [True, False]]


def test_the_recipe_example_reads():
    ((_, text),) = blocks("yaml")
    assert make_recipe(yaml.safe_load(text)) == Recipe(
        backbone="lite1",
        size=(160, 128),
        box="image",
        normalize="36,45",
        mirror=(("left_eye", "right_eye"), ("left_ear", "right_ear")),
        epochs=30,
        rotate=40.0,
    )


# ---- facts


def test_the_table_of_choices_is_the_recipe_s():
    tables = script("make_tables")
    assert set(tables.SECTIONS) <= set(Recipe.__struct_fields__)
    assert re.findall(r"^\| `(\w+)` \| [^`]", tables.recipe_tables(), re.MULTILINE) == list(PRESETS)
    assert re.findall(r"^\| `(\w+)` \| `", tables.recipe_tables(), re.MULTILINE) == list(Recipe.__struct_fields__)


def test_every_flag_has_something_that_does_the_same_in_python():
    doors = script("doors")
    assert set(doors.DOORS) == set(cli.VERBS)
    for verb, door in doors.DOORS.items():
        flags = doors.flags(verb)
        assert {name.lower() for name in door.others} <= flags.keys()
        assert all(doors.in_python(verb, flag) for flag in flags)
    with pytest.raises(KeyError, match="say in docs/doors.py what does the same"):
        doors.in_python("train", "a_new_flag")


def test_what_pages_say_of_the_source_is_so():
    tables = script("make_tables")
    for page in tables.PARTS:
        assert tables.made_anew(page) == page.read_text(encoding="utf-8"), (
            f"{page.name}: run python docs/make_tables.py"
        )
    with pytest.raises(ValueError, match="expected the marks"):
        tables.with_part("a page without them", "tables", "")


def test_the_picture_is_of_today_s_gauges(tmp_path: Path):
    committed = ROOT / "docs/images/gauges.jpg"
    assert committed.stat().st_size < 150_000
    script("make_pictures").gauges_picture(tmp_path / "gauges.jpg")
    old, new = (cv2.imread(str(path)).astype(int) for path in (committed, tmp_path / "gauges.jpg"))
    assert old.shape == new.shape
    assert np.abs(old - new).mean() < 2, "run: python docs/make_pictures.py"  # 0; other gauges differ by 40 and more


POINTS = Keypoints(np.zeros((1, 1, 2)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 4)), keylite.Skeleton(("k0",)))

NAMED = {
    "fields of a report": (EVALUATION, Report.__struct_fields__),
    "fields of folds.json": (
        EVALUATION,
        [name for part in (FoldsReport, FoldReport, PartReport, FoldFigures) for name in part.__struct_fields__],
    ),
    "files of folds": (EVALUATION, (REPORT, MODEL)),
    "file of folds": (COMMANDS, ("fold-1", REPORT)),
    "presets": (README, PRESETS),
    "choices that may be auto": (RECIPE, AUTO),
    "what strength is for": (RECIPE, (*GEOMETRY, PIXELS[0], PIXELS[-1])),
    "fields of a spec": (MODEL_FILE, (*ModelSpec.__struct_fields__, *Provenance.__struct_fields__)),
    "fields of a calibration": (MODEL_FILE, Calibration.__struct_fields__),
    "fields of a line of points": (
        PREDICTION,
        (*points_line("", POINTS, (1, 1), Path()), *POINTS.to_dict()["objects"][0], *Found._fields),
    ),
    "formats of points": (PREDICTION, get_args(get_args(get_type_hints(predict)["format"])[0])),
    "files of shards": (PREDICTION, (shards.MANIFEST, f"{shards.BAD}/", "part-00000.parquet", "part-00000.jsonl")),
    "fields of a manifest": (PREDICTION, shards.Manifest.__struct_fields__),
    "fields of a bad image": (PREDICTION, shards.Bad.__struct_fields__),
    "choices of a stream": (PREDICTION, ("threads", "batch", "readers", "on_bad")),
    "fields of a certificate": (
        EVALUATION,
        [name for part in (Certificate, Drift, OnKernels, Latency) for name in part.__struct_fields__],
    ),
    "engines": (PREDICTION, ENGINES),
    "targets": (CHIPS, (*targets.TARGETS, *{name for system in targets.TARGETS.values() for name in system or ()})),
    "what a target needs": (CHIPS, targets.TargetNeeds.__struct_fields__),
    "a certificate in short": (
        MODEL_FILE,
        CertificateSummary.__struct_fields__,
    ),
    "kinds of model file": (MODEL_FILE, SPEC_READERS),
    "members of a .tflite": (MODEL_FILE, (TFLITE_MEMBER, SEAL)),
    "heads of a model file": (MODEL_FILE, HEADS),
    "fields of heads": (
        MODEL_FILE,
        {name for make in HEADS.values() for name in make(1, 1, (64, 64)).__struct_fields__},
    ),
    "heads of a recipe": (RECIPE, HEADS),
    "flags of reading": (
        FORMATS,
        [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(shared.Reading)],
    ),
    "files of a run": (COMMANDS, (*RESULTS, "recipe.yaml", "data.json")),
    "choices that may change": (RECIPE, WITHOUT_EFFECT),
    "what tensorflow refuses": (TENSORFLOW, ("precision", "timm:NAME")),
    "group fields": (FORMATS, GROUP_FIELDS),
    "kinds of findings": (CHECK, tuple(KINDS)),
    "first columns": (FORMATS, FILE_COLUMNS),
    "empty cells": (FORMATS, EMPTY - {""}),
    "kinds of group": (FORMATS, ("auto", "image", "field:NAME", "regex:PATTERN", "block:N")),
}


@pytest.mark.parametrize(("page", "names"), NAMED.values(), ids=NAMED)
def test_pages_name_what_there_is(page: str, names: tuple[str, ...]):
    assert [name for name in names if f"`{name}`" not in PAGES[page]] == []


SAID = {
    "findings": (COMMANDS, f"| {shared.FOUND} | findings"),
    "wrong input": (COMMANDS, f"| {shared.WRONG_INPUT} | wrong input"),
    "over budget": (COMMANDS, f"| {shared.OVER_BUDGET} | a file over its budget"),
    "interrupted": (COMMANDS, f"| {shared.INTERRUPTED} | stopped by Ctrl-C"),
    "objects for a mirror": (FORMATS, f"fewer than {symmetry.MIN_OBJECTS} objects"),
    "objects without names": (FORMATS, f"fewer than {mirror.MIN_UNAIDED} objects"),
    "keypoints without sides": (FORMATS, f"fewer than {mirror.MIN_UNSIDED} keypoints"),
    "megapixels": (FORMATS, f"above {MAX_MEGAPIXELS:g} megapixels"),
    "format number": (MODEL_FILE, f"| `format` | number of this layout: {FORMAT} |"),
    "budgets": (EXPORTING, " ".join(f"| `{name}` | {px:g} px |" for name, px in DRIFT_BUDGET.items())),
    "calibration images": (EXPORTING, f"objects ({COUNT})"),
    "fewest of them": (EXPORTING, f"Fewer than {FEWEST} are refused"),
    "calibration images again": (DIAGNOSIS, f"The default of {COUNT} has"),
    "images whose ranges are looked at": (DIAGNOSIS, f"on {LOOKS} images of `--data`, and warns"),
    "values outside": (DIAGNOSIS, f"more than {100 * OUTSIDE:g} % of what a layer gives"),
    "golden cases": (EXPORTING, f"the first {CASES} objects"),
    "int8 input": (EXPORTING, f"the scale 1/{PIXEL_STD[0]:g} and the zero point {PIXEL_MEAN[0]:g}"),
    "normalisation": (EXPORTING, f"(pixel - {PIXEL_MEAN[0]:g}) / {PIXEL_STD[0]:g}"),
    "auto epochs": (
        RECIPE,
        f"| `epochs` | {USUAL_EPOCHS} · `effort` · √({USUAL_OBJECTS} / N), rounded, at least {FEWEST_EPOCHS} and at most "
        f"{MOST_EPOCHS} |",
    ),
    "auto warm-up": (
        RECIPE,
        f"| {100 * WARMUP_SHARE:g} % of the steps, but at least {WARMUP_STEPS} steps, and at most "
        f"{100 * LONGEST_WARMUP:g} % of the run |",
    ),
    "auto strength": (
        RECIPE,
        "| {} below {} objects, {} above {:,}, else {:g} |".format(
            *(STRENGTHS[0], list(STRENGTHS)[1], list(STRENGTHS.values())[2], list(STRENGTHS)[2] - 1),
            list(STRENGTHS.values())[1],
        ),
    ),
    "failure": (EVALUATION, f"`failure_limit` ({FAILURE_LIMIT:.2f})"),
    "crops of a batch": (PREDICTION, f"of several images; {keylite.Predictor.batch} |"),
    "images of a shard": (PREDICTION, f"`--shard` images each ({cluster.SHARD})"),
    "tries of a shard": (PREDICTION, f"ends its worker {cluster.TRIES} times"),
    "machines of a cluster": (PREDICTION, f"after {cluster.ROOM // 60} minutes without one"),
    "readers of a stream": (PREDICTION, f"beside the engine; {READERS}, or as many"),
    "pck": (EVALUATION, "d below {:g}, {:g} and {:g} of the normaliser".format(*PCK_AT)),
    "draws": (EVALUATION, f"{DRAWS} times"),
    "objects on the reference kernels": (EVALUATION, f"measured on {MOST} of them, drawn at random"),
    "groups": (EVALUATION, f"fewer than {FEWEST_GROUPS} groups"),
}


@pytest.mark.parametrize(("page", "words"), SAID.values(), ids=SAID)
def test_pages_say_the_code_s_numbers(page: str, words: str):
    assert words in " ".join(PAGES[page].split())


def test_the_line_of_what_is_settled_is_the_run_s(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    resolve(Recipe(), keylite.gauges(1, size=64), USUAL_OBJECTS)
    assert (RECIPE, f"{caplog.messages[0]}\n") in blocks("")


def test_the_changelog_is_of_this_version():
    assert f"## [{keylite.__version__}]" in PAGES["CHANGELOG.md"]
