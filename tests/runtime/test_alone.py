"""What a device has, `keylite[onnx]` or `keylite[litert]`, is enough: nothing else that is installed here can be imported."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import licences
import pytest

BELONGS = {  # engine: its package, the fixture of its file
    "onnx": ("onnxruntime", "onnx_file"),
    "litert": ("ai_edge_litert", "litert_file"),
}
POINTS = """
import importlib, pkgutil
from pathlib import Path
import numpy as np
import keylite, keylite.runtime
for module in pkgutil.walk_packages(keylite.runtime.__path__, "keylite.runtime."):
    importlib.import_module(module.name)
image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
box = np.array([[20.0, 20, 60, 70]])
predictor = keylite.Predictor({path!r})
points = predictor(image, boxes=box)
print(points.xy.shape, [found.points.xy.shape for found in predictor.stream([(image, box)])])

from keylite.exporting.golden import write_golden
data = keylite.from_arrays([image], points.xy, skeleton=points.skeleton, boxes=box)
write_golden(Path({path!r}), data, Path({golden!r}))
"""


def others(*extras: str) -> tuple[str, ...]:
    """The modules at the top of all packages that keylite with these extras does not bring."""
    brought = {*licences.brought(extras), "keylite"}
    return tuple(
        sorted(
            module
            for module, packages in importlib.metadata.packages_distributions().items()
            if not brought & {licences.canonicalize_name(package) for package in packages}
        )
    )


@pytest.mark.parametrize("extra", BELONGS)
def test_points_and_golden_vectors_need_no_more(extra: str, python, request: pytest.FixtureRequest, tmp_path: Path):
    package, file = BELONGS[extra]
    pytest.importorskip(package, reason=f"needs keylite[{extra}]")
    missing = others(extra)
    assert not {"numpy", "cv2", "msgspec", package} & set(missing)
    code = POINTS.format(path=str(request.getfixturevalue(file)), golden=str(tmp_path / "golden"))
    assert python(code, missing=missing) == "(1, 4, 2) [(1, 4, 2)]\n"
    assert (tmp_path / "golden/golden.json").is_file()
