"""A model's description is read back as it was written, or refused; nothing in it has a default."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import pytest

from keylite.runtime.heads import HEADS, Heatmap, Regression, Simcc
from keylite.runtime.lite import LITE
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import (
    FORMAT,
    Confidence,
    DataId,
    ModelSpec,
    Provenance,
    decode_spec,
    encode_spec,
    standing,
    unlearnt_words,
)

OUTER, INNER = ModelSpec.__struct_fields__, Provenance.__struct_fields__


@pytest.fixture
def fields(make_spec) -> dict:
    return json.loads(encode_spec(make_spec()))


def test_round_trip(make_spec):
    for spec in (make_spec(), make_spec(report=None), make_spec(size=(128, 96), box="image", precision="int8")):
        assert decode_spec(encode_spec(spec), "x") == spec
        assert decode_spec(encode_spec(spec).encode(), "x") == spec


@pytest.mark.parametrize("name", OUTER)
def test_a_missing_field_is_an_error(fields: dict, name: str):
    del fields[name]
    with pytest.raises(ValueError, match=rf"^file: .*{name}"):
        decode_spec(json.dumps(fields), "file")


@pytest.mark.parametrize("name", INNER)
def test_a_missing_field_of_the_provenance_is_an_error(fields: dict, name: str):
    del fields["provenance"][name]
    with pytest.raises(ValueError, match=rf"^file: .*'{name}'.*provenance"):
        decode_spec(json.dumps(fields), "file")


@pytest.mark.parametrize("value", [None, {"a": 1}, [[[1]]]], ids=str)
def test_a_choice_of_the_recipe_is_a_number_a_text_or_a_list(fields: dict, value: object):
    fields["provenance"]["recipe"]["lr"] = value
    with pytest.raises(ValueError, match=r"^file: the model description inside the file is damaged.*provenance.recipe"):
        decode_spec(json.dumps(fields), "file")


@pytest.mark.parametrize("part", [None, "provenance", "head", "skeleton"])
def test_an_unknown_field_is_an_error(fields: dict, part: str | None):
    (fields[part] if part else fields)["future"] = 1
    with pytest.raises(ValueError, match=r"^file: .*'future'"):
        decode_spec(json.dumps(fields), "file")


@pytest.mark.parametrize("number", [FORMAT + 1, FORMAT - 1, None, str(FORMAT)])
def test_another_format_number_says_what_to_do(fields: dict, number: object):
    with pytest.raises(
        ValueError, match=re.escape(f"file: model file format {number!r}, expected {FORMAT}; export it")
    ):
        decode_spec(json.dumps(fields | {"format": number, "future": 1}), "file")


WRONG = {
    "size of 0": {"size": [0, 64]},
    "size of one number": {"size": 64},
    "size of a fraction": {"size": [64.5, 64]},
    "box of no kind": {"box": "detector"},
    "padding as text": {"padding": "0.25"},
    "mean of one": {"mean": [127.0]},
    "head of other keypoints": {"head": {"name": "regression", "keypoints": 5, "hidden": 32}},
    "no skeleton": {"skeleton": None},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_impossible_values_are_refused(fields: dict, change: dict):
    with pytest.raises(ValueError, match=r"^file: the model description inside the file is damaged"):
        decode_spec(json.dumps(fields | change), "file")


K = 10_001
X = {"name": "x", "fingerprint": "0" * 64}
CONFIDENT = {"levels": [1, 1, 1, 1], "knots": [[0, 1], [1, 0.5]], "factors": [1, 1, 1, 1], "count": 1, "data": X}
ABSURD = {
    "hidden of 10^12": ({"head": {"name": "regression", "keypoints": 4, "hidden": 10**12}}, "hidden or width"),
    "hidden of 300 digits": ({"head": {"name": "regression", "keypoints": 4, "hidden": 10**300}}, ""),
    "width of 10^6": ({"head": {"name": "heatmap", "keypoints": 4, "grid": [8, 8], "width": 10**6}}, "hidden or width"),
    "10,001 keypoints of the head alone": (
        {"head": {"name": "regression", "keypoints": K, "hidden": 32}},
        "head: expected the skeleton's 4 keypoints, got 10001",
    ),
    "sides of 10^9": ({"size": [10**9, 10**9]}, "sides of size of at most 4,096, got 1,000,000,000"),
    "an area of 16 million": ({"size": [4096, 4096]}, "width x height, of at most 4,194,304"),
    "10,001 keypoints": (
        {
            "head": {"name": "regression", "keypoints": K, "hidden": 32},
            "skeleton": {"names": [str(k) for k in range(K)], "edges": [], "mirror": None, "sigmas": None},
        },
        "at most 10,000 keypoints and 100,000 edges, got 10,001 and 0",
    ),
    "maps of a million values for 4,000 keypoints": (
        {
            "size": [2048, 2048],
            "head": {"name": "heatmap", "keypoints": 4000, "grid": [256, 256], "width": 16},
            "skeleton": {"names": [str(k) for k in range(4000)], "edges": [], "mirror": None, "sigmas": None},
        },
        r"values per object \(keypoints x channels\) of at most",
    ),
    "a name of 10,000 characters": (
        {"skeleton": {"names": ["n" * 10_000, "b", "c", "d"], "edges": [], "mirror": None, "sigmas": None}},
        "names of at most 200 characters, got 10,000",
    ),
    "100,001 edges": (
        {"skeleton": {"names": list("abcd"), "edges": [[0, 1]] * 100_001, "mirror": None, "sigmas": None}},
        "100,000 edges, got 4 and 100,001",
    ),
    "padding of 1e300": ({"padding": 1e300}, "padding of at most 10.0"),
    "padding below 0": ({"padding": -1}, ""),
    "a std of 0": ({"std": [128, 0, 128]}, "a std above 0"),
    "a mean of 400 digits": ({"mean": [10**400, 0, 0]}, ""),
    "a long backbone": ({"backbone": "timm:" + "x" * 1000}, "characters of backbone"),
    "a long divisor": ({"normalize": "x" * 1000}, "characters of normalize"),
    "a long unknown field": ({"x" * 1_000_000: 1}, "x" * 100),
    "nested without end": ({"report": "NESTED"}, ""),
    "levels of 0": ({"confidence": CONFIDENT | {"levels": [1, 0, 1, 1]}}, "levels and factors above 0"),
    "factors below 0": ({"confidence": CONFIDENT | {"factors": [1, -1, 1, 1]}}, "levels and factors above 0"),
    "no knots": ({"confidence": CONFIDENT | {"knots": []}}, "knots of numbers from 0 on"),
    "knots that do not rise": ({"confidence": CONFIDENT | {"knots": [[1, 1], [0, 1]]}}, "whose standings rise"),
    "knots of one standing": ({"confidence": CONFIDENT | {"knots": [[0, 1], [1, 1], [1, 0.5]]}}, "standings rise"),
    "a standing below 0": ({"confidence": CONFIDENT | {"knots": [[-1, 1], [1, 1]]}}, "knots of numbers from 0 on"),
    "levels of three": (
        {"confidence": CONFIDENT | {"levels": [1, 1, 1]}},
        "levels and factors for the skeleton's 4 keypoints, got 3 and 4",
    ),
    "factors of three": ({"confidence": CONFIDENT | {"factors": [1, 1, 1]}}, "keypoints, got 4 and 3"),
    "a mean shape of three": ({"mean_shape": [[0, 0]] * 3}, "mean_shape: expected the skeleton's 4 keypoints, got 3"),
    "a knot below 0": ({"confidence": CONFIDENT | {"knots": [[0, -1], [1, 1]]}}, "knots of numbers from 0 on"),
    "a knot that is null": ({"confidence": CONFIDENT | {"knots": [[0, None], [1, 1]]}}, ""),
}


@pytest.mark.parametrize(("change", "words"), ABSURD.values(), ids=ABSURD)
def test_absurd_values_are_one_short_line(fields: dict, change: dict, words: str):
    text = json.dumps(fields | change).replace('"NESTED"', '{"a":' * 100_000)
    with pytest.raises(ValueError, match=rf"^file: .*{words}") as caught:
        decode_spec(text, "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_scores_mean_is_finite(make_spec):
    def fitted(**changes: object) -> Confidence:
        return Confidence(**CONFIDENT | {"data": DataId(**X)} | changes)

    spec = make_spec(confidence=fitted())
    assert decode_spec(encode_spec(spec), "x").confidence.knots == ((0, 1), (1, 0.5))
    for value in (np.inf, np.nan):
        for name in ("levels", "factors"):
            with pytest.raises(ValueError, match="confidence: expected levels and factors above 0"):
                fitted(**{name: (1, 1, 1, value)})
        for knots in (((0, 1), (1, value)), ((0, 1), (value, 1))):
            with pytest.raises(ValueError, match="confidence: expected knots of numbers from 0 on"):
                fitted(knots=knots)
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match="expected a finite mean and a std above 0"):
            make_spec(**{name: (1.0, np.inf, 1.0)})


def test_a_score_counts_by_its_share_and_the_square_of_the_mean_share():
    levels, nan = (1.0, 2.0), np.nan
    scores = np.array([[1, 2], [0.5, 2], [nan, 1], [nan, nan], [2, 4]])
    counts = [[1, 1], [0.5 * 0.75**2, 0.75**2], [nan, 0.5**3], [nan, nan], [8, 8]]
    np.testing.assert_allclose(standing(scores, np.array(levels)), counts)
    sigma = Confidence(levels, ((0.125, 0.4), (1.0, 0.2)), (1.0, 3.0), 1, DataId(**X)).sigma(scores)
    rise = 0.2 / 0.875
    expected = [[0.2, 0.6], [0.2 + rise * (1 - counts[1][0]), 0.6 + 3 * rise * (1 - 0.75**2)], [nan, 1.2]]
    np.testing.assert_allclose(sigma, [*expected, [nan, nan], [0.2, 0.6]])


def names(count: int) -> Skeleton:
    return Skeleton(tuple(map(str, range(count))))


LIMITS = {  # what may be asked for at most, a little more, and what is said of that
    "width of layers": ({"head": Regression(4, 16_384)}, {"head": Regression(4, 16_385)}, "hidden or width of at most"),
    "a side": ({"size": (4096, 1024)}, {"size": (4097, 1)}, "sides of size of at most 4,096, got 4,097"),
    "an area": ({"size": (4096, 1024)}, {"size": (2049, 2048)}, "of at most 4,194,304, got 4,196,352"),
    "padding": ({"padding": 10.0}, {"padding": 10.001}, "padding of at most 10.0, got 10.001"),
    "backbone": ({"backbone": "x" * 200}, {"backbone": "x" * 201}, "backbone of at most 200, got 201"),
    "normalize": ({"normalize": "x" * 200}, {"normalize": "x" * 201}, "normalize of at most 200, got 201"),
    "values": (
        {"size": (2048, 2048), "head": Heatmap(256, (256, 256)), "skeleton": names(256), "mean_shape": None},
        {"size": (2048, 2048), "head": Heatmap(257, (256, 256)), "skeleton": names(257), "mean_shape": None},
        r"values per object \(keypoints x channels\) of at most 16,777,216, got 16,842,752",
    ),
}


@pytest.mark.parametrize(("most", "more", "words"), LIMITS.values(), ids=LIMITS)
def test_a_spec_has_limits(most: dict, more: dict, words: str, make_spec):
    spec = make_spec(**most)
    assert decode_spec(encode_spec(spec), "x") == spec
    with pytest.raises(ValueError, match=f"^spec: expected .*{words}"):
        make_spec(**more)


def test_a_description_has_a_limit(make_spec):
    text = encode_spec(make_spec()).ljust(4_000_000)
    assert decode_spec(text, "x") == make_spec()
    with pytest.raises(ValueError, match="^x: expected a description of at most 4,000,000 bytes, got 4,000,001$"):
        decode_spec(text + " ", "x")


def test_numbers_that_json_has_not_are_refused(fields: dict):
    for word in ("NaN", "Infinity", "1e999"):
        with pytest.raises(ValueError, match="^file: the model description inside the file is damaged"):
            decode_spec(json.dumps(fields).replace('"padding": 0.25', f'"padding": {word}'), "file")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "keylite", b"\xff\xfe{}", '{"format": 1}'], ids=repr)
def test_what_is_no_description_is_refused(text: str | bytes):
    with pytest.raises(ValueError, match="^file: "):
        decode_spec(text, "file")


def test_head_and_skeleton_agree(make_spec):
    with pytest.raises(ValueError, match="spec: head: expected the skeleton's 4 keypoints, got 5"):
        make_spec(head=Regression(5))


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_read_back(name: str, make_spec):
    spec = make_spec(head=HEADS[name](4, 32, (160, 128)), size=(160, 128))
    assert decode_spec(encode_spec(spec), "x") == spec


UNFIT = {  # head: what is said of it in a file of 64x64 px
    "cells of another input": (Heatmap(4, (8, 4)), "grid of 8x8 for an input of 64x64 px, got 8x4"),
    "bins of another input": (Simcc(4, (8, 8), (64, 32)), "bins of 64x64 for an input of 64x64 px, got 64x32"),
    "bins in another grid": (Simcc(4, (4, 4), (64, 64)), "grid of 8x8 for an input of 64x64 px, got 4x4"),
}


@pytest.mark.parametrize(("head", "message"), UNFIT.values(), ids=UNFIT)
def test_head_and_input_agree(head: Heatmap | Simcc, message: str, make_spec, fields: dict):
    with pytest.raises(ValueError, match=f"^head: expected {message}"):
        make_spec(head=head)
    text = json.dumps(fields | {"head": msgspec.to_builtins(head)})
    with pytest.raises(
        ValueError, match=f"^file: the model description .* is damaged: head: expected {message}"
    ) as caught:
        decode_spec(text, "file")
    assert "\n" not in str(caught.value)


def test_the_text_is_readable_json(make_spec):
    found = json.loads(encode_spec(make_spec()))
    assert found["skeleton"]["names"] == ["nose", "left_eye", "right_eye", "chin"]
    assert found["head"] == {"name": "regression", "keypoints": 4, "hidden": 32}
    assert list(found) == list(OUTER)
    assert msgspec.json.decode(encode_spec(make_spec())) == found


def test_the_table_of_backbones_has_one_width_and_one_repeat_a_stage():
    assert list(LITE) == ["lite0", "lite1", "lite2", "lite3", "lite4", "tiny"], "and that of the tests"
    for name, lite in LITE.items():
        assert len(lite.channels) == len(lite.repeats) == 7, name
        assert lite.repeats[0] == lite.repeats[-1] == 1, f"{name}: the first and last stages are not deepened"
        assert all(channels % 8 == 0 for channels in lite.channels), name


def test_keypoints_that_were_hardly_taught_go_round_and_are_told_apart(make_spec):
    spec = decode_spec(encode_spec(make_spec(unlearnt={"chin": 0, "left_eye": 3})), "file")
    assert spec.unlearnt == {"chin": 0, "left_eye": 3}
    assert (spec.left_out, spec.untaught) == ([1, 3], [3])
    none, few = unlearnt_words(spec.unlearnt)
    assert none == "no training object labels these keypoints, so NaN (null) is predicted for them: chin"
    assert few == "hardly any training object labels these keypoints, so NME and PCK leave them out: left_eye (3)"
    assert unlearnt_words({}) == []
    with pytest.raises(ValueError, match="unlearnt: expected names of keypoints, got 'tail'"):
        make_spec(unlearnt={"tail": 0})
