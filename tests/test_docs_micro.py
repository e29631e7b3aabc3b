"""The C++ code of the page about microcontrollers, compiled against a stand-in for TensorFlow Lite Micro, and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from ports import BOXES

import keylite
from keylite.exporting.golden import write_golden
from keylite.runtime.geometry import crop_box
from keylite.runtime.heads import Heatmap
from keylite.runtime.modelfile import read_spec

PAGE = (Path(__file__).parents[1] / "docs/targets/micro.md").read_text(encoding="utf-8")
CODE, OPEN, FLOATS, INTEGERS = re.findall(r"^```cpp\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STRICT = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wdouble-promotion", "-Werror"]
HEADERS = ("micro/micro_interpreter.h", "micro/micro_mutable_op_resolver.h", "schema/schema_generated.h")
STAND_IN = """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
struct TfLiteTensor {
    union { uint8_t* uint8; int8_t* int8; float* f; } data;
    struct { float scale; int zero_point; } params;
};
extern TfLiteTensor taken, given;
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { return nullptr; }
template <unsigned most> struct MicroMutableOpResolver {
    unsigned count = 0;
ADDS
    void add() { ++count; }
};
struct MicroInterpreter {
    bool whole;
    template <unsigned most>
    MicroInterpreter(const Model*, const MicroMutableOpResolver<most>& resolver, uint8_t*, size_t)
        : whole(resolver.count == most) {}
    TfLiteStatus AllocateTensors() { return whole ? kTfLiteOk : kTfLiteError; }
    TfLiteStatus Invoke() { return kTfLiteOk; }
    TfLiteTensor* input(size_t) { return &taken; }
    TfLiteTensor* output(size_t) { return &given; }
};
}
"""
MAIN = """
#include <iostream>
#include <vector>
TfLiteTensor taken, given;
constexpr int keypoints = 4;
int width, height, columns, rows;
float padding;
static Point points[keypoints];
int with_floats(const Picture& picture, const float (&box)[4]) {
OPEN
FLOATS
return 0;
}
int with_integers(const Picture& picture, const float (&box)[4]) {
OPEN
INTEGERS
return 0;
}
int main() {
    float box[4];
    Picture picture;
    bool integers;
    std::cin >> integers >> width >> height >> padding >> columns >> rows >> given.params.scale;
    std::cin >> box[0] >> box[1] >> box[2] >> box[3] >> picture.width >> picture.height;
    std::vector<uint8_t> rgb(3 * picture.width * picture.height), input(3 * width * height);
    std::vector<float> floats(keypoints * columns * rows);
    for (uint8_t& byte : rgb) { int value; std::cin >> value; byte = static_cast<uint8_t>(value); }
    for (float& value : floats) std::cin >> value;
    const std::vector<int8_t> whole(floats.begin(), floats.end());
    picture.rgb = rgb.data(), taken.data.uint8 = input.data(), given.data.f = floats.data();
    if (integers) given.data.int8 = const_cast<int8_t*>(whole.data());
    if (integers ? with_integers(picture, box) : with_floats(picture, box)) return 1;
    const Crop crop = crop_of(box, width, height, padding);
    std::cout.precision(9);
    for (float value : {crop.scale, crop.shift_x, crop.shift_y}) std::cout << value << ' ';
    for (const Point& point : points) std::cout << point.x << ' ' << point.y << ' ';
    for (uint8_t byte : input) std::cout << (integers ? static_cast<int8_t>(byte) : int{byte}) << ' ';
}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    return shutil.which("g++") or shutil.which("clang++") or pytest.skip("needs a C++ compiler")


