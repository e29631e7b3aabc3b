"""The command line as these tests use it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import keylite
from keylite.data.formats.reading import write_dataset


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that says why it failed."""
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("keylite: ")]
        return line.removeprefix("keylite: ")


@pytest.fixture
def keylite_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """A function: run `keylite ARGUMENTS` and give how it ended."""
    from keylite.cli import main

    def run(*arguments: object) -> Ended:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = 0 if stop.code is None else int(stop.code)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pictures with labels."""
    folder = tmp_path_factory.mktemp("photos")
    write_dataset(keylite.gauges(2, seed=1, size=96), folder)
    return folder


@pytest.fixture
def picture(photos: Path) -> Path:
    return sorted(photos.glob("*.png"))[0]


# ---- runs and files that verbs share


@pytest.fixture(scope="session")
def gauge_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ of rendered gauges with labels.json."""
    folder = tmp_path_factory.mktemp("gauges")
    write_dataset(keylite.gauges(8, "train", seed=1, size=96), folder / "train")
    write_dataset(keylite.gauges(6, "test", seed=2, size=96), folder / "test")
    return folder


@pytest.fixture(scope="session")
def trained(gauge_files: Path) -> Path:
    """A run of lite0, which other processes know too."""
    from verbs import made_by_train

    return made_by_train(gauge_files, "run", backbone="lite0")


@pytest.fixture(scope="session")
def trained_tiny(gauge_files: Path) -> Path:
    """A run of the backbone of `quick`."""
    from verbs import made_by_train

    return made_by_train(gauge_files, "tiny")


@pytest.fixture(scope="session")
def exported(trained: Path, gauge_files: Path) -> Path:
    """Its export, made by the command line once, for it costs seconds."""
    from keylite.cli import main

    out = trained / "model.onnx"
    with pytest.raises(SystemExit) as stop:
        main(
            ["export", str(trained / "model.safetensors"), "--to", "onnx", "--out", str(out)]
            + ["--data", f"{gauge_files}/test/labels.json"]
        )
    assert not stop.value.code
    return out


@pytest.fixture
def tensorflow(quick_graphs):
    """TensorFlow, where it is installed."""
    return pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")


@pytest.fixture(scope="session")
def colour_files(make_colours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """val/, train/ and few/ of patches of colour with labels.json."""
    folder = tmp_path_factory.mktemp("colours")
    for name, count in (("val", 20), ("train", 24), ("few", 15)):
        write_dataset(make_colours(count, count), folder / name)
    return folder
