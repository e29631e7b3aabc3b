"""`keylite gauges`: the built-in data set as files."""

from __future__ import annotations

import msgspec
import numpy as np
from verbs import run

import keylite


def test_the_gauges_are_written_and_read_back(capsys, tmp_path):
    code, out, _ = run(capsys, "gauges", tmp_path / "g", "--count", 3, "--family", "test")
    assert code == 0
    data = keylite.read_dataset(tmp_path / "g/labels.json")
    made = keylite.gauges(3, "test")
    np.testing.assert_allclose(data.xy, made.xy, atol=1e-9)
    assert msgspec.structs.asdict(data.skeleton)["names"] == made.skeleton.names
