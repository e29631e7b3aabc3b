"""Overlays put colour where the points are, and leave everything else as it was."""

from __future__ import annotations

import numpy as np
import pytest

from keylite.runtime import drawing
from keylite.runtime.skeleton import Skeleton

NAN = float("nan")
SKELETON = Skeleton(("left_eye", "right_eye", "nose"), edges=((0, 1),), mirror=(1, 0, 2))
GREY = np.full((60, 80, 3), 128, np.uint8)
XY = np.array([[20.5, 20.5], [60.5, 20.5], [40.5, 45.5]])
DOWN = np.array([0.0, 10])


PALETTE = (drawing.LEFT, drawing.RIGHT, drawing.MIDDLE, drawing.TRUTH, drawing.ERROR, drawing.OUTLINE, (128, 128, 128))


def pixel(image: np.ndarray, point: np.ndarray) -> tuple[int, ...]:
    """The colour that is meant at a point: lines are blended with what they cross, by up to 30 levels a channel."""
    found = image[int(point[1]), int(point[0])].astype(int)
    return min(PALETTE, key=lambda colour: np.abs(found - colour).max())


@pytest.mark.parametrize("level", [0, 128, 255], ids=["black", "grey", "white"])
def test_points_have_their_side_s_colour_and_an_outline(level: int) -> None:
    image = np.full_like(GREY, level)
    drawn = drawing.draw_points(image, XY, SKELETON, radius=3)
    assert (image == level).all()  # the caller's picture is left alone
    assert [pixel(drawn, point) for point in XY] == [drawing.LEFT, drawing.RIGHT, drawing.MIDDLE]
    assert drawn[45].max(axis=1).min() <= 80  # measured 68: the outline is one blended px
    assert (drawn[:10] == level).all()
    assert (drawn[55:] == level).all()


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.8])
def test_points_are_placed_to_a_fraction_of_a_pixel(shift: float) -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    point = np.array([[20 + shift, 15.5]])
    drawn = drawing.draw_points(black, point, Skeleton(("a",)), radius=4)[..., 0].astype(float)
    rows, columns = np.mgrid[0:40, 0:40] + 0.5
    weight = np.where(drawn > 60, drawn, 0)
    centre = [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
    np.testing.assert_allclose(centre, point[0], atol=0.15)  # measured 0.09; half a pixel would be a convention lost


def test_edges_join_points_and_take_their_side() -> None:
    drawn = drawing.draw_points(GREY, XY, SKELETON, radius=2)
    assert pixel(drawn, np.array([40.5, 20.5])) == drawing.MIDDLE  # between two sides
    assert pixel(drawn, np.array([40.5, 33.5])) == (128, 128, 128)
    same = Skeleton(("left_eye", "left_ear"), edges=((0, 1),))
    assert pixel(drawing.draw_points(GREY, XY[:2], same, radius=2), np.array([40.5, 20.5])) == drawing.LEFT


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_eye", drawing.LEFT),
        ("RightEye", drawing.RIGHT),
        ("eye_l", drawing.LEFT),
        ("R-ear", drawing.RIGHT),
        ("paw", drawing.MIDDLE),
        ("tail_left_of_right", drawing.MIDDLE),
        ("lip", drawing.MIDDLE),
        ("upright", drawing.MIDDLE),
    ],
)
def test_the_name_tells_the_side(name: str, side: tuple[int, int, int]) -> None:
    drawn = drawing.draw_points(GREY, XY[:1], Skeleton((name,)), radius=3)
    assert pixel(drawn, XY[0]) == side


def test_truth_is_joined_to_the_prediction() -> None:
    drawn = drawing.draw_points(GREY, XY, SKELETON, truth=XY + DOWN, radius=2)
    assert pixel(drawn, XY[2] + DOWN) == drawing.TRUTH
    assert pixel(drawn, XY[2] + DOWN / 2) == drawing.ERROR
    assert pixel(drawn, XY[2]) == drawing.MIDDLE


def test_unlabelled_points_are_left_out() -> None:
    nothing = np.full_like(XY, NAN)
    np.testing.assert_array_equal(drawing.draw_points(GREY, nothing, SKELETON, truth=nothing), GREY)
    half = XY.copy()
    half[1] = NAN
    drawn = drawing.draw_points(GREY, half, SKELETON, truth=nothing)
    assert pixel(drawn, XY[0]) == drawing.LEFT
    assert pixel(drawn, np.array([40.5, 20.5])) == (128, 128, 128)  # its edge goes too


def test_points_far_outside_do_not_wrap_around() -> None:
    far = np.array([[1e9, -1e9], [-1e12, 5], [4e8, 4e8]])
    np.testing.assert_array_equal(drawing.draw_points(GREY, far, Skeleton(SKELETON.names)), GREY)


def test_the_radius_follows_image_and_spacing() -> None:
    def marked(image: np.ndarray, xy: np.ndarray) -> int:
        return int((drawing.draw_points(image, xy, Skeleton(SKELETON.names)) != 128).any(axis=2).sum())

    large = np.full((600, 800, 3), 128, np.uint8)
    crowd = XY[:1] * 10 + [[0, 0], [7, 0], [14, 0]]
    assert marked(large, XY * 10) > 2 * marked(GREY, XY)
    assert marked(large, crowd) < marked(large, XY * 10) / 2
    assert marked(GREY, XY) > 20  # never too small to see


