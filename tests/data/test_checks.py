"""Labels that cannot be right together are refused, or doubted in a line, with the likely cause."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.checks import hardly_labelled, label_doubts, say_doubts
from keylite.data.dataset import Dataset

COUNT = 20
WIDTH, HEIGHT = 200, 160


def sound(count: int = COUNT, seed: int = 0) -> Dataset:
    """Objects of four points in boxes that hold them, anywhere in images of 200x160 px."""
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, (WIDTH - 90, HEIGHT - 80), (count, 2)) + 10
    sides = generator.uniform((40, 30), (80, 70), (count, 2))
    xy = corner[:, None] + generator.uniform(0.1, 0.9, (count, 4, 2)) * sides[:, None]
    images = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count
    return from_arrays(images, xy, boxes=np.hstack([corner, corner + sides]), name="mine")


def boxes(change) -> object:
    """A change of x0, y0, width and height, each (N,), as a COCO file that means something else is read."""

    def made(data: Dataset) -> Dataset:
        x, y, w, h = np.hstack([data.box[:, :2], data.box[:, 2:] - data.box[:, :2]]).T
        x, y, w, h = (np.broadcast_to(column, x.shape) for column in change(x, y, w, h))
        return dataclasses.replace(data, box=np.stack([x, y, x + w, y + h], axis=1))

    return made


def points(change) -> object:
    """A change of the points; their boxes stay."""
    return lambda data: data.with_xy(change(data.xy))


def first(data: Dataset, count: int, change) -> Dataset:
    """The data set, the first objects changed."""
    changed = change(data)
    xy, box = data.xy.copy(), data.box.copy()
    xy[:count], box[:count] = changed.xy[:count], changed.box[:count]
    return dataclasses.replace(data.with_xy(xy), box=box)


def without_boxes(data: Dataset) -> Dataset:
    return dataclasses.replace(data, box=np.full((len(data), 4), np.nan))


PER_CENT = np.array([WIDTH, HEIGHT]) / 100
REFUSED = {  # what all labels are made to be, and the words
    "boxes in per cent": (
        boxes(lambda x, y, w, h: (x / PER_CENT[0], y / PER_CENT[1], w / PER_CENT[0], h / PER_CENT[1])),
        "boxes look like per cent of the image: multiply them by its width and height, and divide by 100",
    ),
    "boxes of a picture of a fifth": (
        boxes(lambda x, y, w, h: (x / 5, y / 5, w / 5, h / 5)),
        "boxes look like px of images of about (39|40)x(31|32): scale them as the images were scaled",
    ),
    "boxes of other objects": (
        lambda data: dataclasses.replace(data, box=np.tile([160.0, 120, 199, 159], (len(data), 1))),
        "lies in the box, even if it were 2 times as large .* to another object, or to another size of the image",
    ),
    "points in fractions": (
        points(lambda xy: xy / (WIDTH, HEIGHT)),
        "20 of 20 objects lie within 1 px .*keypoints look like fractions of the image: multiply them by its width and",
    ),
    "points in fractions, shifted when read": (points(lambda xy: xy / (WIDTH, HEIGHT) + 0.5), "look like fractions"),
    "points of a larger picture": (points(lambda xy: xy + 300), "20 of 20 objects lie outside their image .* resized"),
    "points x for y in flat pictures": (
        lambda data: without_boxes(data).with_xy(data.xy[..., ::-1] * (0.5, 0.15) + (0, 165)),
        "lie outside their image .* x and y look swapped",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_labels_of_which_nothing_can_be_learnt_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=f"^mine: .*{words}"):
        label_doubts(change(sound()), "annotation")


DOUBTED = {
    "boxes x0, y0, x1, y1 in a COCO file": (
        boxes(lambda x, y, w, h: (x, y, x + w, y + h)),
        "boxes look like x0, y0, x1, y1, but x0, y0, width, height is expected",
    ),
    "boxes by their centre": (
        boxes(lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)),
        "boxes look like centre x, centre y, width, height",
    ),
    "a few boxes of other objects": (
        lambda data: first(
            data, 3, lambda data: dataclasses.replace(data, box=np.tile([-30.0, -30, 1, 1], (len(data), 1)))
        ),
        r"in 3 of 20 objects no labelled point lies in the box, .* \(such as image_000000, image_000001",
    ),
    "x and y swapped": (
        lambda data: without_boxes(data).with_xy(np.clip(data.xy + (40, 0), 0, (198, 159))[..., ::-1]),
        "labelled points lie outside their image, and 0 would if x and y were swapped",
    ),
    "points in per cent": (
        lambda data: without_boxes(data).with_xy(data.xy / PER_CENT),
        "no point lies beyond 100 px, although the images are larger; if these are per cent, multiply",
    ),
    "a third in fractions": (
        lambda data: first(without_boxes(data), 7, points(lambda xy: xy / (WIDTH, HEIGHT))),
        r"all labelled points of 7 of 20 objects lie within 1 px of the image's corner \(such as image_000000, .*, but not "
        "those of the others; keypoints look like fractions of the image",
    ),
    "a single object in fractions": (
        lambda data: first(without_boxes(data), 1, points(lambda xy: xy / (WIDTH, HEIGHT))),
        "all labelled points of 1 of 20 objects lie within 1 px",
    ),
    "some all at (0, 0)": (
        lambda data: first(without_boxes(data), 4, points(lambda xy: 0 * xy)),
        "4 of 20 objects have all labelled points on one spot",
    ),
    "some all at the first pixel": (
        lambda data: first(without_boxes(data), 4, points(lambda xy: 0 * xy + 0.5)),
        "4 of 20 objects have all labelled points on one spot",
    ),
    "a keypoint in fractions": (
        lambda data: data.with_xy(np.where(np.arange(4)[:, None] == 2, data.xy / (WIDTH, HEIGHT), data.xy)),
        "within 1 px of the image's corner in every object: k2; keypoints look like fractions of the image",
    ),
    "a keypoint in fractions, where it is labelled": (
        lambda data: first(
            data.with_xy(np.where(np.arange(4)[:, None] == 2, data.xy / (WIDTH, HEIGHT), data.xy)),
            4,
            points(lambda xy: np.where(np.arange(4)[:, None] == 2, np.nan, xy)),
        ),
        "within 1 px of the image's corner in every object: k2; keypoints look like fractions of the image",
    ),
    "no label": (
        lambda data: first(data, 2, points(lambda xy: np.full_like(xy, np.nan))),
        "2 of 20 objects have no labelled point",
    ),
    "all points on one spot": (
        lambda data: first(data, 1, points(lambda xy: np.broadcast_to(xy[:, :1], xy.shape))),
        r"1 of 20 objects has all labelled points on one spot \(such as image_000000\)",
    ),
    "all objects the same": (
        lambda data: dataclasses.replace(data.with_xy(np.tile(data.xy[:1], (20, 1, 1))), box=data.box[[0] * 20]),
        "all 20 objects have the very same points",
    ),
}


@pytest.mark.parametrize(
    ("objects", "labels", "told"), [(1, 1, False), (2, 1, False), (3, 1, True), (6, 1, True), (1, 2, True)]
)
def test_single_points_at_the_corner_are_no_fractions_unless_many(objects: int, labels: int, told: bool) -> None:
    data = without_boxes(sound())
    xy = data.xy.copy()
    xy[:objects] = np.nan
    xy[:objects, :labels] = np.linspace(0.2, 0.9, objects * labels).reshape(objects, labels, 1)
    assert any("fractions" in line for line in label_doubts(data.with_xy(xy), "annotation")) == told


@pytest.mark.parametrize(("spots", "told"), [(1, False), (2, True)])
def test_a_keypoint_that_is_always_on_one_spot_is_a_mark_and_no_fraction(spots: int, told: bool) -> None:
    data = without_boxes(sound())
    xy = data.xy.copy()
    xy[:, 2] = 0.5
    xy[:10, 2] *= spots
    lines = label_doubts(data.with_xy(xy), "image")
    assert ["within 1 px of the image's corner in every object: k2" in line for line in lines] == [True] * told


@pytest.mark.parametrize(("change", "words"), DOUBTED.values(), ids=DOUBTED)
def test_labels_that_may_be_wrong_are_doubted(change, words: str, caplog: pytest.LogCaptureFixture) -> None:
    data = change(sound())
    with caplog.at_level(logging.WARNING, "keylite"):
        say_doubts(data, "annotation")
    (record,) = caplog.records
    assert re.match(f"mine: .*{words}", record.getMessage())


COUNTED = {
    "from the corner of their box": lambda data: data.with_xy(data.xy - data.box[:, None, :2]),
    "from the bottom": lambda data: data.with_xy(data.xy * (1, -1) + (0, HEIGHT)),
}


@pytest.mark.parametrize("near", [False, True], ids=["anywhere", "in the middle"])
@pytest.mark.parametrize(("words", "change"), COUNTED.items(), ids=COUNTED)
def test_points_counted_from_elsewhere_are_told(words: str, change, near: bool) -> None:
    """Refused where most boxes hold none of them, else doubted."""
    data = sound()
    if near:  # boxes of 30 to 60 px around the middle, a little above it
        centre, half = np.array([WIDTH / 2, HEIGHT / 2 - 12]), np.linspace(15, 30, COUNT)[:, None]
        box = np.hstack([centre - half, centre + half])
        data = dataclasses.replace(
            data.with_xy(centre + half[:, None] * [(-0.8, -0.7), (0.8, 0.5), (0, 0), (0.1, 0.8)]), box=box
        )
    try:
        lines = label_doubts(change(data), "annotation")
    except ValueError as refusal:
        lines = [str(refusal)]
    assert any(f"{words} of the image" in line or f"{words}: add" in line for line in lines), lines


@pytest.mark.parametrize("seed", range(5))
def test_sound_labels_are_not_doubted(seed: int) -> None:
    assert label_doubts(sound(seed=seed), "annotation") == []
    assert label_doubts(without_boxes(sound(seed=seed)), "image") == []
    assert label_doubts(sound(1, seed), "annotation") == []


def test_corners_taken_for_sides_are_told_although_their_boxes_hold_the_points() -> None:
    data = sound()
    x, y, x1, y1 = (data.box * (0.4, 0.4, 0.4, 0.4)).T
    near = dataclasses.replace(data.with_xy(0.4 * data.xy), box=np.stack([x, y, x1, y1], axis=1))
    assert label_doubts(near, "annotation") == []
    read = dataclasses.replace(near, box=np.stack([x, y, x + x1, y + y1], axis=1))
    assert label_doubts(read, "annotation") == [
        "boxes look like x0, y0, x1, y1, but x0, y0, width, height is expected: write x1 - x0 and y1 - y0"
    ]


def test_boxes_of_an_array_by_their_centre_are_told() -> None:
    data = sound()
    shift = data.box[:, :2] - 2
    sides = data.box[:, 2:] - data.box[:, :2]
    near = data.with_xy(data.xy - shift[:, None])
    (doubt,) = label_doubts(dataclasses.replace(near, box=np.hstack([2 + sides / 2, sides])), "annotation")
    assert "boxes look like centre x, centre y, width, height" in doubt


def by_sides(data: Dataset) -> Dataset:
    """x0, y0, width, height in an array, of objects that begin at .45 of their sides."""
    sides = data.box[:, 2:] - data.box[:, :2]
    near = data.with_xy(data.xy - (data.box[:, :2] - 0.45 * sides)[:, None])
    return dataclasses.replace(near, box=np.hstack([0.45 * sides, sides]))


READINGS = {
    "by sides": (by_sides, "boxes look like x0, y0, width, height, but x0, y0, x1, y1 is expected"),
    "y first": (lambda data: dataclasses.replace(data, box=data.box[:, [1, 0, 3, 2]]), "as if x and y were swapped"),
}


@pytest.mark.parametrize(("change", "words"), READINGS.values(), ids=READINGS)
def test_boxes_of_an_array_that_are_read_otherwise_are_told(change, words: str) -> None:
    (doubt,) = label_doubts(change(sound()), "image")
    assert words in doubt


OTHER_SIZES = {
    "points of larger images": (
        points(lambda xy: 1.5 * xy),
        r"keypoints look like px of images of about (29|30)\dx24\d",
    ),
    "boxes of larger images": (
        lambda data: dataclasses.replace(data, box=3 * data.box),
        r"boxes look like px of images of about (5[4-9]|6[0-6])\dx4[4-9]\d: scale them as the images were scaled",
    ),
    "boxes of larger images, and a few points outside": (
        lambda data: first(
            dataclasses.replace(data, box=3 * data.box), 2, lambda data: data.with_xy(data.xy + (WIDTH, 0))
        ),
        r"boxes look like px of images of about (5[4-9]|6[0-6])\dx4[4-9]\d",
    ),
}


@pytest.mark.parametrize(("change", "words"), OTHER_SIZES.values(), ids=OTHER_SIZES)
def test_the_size_for_which_labels_were_made_is_told(change, words: str) -> None:
    lines = label_doubts(change(sound()), "image")
    assert any(re.search(words, line) for line in lines), lines


def test_points_to_one_side_of_their_box_do_not_make_its_sides_corners() -> None:
    times = np.linspace(1, 2, COUNT)[:, None, None]
    xy = placed(times * [[17.0, 20], [47, 60], [30, 40], [35, 45]], WIDTH, HEIGHT)
    box = times[:, 0] * [10.0, 10, 70, 70]
    assert label_doubts(dataclasses.replace(xy, box=box), "annotation") == []


def test_a_data_set_without_a_label_is_said_to_be_so() -> None:
    (line,) = label_doubts(placed(np.full((10, 4, 2), np.nan)), "image")
    assert line.startswith("10 of 10 objects have no labelled point")


@pytest.mark.parametrize("mark", [(0.0, 0.0), (-1.0, -1.0)])
def test_marks_for_missing_points_in_most_objects_are_named_as_the_cause(mark: tuple[float, float]) -> None:
    images, xy = [np.zeros((90, 90, 3), np.uint8)] * 5, np.tile(np.asarray(mark), (5, 2, 1))
    with pytest.raises(ValueError, match=r"5 of 5 objects lie .*; 10 labelled points of 5 .*`missing_mark="):
        label_doubts(from_arrays(images, xy), "image")


def test_boxes_count_less_if_whole_images_are_cropped() -> None:
    data = REFUSED["boxes in per cent"][0](sound())
    (doubt,) = label_doubts(data, "image")
    assert "look like per cent" in doubt


LOSES = {
    "boxes of other objects": (lambda data: dataclasses.replace(data, box=np.tile([-30.0, -30, 1, 1], (len(data), 1)))),
    "points in fractions": lambda data: points(lambda xy: xy / (WIDTH, HEIGHT))(without_boxes(data)),
    "points of a larger picture": lambda data: points(lambda xy: xy + 300)(without_boxes(data)),
}


@pytest.mark.parametrize("change", LOSES.values(), ids=LOSES)
def test_more_than_half_must_be_lost_to_be_refused(change) -> None:
    label_doubts(first(sound(), 10, change), "annotation")
    with pytest.raises(ValueError, match="11 of 20 objects"):
        label_doubts(first(sound(), 11, change), "annotation")


def placed(xy: np.ndarray, width: int = 300, height: int = 300) -> Dataset:
    """Objects without boxes, each in an image of this size."""
    return from_arrays([np.zeros((height, width, 3), np.uint8)] * len(xy), xy)


def scattered(low: float, high: float, count: int = 20) -> np.ndarray:
    """(count, 4, 2) px."""
    return np.random.default_rng(0).uniform(low, high, (count, 4, 2))


@pytest.mark.parametrize(
    ("at", "side", "refused"),
    [(1.6, 16, True), (1.61, 16, False), (-0.5, 16, True), (-0.51, 16, False), (1.0, 15, False)],
)
def test_fractions_lie_near_the_corner_of_images_that_are_not_tiny(at: float, side: int, refused: bool) -> None:
    for axis in (0, 1):
        xy = scattered(0, 1)
        xy[:, 2, axis] = at
        for size in ((side, 300), (300, side)):
            like = "as if -1 to 1 were" if at < -0.05 else "like fractions of"
            refusal = pytest.raises(ValueError, match=f"keypoints look {like} the image")
            with refusal if refused else contextlib.nullcontext():
                label_doubts(placed(xy, *size), "image")


SWAPPED = {  # objects of four points, of which so many lie outside, of those outside also if swapped: is it told?
    "a tenth": (20, 8, 0, True),
    "less": (20, 7, 0, False),
    "three of few": (5, 3, 0, True),
    "two of few": (5, 2, 0, False),
    "a tenth of them either way": (20, 20, 2, True),
    "more of them either way": (20, 20, 3, False),
}


@pytest.mark.parametrize(("count", "outside", "either", "told"), SWAPPED.values(), ids=SWAPPED)
def test_how_many_points_make_a_swap(count: int, outside: int, either: int, told: bool) -> None:
    xy = scattered(20, 140, count)
    xy[:outside, 0] = (10, 170) + np.arange(outside)[:, None]
    xy[:either, 0] = (210, 210) + np.arange(either)[:, None]
    lines = label_doubts(placed(xy, 200, 150), "image")
    assert [f"{outside} of {4 * count} labelled points lie outside" in line for line in lines] == [True] * told


@pytest.mark.parametrize(("either", "words"), [(1, "x and y look swapped"), (2, "were they made for other images")])
def test_points_outside_are_swapped_if_nearly_all_would_lie_inside(either: int, words: str) -> None:
    xy = scattered(0, 30)
    xy[..., 1] += 155
    xy[:either] += 200
    xy[:, 0] += 210  # a point of each lies outside either way
    with pytest.raises(ValueError, match=f"20 of 20 objects lie outside their image .*{words}"):
        label_doubts(placed(xy, 200, 150), "image")


PER_CENTS = {  # objects, side of the image, the last point, with a box: is it told?
    "told": (10, 150, (60, 60), False, True),
    "up to all": (10, 150, (100.5, 100.5), False, True),
    "from none": (10, 150, (-0.5, 60), False, True),
    "few objects": (9, 150, (60, 60), False, False),
    "small images": (10, 149, (60, 60), False, False),
    "beyond all": (10, 150, (100.6, 60), False, False),
    "below none": (10, 150, (-0.6, 60), False, False),
    "half of the width": (10, 150, (59.9, 60), False, False),
    "half of the height": (10, 150, (60, 59.9), False, False),
    "boxes": (10, 150, (60, 60), True, False),
}


@pytest.mark.parametrize(("count", "side", "last", "boxed", "told"), PER_CENTS.values(), ids=PER_CENTS)
def test_what_looks_like_per_cent(count: int, side: int, last: tuple[float, float], boxed: bool, told: bool) -> None:
    xy = scattered(5, 55, count)
    xy[:, 0] = (60, 60) if last[0] < 0 else (30, 30)
    xy[0, 0] = last
    xy[1, 0] = (60, 60) if last[0] < 0 else (31, 32)
    data = placed(xy, side, 300)
    if boxed:
        data.box[0] = [0, 0, 110, 110]
    assert ["per cent" in line for line in label_doubts(data, "image")] == [True] * told


@pytest.mark.parametrize(("away", "lost"), [(40, False), (40.1, True)])
@pytest.mark.parametrize("direction", [(-1, 0), (1, 0), (0, -1), (0, 1)])
def test_a_box_twice_as_large_must_hold_a_point(away: float, lost: bool, direction: tuple[int, int]) -> None:
    data = sound()
    xy = data.xy.copy()
    xy[0] = (100, 80) + away * np.array(direction) + np.arange(4)[:, None] * np.array(direction)
    data.box[0] = [80, 60, 120, 100]
    lines = label_doubts(data.with_xy(xy), "annotation")
    assert ["in 1 of 20 objects no labelled point lies in the box" in line for line in lines] == [True] * lost


def test_what_is_the_same_or_on_one_spot() -> None:
    xy = scattered(20, 140)
    same = np.tile(xy[:1], (3, 1, 1))
    assert label_doubts(placed(same[:2]), "image") == [], "two may be alike"
    (line,) = label_doubts(placed(same), "image")
    assert line.startswith("all 3 objects have the very same points")
    xy[0, 1:], xy[1, 2:] = np.nan, np.nan
    assert label_doubts(placed(xy), "image") == [], "a single point is on one spot"
    xy[1, 1] = xy[1, 0]
    (line,) = label_doubts(placed(xy), "image")
    assert line.startswith("1 of 20 objects has all labelled points on one spot (such as image_000001)")


@pytest.mark.parametrize(("height", "told"), [(96, True), (95, False)])
def test_boxes_that_overlap_by_more_than_95_per_cent_are_of_one_object(height: int, told: bool) -> None:
    data = in_one_image(placed(scattered(20, 90, 2)))
    data.box[:] = [[0, 0, 100, 100], [0, 0, 100, height]]
    assert [
        "1 of 2 objects has the points, or the box, of another" in line for line in label_doubts(data, "annotation")
    ] == [True] * told


def in_one_image(data: Dataset) -> Dataset:
    return dataclasses.replace(
        data, images=data.images[:1], image_names=("a.png",), image_index=np.zeros(len(data), np.int32)
    )


def test_objects_on_top_of_each_other_are_counted() -> None:
    data = in_one_image(sound())
    assert label_doubts(data, "annotation") == []
    twice = data.subset([*range(20), 3, 7])
    moved = dataclasses.replace(twice, box=twice.box + np.where(np.arange(22) < 20, 0, 0.3)[:, None])
    for box in (moved.box, np.full((22, 4), np.nan)):
        (doubt,) = label_doubts(dataclasses.replace(moved, box=box), "annotation")
        assert doubt.startswith("2 of 22 objects have the points, or the box, of another object in the same image")
        assert "a.png#20, a.png#21" in doubt
    shifted = twice.with_xy(twice.xy + np.where(np.arange(22) < 20, 0, 1)[:, None, None])
    assert len(label_doubts(shifted, "annotation")) == 1, "of the same box"
    apart = dataclasses.replace(shifted, box=shifted.box + np.where(np.arange(22) < 20, 0, 8)[:, None])
    assert label_doubts(apart, "annotation") == []


def test_what_a_reader_doubted_is_said_once_for_both_parts() -> None:
    data = dataclasses.replace(sound(), doubts=("a mark?",))
    train, val = data.split(0.2)
    assert (train.doubts, val.doubts) == (("a mark?",), ())
    assert label_doubts(train, "annotation") == ["a mark?"]


TAUGHT = {  # objects, of which so many label the second of two keypoints: whether those are too few
    "none of one": (1, 0, True),
    "one of one": (1, 1, False),
    "one of eleven": (11, 1, True),
    "one of ten": (10, 1, False),
    "nine of a hundred": (100, 9, True),
    "ten of a hundred": (100, 10, False),
    "ten of a thousand": (1000, 10, False),
    "ten of 1001": (1001, 10, True),
}


@pytest.mark.parametrize(("count", "labelled", "few"), TAUGHT.values(), ids=TAUGHT)
def test_keypoints_with_hardly_any_label(count: int, labelled: int, few: bool) -> None:
    xy = np.full((count, 2, 2), 5.0)
    xy[labelled:, 1] = np.nan
    data = from_arrays([np.zeros((9, 9, 3), np.uint8)] * count, xy)
    assert hardly_labelled(data, data.xy) == ({"k1": labelled} if few else {})
