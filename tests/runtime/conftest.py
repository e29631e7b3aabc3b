"""Fixtures that tests of TensorFlow Lite Micro and of targets share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def int8_of(exported_finder, heatmap_file: Path, make_colours, tmp_path_factory: pytest.TempPathFactory):
    """A function: head -> an int8 `.tflite` file of it."""
    made: dict[str, Path] = {}

    def make(head: str) -> Path:
        if head != "heatmap":
            return exported_finder("litert", "int8", head)
        if head not in made:
            for package in ("tensorflow", "ai_edge_litert"):
                pytest.importorskip(package, reason="needs keylite[tensorflow-cpu]")
            import msgspec

            from keylite.exporting.calibration import calibration_set
            from keylite.runtime.modelfile import read_spec
            from keylite.tensorflow.exporting import export

            spec = read_spec(heatmap_file)
            images = calibration_set(msgspec.structs.replace(spec, box="image"), make_colours(16, 11), 16, 0)
            made[head] = tmp_path_factory.mktemp("micro") / "maps.tflite"
            spec = msgspec.structs.replace(
                spec, precision="int8", weight_scales="per-channel", calibration=images.facts
            )
            export(heatmap_file, made[head], spec, images)
        return made[head]

    return make