@pytest.mark.parametrize(
    ("xy", "truth", "message"),
    [(XY[None], None, r"xy: expected shape \(3, 2\)"), (XY, XY[:2], r"truth: expected shape \(3, 2\), got")],
)
def test_draw_points_refuses(xy: np.ndarray, truth: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawing.draw_points(GREY, xy, SKELETON, truth=truth)


# ---- sheets


def flat(width: int, height: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_a_sheet_has_every_picture_enlarged_in_its_place() -> None:
    sheet = drawing.contact_sheet([flat(40, 20, 100), flat(20, 10, 150), flat(10, 20, 200)], 2, gap=4)
    assert sheet.shape == (2 * 24 + 4, 2 * 44 + 4, 3)
    np.testing.assert_array_equal(sheet[4:24, 4:44], 100)
    np.testing.assert_array_equal(sheet[4:24, 48:88], 150)  # twice its size
    np.testing.assert_array_equal(sheet[28:48, 19:29], 200)  # centred, its aspect kept
    np.testing.assert_array_equal(sheet[28:, 48:], np.full((24, 44, 3), drawing.BACKGROUND))


def test_captions_are_written_below_and_cut_to_fit() -> None:
    pictures = [flat(60, 30, 100)] * 2
    sheet = drawing.contact_sheet(pictures, 2, ["a", "a very long caption indeed " * 5])
    bare = drawing.contact_sheet(pictures, 2, ["", ""])
    assert sheet.shape == (30 + drawing.CAPTION + 8, 2 * 64 + 4, 3)
    changed = (sheet != bare).any(axis=2)
    assert changed[34 : 34 + drawing.CAPTION, 4:64].any()
    assert changed[34 : 34 + drawing.CAPTION, 68:128].any()
    changed[34 : 34 + drawing.CAPTION, 4:64] = changed[34 : 34 + drawing.CAPTION, 68:128] = False
    assert not changed.any()
    drawing.contact_sheet([flat(3, 3, 0)], 1, ["no room at all"])


def test_sheets_refuse() -> None:
    with pytest.raises(ValueError, match="expected images and at least one column, got 0 and 2"):
        drawing.contact_sheet([], 2)
    with pytest.raises(ValueError, match="expected 1, one per image, got 2"):
        drawing.contact_sheet([GREY], 1, ["a", "b"])


# ---- legends


def explained(skeleton: Skeleton = SKELETON, width: int = 400, **words: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture with its legend, split into both."""
    picture = flat(width, 30, 128)
    whole = drawing.with_legend(picture, skeleton, **words)
    return whole[:30], whole[30:]


def colours_in(strip: np.ndarray) -> set[tuple[int, ...]]:
    """The colours of marks in a legend. Its letters are blended with the background: other greys."""
    marks = {*drawing.COLOURS.values(), drawing.TRUTH, drawing.ERROR}
    return {tuple(colour) for colour in strip.reshape(-1, 3).tolist()} & marks


@pytest.mark.parametrize(
    ("names", "edges", "truth", "colours"),
    [
        (("nose",), (), "", {drawing.MIDDLE}),
        (("left_eye", "right_eye"), (), "", {drawing.LEFT, drawing.RIGHT}),
        (("left_eye", "left_ear"), ((0, 1),), "", {drawing.LEFT}),
        (("left_eye", "right_eye"), ((0, 1),), "", {drawing.LEFT, drawing.RIGHT, drawing.MIDDLE}),
        (("nose",), (), "label", {drawing.MIDDLE, drawing.TRUTH, drawing.ERROR}),
    ],
)
def test_a_legend_shows_the_colours_that_the_picture_may_have_and_no_others(names, edges, truth, colours) -> None:
    picture, strip = explained(Skeleton(names, edges=edges), points="prediction", truth=truth)
    assert (picture == 128).all()
    assert colours_in(strip) == colours


def test_a_legend_writes_what_the_dots_are() -> None:
    (_, labels), (_, predictions) = explained(points="label"), explained(points="prediction")
    assert labels.shape[1] == predictions.shape[1] == 400
    assert (labels[: drawing.CAPTION] != predictions[: drawing.CAPTION]).any()


@pytest.mark.parametrize("width", [20, 200, 400, 2000])
def test_a_legend_is_never_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put = drawing.cv2.putText
    monkeypatch.setattr(drawing.cv2, "putText", lambda bar, text, *rest: written.append(text) or put(bar, text, *rest))
    picture, strip = explained(width=width, points="prediction", truth="label")
    assert written == [
        *("prediction, the object's left", "prediction, the object's right", "prediction, neither side"),
        *("edge of the skeleton", "label", "error: from label to prediction"),
    ]
    assert (picture[:, :width] == 128).all()  # a narrow picture has background beside it
    assert (picture[:, width:] == drawing.BACKGROUND).all()
    edge = strip[:, -2:]
    assert (edge == drawing.BACKGROUND).all()