@pytest.fixture(scope="module")
def port(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A function: crop (scale, shift x, shift y), points and input by the code of the page, all of its blocks."""
    folder = tmp_path_factory.mktemp("micro")
    opened = "\n".join(line for line in OPEN.splitlines() if not re.match(r"#include|constexpr|static Point", line))
    adds = "\n".join(f"    void {name}() {{ add(); }}" for name in re.findall(r"resolver\.(\w+)\(\)", OPEN))
    for name in HEADERS:
        assert f'#include "tensorflow/lite/{name}"' in OPEN
        (folder / "tensorflow/lite" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tensorflow/lite" / name).write_text('#include "stand_in.h"\n')
    (folder / "stand_in.h").write_text(STAND_IN.replace("ADDS", adds))
    includes = "\n".join(re.findall("^#include.*$", OPEN, re.MULTILINE))
    main = MAIN.replace("OPEN", opened).replace("FLOATS", FLOATS).replace("INTEGERS", INTEGERS)
    (folder / "port.cpp").write_text(f"{CODE}\n{includes}\n{main}", encoding="utf-8")
    model = folder / "model.cc"
    model.write_text("unsigned char model_bin[] = {\n  0x00\n};\nunsigned int model_bin_len = 1;\n")  # as of xxd
    (change,) = re.findall(r"^sed -i '(.*)' model.cc$", PAGE, re.MULTILINE)
    _, before, after, _ = change.split("/")
    model.write_text(re.sub(before, after, model.read_text(), flags=re.MULTILINE))
    program = folder / "port"
    subprocess.run([compiler, *STRICT, f"-I{folder}", "-o", program, folder / "port.cpp", model], check=True)

    def run(head: Heatmap, size: tuple[int, int], padding: float, box, picture: np.ndarray, values, scale: float = 0.0):
        given = [int(scale > 0), *size, padding, *head.grid, scale, *box, *picture.shape[1::-1]]
        text = " ".join(map(str, [*given, *picture.ravel().tolist(), *np.ravel(values).tolist()]))
        done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
        crop, xy, pixels = np.split(np.array(done.stdout.split(), float), [3, 3 + 2 * head.keypoints])
        return crop, xy.reshape(-1, 2), pixels.reshape(size[1], size[0], 3)

    return run


@pytest.mark.parametrize(("padding", "box"), BOXES.values(), ids=BOXES)
def test_the_port_is_the_predictor_s(padding: float, box: list[float], port: Callable):
    generator = np.random.default_rng(0)
    picture = cv2.resize(generator.integers(0, 256, (25, 31, 3), np.uint8), (101, 75))  # odd sides: blocks reach beyond
    size, head = (40, 32), Heatmap(4, (5, 4))
    expected = crop_box(np.array(box), size, padding)
    scale = 0.1
    for integers in (False, True):
        values = generator.integers(-128, 128, (4, 20)) if integers else generator.normal(0, 3, (4, 20))
        crop, xy, pixels = port(head, size, padding, box, picture, values, scale if integers else 0.0)
        raw = (scale * (values + 7) if integers else values).astype(np.float32)  # -7: any zero point
        np.testing.assert_allclose(crop, expected.matrix[[0, 0, 1], [0, 2, 2]], rtol=1e-6)
        moved = expected.matrix[0, 0] * (xy - expected.from_unit(head.decode(raw[None])[0][0]))
        assert np.abs(moved).max() < 1e-4, "px of the input"
        assert np.abs(pixels + 128 * integers - expected.warp(picture)).max() <= 2  # of 255: other rounding


def test_the_port_passes_the_golden_vectors_of_a_whole_integer_file(port: Callable, int8_of, tmp_path: Path):
    path = int8_of("heatmap", ends="int8")
    spec, generator = read_spec(path), np.random.default_rng(0)
    assert isinstance(spec.head, Heatmap) and spec.output is not None
    data = keylite.from_arrays(
        [cv2.resize(generator.integers(0, 256, (12, 16, 3), np.uint8), (160, 120)) for _ in range(2)],
        generator.uniform(30, 90, (2, 4, 2)),
        skeleton=spec.skeleton,
        boxes=np.tile([[20.0, 15.0, 110.0, 105.0]], (2, 1)),
    )
    write_golden(
        path, data, tmp_path, 2, engine="litert-reference"
    )  # the results of TensorFlow Lite Micro, bit for bit
    facts = json.loads((tmp_path / "golden.json").read_text())
    assert (facts["input_type"], facts["output"]) == ("int8", [spec.output.scale, spec.output.zero])
    for row, case in enumerate(facts["cases"]):
        integers = np.rint(np.array(case["raw"]) / spec.output.scale + spec.output.zero).astype(int)
        assert integers.min() >= -128 and integers.max() <= 127 and np.ptp(integers) > 10
        picture, box = data.read_image(row), data.box[row].tolist()
        _, xy, pixels = port(spec.head, spec.size, spec.padding, box, picture, integers, spec.output.scale)
        stored = np.fromfile(tmp_path / f"{case['crop']}.bin", np.uint8).reshape(pixels.shape)
        np.testing.assert_allclose(xy, case["xy"], atol=1e-3)
        assert np.abs(pixels + 128 - stored).max() <= 2


def test_the_port_needs_no_heap_and_little_stack(compiler: str, tmp_path: Path):
    """It calls nothing but arithmetic, so it has no heap. -fstack-usage is an option of g++."""
    if "clang" in compiler or shutil.which("nm") is None:
        pytest.skip("needs g++ and nm")
    source, made = tmp_path / "code.cpp", tmp_path / "code.o"
    uses = [f"template void fill({byte}*, const Picture&, const Crop&, int, int);" for byte in ("uint8_t", "int8_t")]
    uses += [
        f"template Point decode(const {value}*, float, int, int, const Crop&, int, int);"
        for value in ("float", "int8_t")
    ]
    source.write_text("\n".join([CODE, *uses]), encoding="utf-8")
    subprocess.run([compiler, *STRICT, "-fno-exceptions", "-fstack-usage", "-c", source, "-o", made], check=True)
    symbols = subprocess.run(["nm", "-u", made], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split("@")[0] for name in symbols} - {"U"} <= {"floorf", "lroundf", "expf", "__stack_chk_fail"}
    frames = [int(line.split("\t")[1]) for line in made.with_suffix(".su").read_text().splitlines()]
    assert len(frames) >= 7 and sum(frames) < 1024
