"""Files that commands write: devices, pipes, links, one file named twice, full disks; all or nothing, and refused first."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import keylite


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_device_gets_the_points_and_stays(onnx_file, picture, keylite_command, null, tmp_path):
    for format in ("keylite", "jsonl"):
        assert keylite_command("predict", onnx_file, picture, "--out", null, "--format", format).code == 0
    assert stat.S_ISCHR(null.stat().st_mode)
    assert names(tmp_path) == ["null"]


def test_a_link_is_followed(onnx_file, picture, keylite_command, tmp_path):
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to("target.json")
    assert keylite_command("predict", onnx_file, picture, "--out", tmp_path / "link.json").code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert str(picture) in json.loads((tmp_path / "target.json").read_text())["images"]


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("format", ["keylite", "jsonl"])
def test_standard_output_by_its_name_gets_the_points_alone(place, format, onnx_file, picture, tmp_path):
    if not os.path.exists(place):
        pytest.skip("this system has no such name")
    command = [sys.executable, "-m", "keylite", "predict", str(onnx_file), str(picture), "--format", format]
    with open(tmp_path / "out", "wb") as out:
        for stdout in (subprocess.PIPE, out):
            ended = subprocess.run([*command, "--out", place], stdout=stdout, stderr=subprocess.PIPE)
            assert ended.returncode == 0, ended.stderr
            said = (tmp_path / "out").read_bytes() if ended.stdout is None else ended.stdout
            assert json.loads(said)["model"] == onnx_file.name


REFUSALS = {  # flags of a verb, and what is said before the model is opened
    "predict": ("predict MODEL PHOTO --out FOLDER", "--out: expected the name of a file, got the folder "),
    "predict, its model": (
        "predict MODEL PHOTO --out MODEL",
        "is the file of `model`, too; give each a file of its own",
    ),
    "predict, its photo": (
        "predict MODEL PHOTO --out PHOTO",
        "--out: PHOTO is an input, too; give each a file of its own",
    ),
    "predict, a folder and a file": (
        "predict MODEL PHOTO --out NEW --draw NEW",
        "--draw: expected a folder, but NEW is or lies in the file of",
    ),
    "predict, a drawing": (
        "predict MODEL PHOTO --out NEW/STEM_points.jpg --draw NEW",
        "--out: NEW/STEM_points.jpg is where PHOTO is to be drawn; name another file",
    ),
    "evaluate": ("evaluate MODEL --data LABELS --out FOLDER", "--out: expected the name of a file, got the folder"),
    "evaluate, below a file": ("evaluate MODEL --data LABELS --out MODEL/a", "cannot write to this folder"),
    "evaluate, its labels": ("evaluate MODEL --data LABELS --out LABELS", "is the file of --data, too"),
    "evaluate, pictures": ("evaluate MODEL --data LABELS --draw MODEL/a", "cannot write to this folder"),
    "evaluate, a folder and a file": (
        "evaluate MODEL --data LABELS --out NEW --draw NEW/a",
        "--draw: expected a folder, but NEW/a is or lies in the file of --out; name another",
    ),
    "benchmark": ("benchmark MODEL --data LABELS --out NEW --plot NEW", "--plot: NEW is the file of --out, too"),
    "export": ("export PARENT --data LABELS --out PARENT", "--out: expected a name that ends in .onnx"),
    "export, a folder": (
        "export PARENT --data LABELS --out FOLDER",
        "--out: expected the name of a file, got the folder",
    ),
    "export, vectors": ("export PARENT --data LABELS --out NEW.onnx --golden MODEL/a", "cannot write to this folder"),
    "diagnose": (
        "export PARENT --data LABELS --diagnose --to onnx --out FOLDER.md",
        "expected the name of a file, got the",
    ),
}


@pytest.mark.parametrize(("command", "words"), REFUSALS.values(), ids=REFUSALS)
def test_outputs_are_refused_before_work(
    command, words, model_file, onnx_file, photos, picture, keylite_command, tmp_path, monkeypatch
):
    from keylite.runtime import predictor

    places = {"MODEL": onnx_file, "PARENT": model_file, "PHOTO": picture, "LABELS": photos / "labels.json"}
    places |= {"FOLDER": tmp_path / "a.onnx", "NEW": tmp_path / "new.png", "STEM": Path(picture.stem)}
    (tmp_path / "a.onnx").mkdir()
    (tmp_path / "a.onnx.md").mkdir()
    if not command.startswith("predict"):
        monkeypatch.setattr(predictor.Predictor, "stream", lambda *_, **__: pytest.fail("work has begun"))
    for name, place in places.items():
        command, words = command.replace(name, str(place)), words.replace(name, str(place))
    before = {path: path.read_bytes() for path in (onnx_file, model_file, picture, photos / "labels.json")}
    ended = keylite_command(*command.split())
    assert ended.code == 2, ended
    assert words in ended.line
    assert {path: path.read_bytes() for path in before} == before
    assert names(tmp_path) == ["a.onnx", "a.onnx.md"]


@pytest.mark.parametrize("name", ["four.fp32.onnx", "four.int8.tflite", "four.int8.tflite.certificate.md"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_all_exports_are_refused_before_the_first(
    name, kind, model_file, photos, keylite_command, tmp_path, monkeypatch
):
    checks_alone = SimpleNamespace()
    monkeypatch.setattr("keylite.exporting.export.exporter", lambda target: checks_alone)
    labels, taken = photos / "labels.json", tmp_path / name
    before = labels.read_bytes()
    if kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to(labels)
    both = ("--data", labels, "--calibration", labels)
    ended = keylite_command("export", model_file, *both, "--to", "all", "--out", tmp_path)
    words = (
        f"expected the name of a file, got the folder {taken}" if kind == "folder" else "is the file of --calibration"
    )
    assert ended.line.startswith(f"{name}: ")
    assert words in ended.line
    assert ended.code == 2
    assert labels.read_bytes() == before
    assert names(tmp_path) == [name]


# ---- full disks


class Full:
    """A disk that takes so many files and is full at the next."""

    def __init__(self, takes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.write = takes, Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: self(path, data))

    def __call__(self, path: Path, data: bytes) -> int:
        self.left -= 1
        if self.left < 0:
            self.write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(path, data)


@pytest.mark.parametrize("there", [False, True], ids=["new", "over another export"])
@pytest.mark.parametrize("takes", range(6))
def test_an_export_on_a_full_disk_leaves_all_or_nothing(
    takes, there, onnx_file, model_file, photos, tmp_path, monkeypatch
):
    from keylite.exporting import export as exports

    class Copies:  # what makes a format, with nothing to do
        operators = staticmethod(lambda path: {})
        describe = staticmethod(lambda path, spec: None)
        export = staticmethod(lambda model, made, spec, images, output_type: shutil.copy(onnx_file, made))

    monkeypatch.setattr(exports, "exporter", lambda target: Copies)
    monkeypatch.setattr(exports, "_reference", lambda *_: None)
    monkeypatch.setattr(exports, "write_confidence", lambda *_, **__: "")
    data = keylite.read_dataset(photos / "labels.json")
    before = {}
    if there:
        for name in ("a.onnx", "a.onnx.certificate.json", "a.onnx.certificate.md"):
            (tmp_path / name).write_text("old")
            before[name] = "old"
    Full(takes, monkeypatch)
    with pytest.raises(OSError, match="cannot write this file: No space left on device"):
        exports.export(model_file, data, tmp_path / "a.onnx", budget=1e6, golden=tmp_path / "golden")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from keylite.__main__ import main
main()
"""


