"""The page in Chromium: its points are the predictor's; boxes, videos and a camera work; nothing leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from browser import Tab, browser, chromium, served

import keylite
from keylite.pictures import runtimes
from keylite.pictures.page import write_page
from keylite.pictures.runtimes import cache_folder
from keylite.runtime.modelfile import describe, read_spec

# px of the picture between the page's points and the predictor's; other processors have other kernels for int8
CLOSE = {"fp32": 0.05, "int8": 0.5}


@pytest.fixture(scope="module")
def runtime() -> Path:
    """The folder of the npm packages that `keylite page` fetched before; tests fetch nothing."""
    packages = [package for some in runtimes.RUNTIMES.values() for package in some]
    if not all((cache_folder() / package.tarball).is_file() for package in packages):
        pytest.skip("needs the npm packages that `keylite page` fetches once for .onnx and once for .tflite")
    return cache_folder()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rendered pictures of several sizes, and their boxes in boxes.json."""
    folder, boxes = tmp_path_factory.mktemp("pictures"), {}
    for number, size in enumerate((90, 150, 330, 700)):
        data = keylite.gauges(5, "test", seed=number, size=size)
        for row in range(5):
            name = f"{number}{row}.png"
            cv2.imwrite(str(folder / name), data.read_image(row)[..., ::-1])
            boxes[name] = data.box[row].tolist()
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory):
    chromium()
    with browser(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


FILES = [
    ("onnx", "fp32", "heatmap", {}),
    ("onnx", "fp32", "regression", {"input_type": "float32"}),
    ("onnx", "int8", "simcc", {}),
    ("litert", "fp32", "heatmap", {}),
    ("litert", "int8", "heatmap", {}),
    ("litert", "int8", "regression", {}),
]


@pytest.mark.parametrize(("to", "precision", "head", "types"), FILES)
def test_the_points_are_the_predictor_s(
    to: str,
    precision: str,
    head: str,
    types: dict[str, str],
    runtime: Path,
    pictures: Path,
    tab: Tab,
    exported_finder,
    tmp_path: Path,
):
    model = exported_finder(to, precision, head, **types)
    assert write_page(model, tmp_path / "page", runtime=runtime)[0] == tmp_path / "page/index.html"
    shutil.copytree(pictures, tmp_path / "pictures")
    boxes = json.loads((pictures / "boxes.json").read_text())
    with served(tmp_path) as address:
        tab.open(f"{address}/page/index.html")
        found = tab.run(
            f"""(async () => {{
                const {{bitmapOf, findPoints, imageOf, openModel}} = await import("{address}/page/model.js");
                const model = await openModel(), found = {{}};
                for (const [name, box] of Object.entries({json.dumps(boxes)})) {{
                    const bitmap = await bitmapOf(await (await fetch("../pictures/" + name)).blob());
                    found[name] = [await findPoints(model, imageOf(bitmap), box), await findPoints(model, imageOf(bitmap), null)];
                }}
                return found;
            }})()"""
        )
    predictor = keylite.Predictor(model)
    moved = []
    for name, box in boxes.items():
        for points, chosen in zip(found[name], ([box], None), strict=True):
            expected = predictor(pictures / name, boxes=chosen)
            moved.append(np.abs(np.array([points["x"], points["y"]]).T - expected.xy[0]).max())
            score = np.array([np.nan if value is None else value for value in points["score"]])
            np.testing.assert_allclose(score, expected.score[0], atol=1e-4)
    assert len(moved) == 40
    assert max(moved) < CLOSE[precision]  # at most 0.002 and, if a byte of the crop differs by one, 0.041
    assert tab.problems == []


ODD = ("<img src=x onerror=alert(1)>", "</script><b>bold", "\u2028'\"&amp;", "chin")


@pytest.fixture(scope="module")
def opened(heatmap_onnx_file: Path, runtime: Path, tab: Tab, tmp_path_factory: pytest.TempPathFactory):
    """(tab, model file) with the page open; the model's names are meant to break pages."""
    folder = tmp_path_factory.mktemp("opened")
    model = Path(shutil.copy(heatmap_onnx_file, folder / "<b>odd.onnx"))
    spec = read_spec(model)
    skeleton = keylite.Skeleton(ODD, edges=spec.skeleton.edges)
    describe(model, msgspec.structs.replace(spec, skeleton=skeleton, unlearnt={"chin": 0}))
    write_page(model, folder / "page", runtime=runtime)
    with served(folder / "page") as address:
        tab.open(f"{address}/index.html")
        yield tab, model


FIGURES = "document.getElementById('figures').textContent"


def test_names_are_text_and_never_code(opened):
    tab, model = opened
    cells = "[...document.querySelectorAll('#points td.name')]"
    assert tab.run(f"{cells}.map((cell) => cell.textContent)") == list(ODD)
    assert tab.run(f"{cells}.map((cell) => cell.children.length)") == [1, 1, 1, 1]  # the dot
    assert tab.run("[document.title, document.querySelector('h1').children.length]") == [model.name, 0]


def test_a_box_is_drawn_and_the_table_holds_its_points(opened, pictures: Path):
    tab, model = opened
    picture = pictures / "20.png"
    width = cv2.imread(str(picture)).shape[1]
    tab.give(picture)
    tab.wait(f"{FIGURES}.includes('{width} x {width} px')")
    rows = (
        "[...document.getElementById('points').children].map((row) => [Number(row.dataset.x), Number(row.dataset.y)])"
    )
    predictor = keylite.Predictor(model)
    before = tab.run(rows)
    np.testing.assert_allclose(before[:3], predictor(picture).xy[0, :3], atol=1)  # a random network, which enlarges
    assert before[3] == [None, None]  # no training object labels it
    tab.run("new Promise((done) => requestAnimationFrame(done))")
    scale = tab.run("document.getElementById('canvas').clientWidth") / width
    tab.drag((20, 30), (20 + 200 * scale, 30 + 220 * scale))
    tab.wait("!document.getElementById('whole').hidden")
    tab.wait(f"JSON.stringify({rows}) !== '{json.dumps(before, separators=(',', ':'))}'")
    box = tab.run("import('./page.js').then(({state}) => state.box)")
    np.testing.assert_allclose(box, [20 / scale, 30 / scale, 20 / scale + 200, 30 / scale + 220], atol=2)
    np.testing.assert_allclose(tab.run(rows)[:3], predictor(picture, boxes=[box]).xy[0, :3], atol=1)
    tab.run("document.getElementById('whole').click()")
    tab.wait(f"JSON.stringify({rows}) === '{json.dumps(before, separators=(',', ':'))}'")
    assert tab.problems == []


def test_it_fits_the_width_of_a_phone(opened, pictures: Path, tmp_path: Path):
    tab, _ = opened
    tab.give(pictures / "30.png")
    tab.wait(f"{FIGURES}.includes('700 x 700 px')")
    tab.look(tmp_path / "phone.png", 360, 740)
    assert cv2.imread(str(tmp_path / "phone.png")).shape == (740, 360, 3)
    assert tab.run("document.documentElement.scrollWidth") <= 360
    assert 200 < tab.run("document.getElementById('canvas').clientWidth") <= 360
    tab.ask("Emulation.clearDeviceMetricsOverride")


def test_what_is_no_picture_is_said(opened, tmp_path: Path):
    tab, _ = opened
    for name, words in {"notes.png": "cannot read it as a picture", "film.mp4": "cannot play it"}.items():
        (tmp_path / name).write_bytes(b"no picture")
        tab.give(tmp_path / name)
        said = "document.getElementById('status')"
        tab.run(f"new Promise((done) => setInterval(() => {said}.classList.contains('wrong') && done(), 20))")
        assert tab.run(f"{said}.textContent") == f"{name}: this browser {words}"


def test_a_video_and_a_camera_are_followed(opened, tmp_path: Path):
    tab, _ = opened
    film = tmp_path / "film.webm"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"VP80"), 15, (160, 120))
    for number in range(30):
        writer.write(np.full((120, 160, 3), 8 * number, np.uint8))
    writer.release()
    tab.give(film)
    tab.wait(f"{FIGURES}.includes('frames per second') && {FIGURES}.includes('160 x 120 px')")
    tab.wait("Number(document.getElementById('seek').value) > 0")
    tab.run("document.getElementById('pause').click()")
    tab.wait("document.getElementById('pause').textContent === 'Play'")
    tab.run("document.getElementById('camera').click()")
    tab.wait(f"{FIGURES}.includes('frames per second') && !{FIGURES}.includes('160 x 120 px')")
    assert not tab.run("document.getElementById('whole').hidden")  # a box in the middle, to hold the object into
    tab.run("document.getElementById('stop').click()")
    assert tab.run("document.getElementById('stop').hidden")
    assert tab.problems == []


def test_the_browser_refuses_any_other_place(opened):
    tab, _ = opened
    refused = tab.run(
        """new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch("http://127.0.0.1:9/").catch(() => null);
        })"""
    )
    assert refused == "connect-src"
    tab.problems.clear()
