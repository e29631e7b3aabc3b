"""Each head decodes what its network gives, and says how many channels that is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from keylite.runtime.heads import HEADS, Head, Regression, Spatial


@pytest.mark.parametrize("name", HEADS)
def test_coordinate_heads_give_back_their_raw_output(name: str):
    head = HEADS[name](keypoints=5)
    assert head.channels == 2
    raw = np.random.default_rng(0).uniform(-1, 2, (3, 5, 2)).astype(np.float32)
    xy, score = head.decode(raw)
    assert np.array_equal(xy, raw), "points outside the crop are not clipped"
    assert score.shape == (3, 5)
    assert np.isnan(score).all(), "no notion of confidence, so none is made up"
    assert (xy.dtype, score.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_decodes_to_float32(name: str):
    assert HEADS[name](keypoints=1).decode(np.zeros((1, 1, 2), np.float16))[0].dtype == np.float32


@pytest.mark.parametrize("head", [Regression(4, 64), Spatial(4, 64, 16)], ids=["regression", "spatial"])
def test_heads_survive_json_by_their_name(head: Head):
    fields = msgspec.to_builtins(head)
    assert HEADS[fields["name"]] is type(head)
    assert msgspec.convert(fields, Head) == head


REFUSED = {
    "unknown name": {"name": "heatmap", "keypoints": 4},
    "no name": {"keypoints": 4},
    "no keypoints": {"name": "regression"},
    "0 keypoints": {"name": "regression", "keypoints": 0},
    "0 hidden": {"name": "regression", "keypoints": 4, "hidden": 0},
    "a field of another head": {"name": "regression", "keypoints": 4, "maps": 32},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_other_descriptions_are_refused(fields: dict):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Head)