@pytest.mark.parametrize("format", ["keylite", "jsonl"])
def test_a_prediction_on_a_full_disk_leaves_the_old_file(format, onnx_file, photos, tmp_path):
    (tmp_path / "points").write_text("old")
    command = [sys.executable, "-c", LIMITED, "100", "predict", str(onnx_file), str(photos), "--format", format]
    command += ["--out", str(tmp_path / "points"), "--draw", str(tmp_path / "drawn")]
    ended = subprocess.run(command, capture_output=True, text=True)
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("keylite: ")]
    assert ended.returncode == 2
    assert line.endswith("cannot write this file: File too large")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"points": "old"}


def test_gauges_on_a_full_disk_are_one_line(tmp_path):
    command = [sys.executable, "-c", LIMITED, "100", "gauges", str(tmp_path / "g"), "--count", "2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.endswith("cannot write this file: File too large\n")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("given", [["--draw", ""], ["--draw="]])
def test_an_empty_value_is_not_this_folder(given: list[str], onnx_file, picture, keylite_command, tmp_path):
    """Such as `--draw "$FOLDER"` where the variable is not set."""
    ended = keylite_command("predict", onnx_file, picture, *given)
    assert (ended.code, names(tmp_path)) == (2, [])
    assert "--draw" in ended.err and "expected a value, got an empty one" in ended.err


@pytest.mark.parametrize(
    "command", ["gauges OUT", "evaluate MODEL --data LABELS", "export MODEL --data LABELS --out OUT"]
)
def test_a_negative_seed_is_refused_by_its_flag(command: str, keylite_command):
    line = keylite_command(*command.split(), "--seed", -1).line
    assert "--seed" in line
    assert "expected a whole number from 0 on, got -1" in line


@pytest.mark.parametrize(("closed", "code"), [("1", 2), ("2", 2), ("0", 0)])
def test_a_closed_stream_is_no_place_for_a_file(closed, code, onnx_file, picture, tmp_path):
    """Without standard output nothing is done; a file that is opened later never gets the number of a closed stream."""
    script = f"exec {closed}>&-; exec {shlex.quote(sys.executable)} -m keylite predict {onnx_file} {picture}"
    missing = {"2": " nothing.png"}.get(closed, "")
    ended = subprocess.run(["sh", "-c", script + missing], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == code
    assert ("standard output is closed" in ended.stderr) == (closed == "1")
    assert bool(ended.stdout) == (closed == "0"), "the points, and no message"
    assert not list(tmp_path.iterdir())


def test_names_of_another_encoding_go_through_every_file(onnx_file, model_file, photos, keylite_command, tmp_path):
    """Names on a disk are bytes; what keylite writes of them is UTF-8."""
    odd = tmp_path / os.fsdecode(b"d\xe4")
    try:
        shutil.copytree(photos, odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    files = {
        kind: shutil.copy(path, odd / f"m{path.suffix}")
        for kind, path in {"onnx": onnx_file, "own": model_file}.items()
    }
    labels = odd / "labels.json"
    for model in files.values():
        for command in (("predict", model, odd), ("info", model), ("evaluate", model, "--data", labels)):
            flags = () if command[0] == "info" else ("--out", odd / "out.json")
            ended = keylite_command(*command, *flags)
            assert ended.code == 0, ended
    assert (
        keylite_command("evaluate", files["onnx"], "--parent", files["own"], "--data", labels, "--budget", 64).code == 0
    )
