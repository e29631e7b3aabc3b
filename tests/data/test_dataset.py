"""A data set keeps its columns together, its groups whole and its bad images no secret."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.groups import group_by_name
from keylite.data.problems import object_problems, points_outside, require_whole_objects
from keylite.data.sheets import TILE
from keylite.runtime.boxes import as_boxes
from keylite.runtime.drawing import CAPTION, MIDDLE
from keylite.runtime.images import Picture, write_image
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton

NAN = float("nan")


def ramp(height: int, width: int) -> np.ndarray:
    """A picture with all tones, uint8 (height, width, 3)."""
    return np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)


def made(count: int = 40, groups: int = 8, seed: int = 0) -> Dataset:
    """`count` tiny pictures of two points, in groups of unequal size."""
    generator = np.random.default_rng(seed)
    images = [np.full((4, 6, 3), i % 256, np.uint8) for i in range(count)]
    of_group = [f"subject {int(g)}" for g in np.sort(generator.integers(0, groups, count))]
    return from_arrays(images, generator.uniform(0, 4, (count, 2, 2)), groups=of_group)


def several_per_image() -> Dataset:
    """Three objects in two images; the first two share one."""
    data = from_arrays(["a.png", "b.png"], np.ones((2, 1, 2)))
    return dataclasses.replace(
        data,
        image_index=np.array([0, 0, 1], np.int32),
        xy=np.arange(6, dtype=float).reshape(3, 1, 2),
        visible=np.full((3, 1), 2, np.uint8),
        box=np.full((3, 4), np.nan),
        area=np.full(3, np.nan),
        group_index=np.array([0, 0, 1], np.int32),
    )


@pytest.mark.parametrize("fractions", [(0.2,), (0.2, 0.2), (0.01,), (0.9,)])
@pytest.mark.parametrize("seed", range(5))
def test_split_never_cuts_a_group(fractions: tuple[float, ...], seed: int) -> None:
    data = made(seed=seed)
    parts = data.split(*fractions, seed=seed)
    assert len(parts) == len(fractions) + 1
    groups = [set(part.groups) for part in parts]
    assert all(groups), "no part is empty"
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(data.groups)
    pixels = sorted(int(image[0, 0, 0]) for part in parts for image in part.images)
    assert pixels == list(range(len(data))), "every object is in one part"


def test_split_is_near_the_fraction_and_follows_its_seed() -> None:
    data = made(count=400, groups=100)
    train, val, test = data.split(0.2, 0.1, seed=3)
    largest = int(np.bincount(data.group_index).max())
    assert 80 <= len(val) < 80 + largest
    assert 40 <= len(test) < 40 + largest
    assert len(train) > 240
    assert [part.fingerprint() for part in data.split(0.2, 0.1, seed=3)] == [
        part.fingerprint() for part in (train, val, test)
    ]
    assert data.split(0.2, 0.1, seed=4)[1].fingerprint() != val.fingerprint()
    assert (train.name, val.name, test.name) == ("arrays", "arrays, part 2", "arrays, part 3")


@pytest.mark.parametrize("fractions", [(), (0.0,), (1.0,), (0.6, 0.5), (-0.1,), (float("nan"),)])
def test_split_refuses_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected fractions above 0"):
        made().split(*fractions)


def test_split_needs_groups() -> None:
    with pytest.raises(ValueError, match=r"1 group\(s\) cannot be split into 2 parts; choose a finer `group`"):
        made(groups=1).split(0.5)
    two = made(groups=8).regrouped(["a"] * 20 + ["b"] * 20)
    assert [len(part) for part in two.split(0.1)] == [20, 20]


@pytest.mark.parametrize("folds", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_folds_are_of_whole_groups_and_about_equal_size(folds: int, seed: int) -> None:
    data = made(400, groups=60, seed=seed)
    part = data.fold_of(folds, seed)
    sizes = np.bincount(part)[1:]
    assert sizes.sum() == 400, "numbered from 1, every object in one"
    assert len(sizes) == folds
    assert len({*zip(data.group_index.tolist(), part.tolist(), strict=True)}) == len(data.groups), "no group is cut"
    assert np.ptp(sizes) <= 4  # measured 3; the largest groups, dealt out first, have 12 and more
    first = [int(data.group_index[part == number].min()) for number in range(1, folds + 1)]
    assert first == sorted(first)


def test_folds_follow_their_seed() -> None:
    data = made(400, groups=60)
    np.testing.assert_array_equal(data.fold_of(5, 3), data.fold_of(5, 3))
    assert (data.fold_of(5, 3) != data.fold_of(5, 4)).mean() > 0.5


def test_one_group_of_most_objects_leaves_the_rest_to_the_other_folds() -> None:
    data = from_arrays([np.zeros((2, 2, 3), np.uint8)] * 12, np.ones((12, 1, 2)), groups=[*"aaaaaaaabbcc"])
    assert np.bincount(data.fold_of(3)).tolist() == [0, 8, 2, 2]


TOO_FEW = {
    "a single group": (1, "all 12 objects are in one group, so folds by group are impossible.*`group`.*`blocks=True`"),
    "fewer groups than folds": (3, "3 groups do not make 4 folds; ask for 3 at most"),
}


@pytest.mark.parametrize(("groups", "words"), TOO_FEW.values(), ids=TOO_FEW)
def test_folds_need_groups(groups: int, words: str) -> None:
    data = from_arrays([np.zeros((2, 2, 3), np.uint8)] * 12, np.ones((12, 1, 2)))
    with pytest.raises(ValueError, match=words):
        data.regrouped([f"g{i % groups}" for i in range(12)]).fold_of(4)


def frames(count: int, seed: int) -> Dataset:
    """So many frames of one video in any order, x the number of the frame."""
    numbers = np.random.default_rng(seed).permutation(count)
    return from_arrays([f"video/img{n}.png" for n in numbers], numbers[:, None, None] * np.ones((1, 1, 2)))


@pytest.mark.parametrize(("count", "blocks"), [(12, 3), (116, 5), (11, 4), (5, 5), (7, 6)])
def test_blocks_are_runs_of_frames_by_number(count: int, blocks: int) -> None:
    data = frames(count, seed=0).in_blocks(blocks)
    in_order = data.group_index[np.argsort(data.xy[:, 0, 0])]
    assert (np.diff(in_order) >= 0).all(), "img2 before img10"
    sizes = np.bincount(in_order)
    assert len(sizes) == len(data.groups) == blocks
    assert np.ptp(sizes) <= 1
    assert not data.groups_named
    np.testing.assert_array_equal(data.fold_of(blocks), data.group_index + 1)  # a block a fold, in order


def test_objects_of_one_image_stay_in_a_block_and_blocks_are_of_objects() -> None:
    alone, crowd = frames(8, 0).subset(np.arange(4)), 4
    image_index = np.array([0] * crowd + [1, 2, 3], np.int32)
    data = dataclasses.replace(alone.subset(image_index), images=alone.images, image_names=alone.image_names)
    data = dataclasses.replace(data, image_names=("0", "1", "2", "3"), image_index=image_index).in_blocks(2)
    assert data.group_index.tolist() == [0] * crowd + [1, 1, 1]


def test_more_blocks_than_frames_are_as_many_as_frames() -> None:
    assert len(frames(3, 0).in_blocks(7).groups) == 3


def test_subset_keeps_columns_together() -> None:
    data = made()
    part = data.subset([30, 2, 7])
    for new, old in enumerate([30, 2, 7]):
        assert part[new].image is data[old].image
        assert part[new].group == data[old].group
        assert np.array_equal(part.xy[new], data.xy[old])
    assert len(part.images) == 3
    assert set(part.groups) == {data[i].group for i in (30, 2, 7)}
    with pytest.raises(ValueError, match="the data set is empty"):
        data.subset([])


def test_subset_takes_a_mask() -> None:
    data = made()
    mask = np.zeros(len(data), bool)
    mask[[3, 9]] = True
    assert np.array_equal(data.subset(mask).xy, data.xy[[3, 9]])
    assert np.array_equal(data.subset([-40, 39, -1]).xy, data.xy[[0, 39, 39]]), "counted from the end, too"


NO_CHOICE = {
    "a mask of another length": (
        lambda data: data.subset(np.array([True])),
        "subset: expected a mask of 40 objects, got 1",
    ),
    "fractions": (lambda data: data.subset([0.7]), r"subset: expected a list of whole numbers or a mask, got \[0.7\]"),
    "a number": (lambda data: data.subset(3), "subset: expected a list of whole numbers or a mask, got 3"),
    "one too far": (lambda data: data.subset([0, 99]), "subset: object 99 of 40"),
    "too far back": (lambda data: data.subset([-41]), "subset: object -41 of 40"),
    "no folds": (lambda data: data.fold_of(0), "folds: expected a whole number of at least 1, got 0"),
    "folds below none": (lambda data: data.fold_of(-1), "folds: expected a whole number of at least 1, got -1"),
    "half folds": (lambda data: data.fold_of(2.5), "folds: expected a whole number of at least 1, got 2.5"),
    "a seed below 0": (lambda data: data.fold_of(2, -1), "seed: expected a whole number of at least 0, got -1"),
    "a seed for a split": (
        lambda data: data.split(0.5, seed=0.5),
        "seed: expected a whole number of at least 0, got 0.5",
    ),
    "no blocks": (lambda data: data.in_blocks(0), "blocks: expected a whole number of at least 1, got 0"),
}


@pytest.mark.parametrize(("choose", "words"), NO_CHOICE.values(), ids=NO_CHOICE)
def test_objects_folds_and_blocks_that_cannot_be_are_one_line(choose, words: str) -> None:
    with pytest.raises((ValueError, IndexError), match=f"{words}$"):
        choose(made())


def test_subset_of_objects_that_share_an_image() -> None:
    part = several_per_image().subset([2, 1])
    assert part.image_names == ("a.png", "b.png")
    assert part.image_index.tolist() == [1, 0]
    assert part.xy[:, 0].tolist() == [[4, 5], [2, 3]]


def test_sample_names_number_the_objects_of_an_image() -> None:
    data = several_per_image()
    assert [data.sample_name(i) for i in range(3)] == ["a.png#0", "a.png#1", "b.png"]


def test_an_index_gives_an_object_and_several_a_data_set() -> None:
    data = several_per_image()
    assert [sample.name for sample in data] == ["a.png", "a.png", "b.png"]
    assert data[-1].name == data[np.int64(2)].name == "b.png"
    assert data[0].box is None
    for several in (slice(1, None), [1, 2], np.array([False, True, True])):
        part = data[several]
        np.testing.assert_array_equal(part.xy, data.xy[1:])
        assert part.image_names == ("a.png", "b.png")
    assert data[::-1].image_index.tolist() == [1, 0, 0]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"object {index} of 3$"):
            data[index]
    for nothing in (True, "a.png", 0.5, None):
        with pytest.raises(ValueError, match="expected a list of whole numbers or a mask, got"):
            data[nothing]


def test_a_data_set_prints_in_a_line_and_says_what_the_reader_said() -> None:
    data = dataclasses.replace(several_per_image(), notes=("one skipped",), doubts=("odd",), source="deep/labels.json")
    counts = "3 objects in 2 images, 1 keypoint, 2 groups"
    assert repr(data) == f'Dataset("{data.name}": {counts})'
    assert str(data).splitlines() == [f"{data.called}: {line}" for line in (counts, "one skipped", "odd")]
    assert repr(data[0]) == f'Sample("a.png": 1 of 1 point labelled, group "{data.groups[0]}")'
    assert repr(dataclasses.replace(data, name="two\nlines")) == f'Dataset("two\\nlines": {counts})'
    assert len(repr(made())) < 100


def test_a_plot_shows_labelled_objects_around_their_boxes() -> None:
    image = np.full((60, 80, 3), 128, np.uint8)
    image[:30] = blue = (0, 0, 200)  # above the box
    xy = np.array([[[40.0, 45.0], [NAN, NAN]]] * 3)
    boxes = np.array([[20.0, 35, 60, 55], [20, 35, 60, 55], [NAN] * 4])
    data = dataclasses.replace(from_arrays([image] * 3, xy), box=boxes)
    both = data[:2].plot()
    assert both.shape == (TILE // 2 + CAPTION + 8 + CAPTION, 2 * TILE + 12, 3)  # the last bar is the legend
    assert np.abs(both[4 + TILE // 4, 4 + TILE // 2].astype(int) - MIDDLE).max() < 40  # in the box's middle
    assert not (both == blue).all(axis=2).any()
    whole = data[2:].plot()
    assert whole.shape == (TILE * 3 // 4 + CAPTION + 8 + CAPTION, TILE + 8, 3)
    assert (whole[-CAPTION:] == MIDDLE).all(axis=2).any()
    assert (whole == blue).all(axis=2).any()
    alone = [data.plot(1, seed).shape for seed in range(8)]
    assert len(set(alone)) == 2  # the seed chooses
    for wrong in ({"count": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected a whole number of at least"):
            data.plot(**wrong)


def test_names_from_label_files_are_escaped_in_a_notebook() -> None:
    data = dataclasses.replace(made(), skeleton=Skeleton(("<b>", *"bc")[: len(made().skeleton)]), notes=("<i>&",))
    shown = data._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "&lt;i&gt;&amp;" in shown
    assert "<b>" not in shown
    assert "<i>" not in shown


@pytest.mark.parametrize("column", ["xy", "visible", "box", "area", "image_index", "group_index"])
def test_columns_of_another_length_are_refused(column: str) -> None:
    data = made()
    with pytest.raises(ValueError, match=f"{column}: expected shape"):
        dataclasses.replace(data, **{column: getattr(data, column)[..., None]})


def moved_label(data: Dataset) -> Dataset:
    xy = data.xy.copy()
    xy[3, 1, 0] += 1e-6
    return dataclasses.replace(data, xy=xy)


def changed_pixel(data: Dataset) -> Dataset:
    first = data.images[0].copy()
    first[0, 0, 0] += 1
    return dataclasses.replace(data, images=(first, *data.images[1:]))


CHANGES = {
    "a label moved": moved_label,
    "a point occluded": lambda data: dataclasses.replace(data, visible=np.ones_like(data.visible)),
    "boxes": lambda data: dataclasses.replace(data, box=np.tile([0.0, 0, 4, 6], (len(data), 1))),
    "a keypoint renamed": lambda data: data.with_skeleton(Skeleton(("a", "b"))),
    "groups": lambda data: data.regrouped(list(data.image_names)),
    "order": lambda data: data.subset(range(len(data))[::-1]),
    "one object fewer": lambda data: data.subset(range(len(data) - 1)),
    "a pixel in memory": changed_pixel,
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with(change: str) -> None:
    assert CHANGES[change](made()).fingerprint() != made().fingerprint()


def test_fingerprint_does_not_change_with_the_folder() -> None:
    names = ("a.png", "b.png")
    here, there = (
        dataclasses.replace(several_per_image(), images=tuple(Path(folder, name) for name in names), image_names=names)
        for folder in ("here", "there")
    )
    assert here.fingerprint() == there.fingerprint()
    assert made().fingerprint() == made().fingerprint()


def test_fingerprint_is_a_hash_of_texts_and_columns() -> None:
    """Model files, reports and resumed runs hold it: it must stay what it is."""
    data = dataclasses.replace(made(count=3, groups=2), image_names=("a.png", "\u00e4.png", ""))
    digest = hashlib.sha256()
    for texts in (data.skeleton.names, data.image_names, data.groups):
        digest.update(f"{len(texts)} ".encode())
        for text in texts:
            digest.update(text.encode() + b"\0")
    columns = (data.image_index, data.xy.astype(">f8").astype("<f8"), data.visible, data.box, data.group_index)
    for array in (*columns, *data.images):
        digest.update(array.tobytes())
    assert data.fingerprint() == digest.hexdigest()
    turned = dataclasses.replace(data, xy=np.asfortranarray(data.xy), images=tuple(i[:, ::-1] for i in data.images))
    assert not turned.xy.flags.c_contiguous
    assert turned.fingerprint() == data.fingerprint(), "pictures of one colour each"


def test_fingerprint_knows_where_a_list_ends() -> None:
    data = from_arrays(["a.png"], np.ones((1, 1, 2)), groups=["b"], skeleton=Skeleton(("k",)))
    other = dataclasses.replace(data, images=(Path("a.png"), Path("b")), image_names=("a.png", "b"), groups=("",))
    assert data.fingerprint() != other.fingerprint()


def test_check_images_names_all_bad_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths[:3]:
        write_image(path, ramp(8, 8))
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    paths[4].write_bytes(b"text")
    data = from_arrays(paths, np.arange(10, dtype=float).reshape(5, 1, 2))
    with pytest.raises(ValueError, match="3 of 5 images cannot be used") as caught:
        data.check_images(max_megapixels=100)
    for words in ("1.png: the PNG file is truncated", "3.png: no such", "4.png: not an image", "`skip_bad=True`"):
        assert words in str(caught.value)
    good = data.check_images(max_megapixels=100, skip_bad=True)
    assert good.images == (paths[0], paths[2])
    assert good.xy[:, 0].tolist() == [[0, 1], [4, 5]]
    assert len(good.notes) == 1
    assert "3 of 5 images" in good.notes[0]
    assert good.check_images(max_megapixels=100).fingerprint() == good.fingerprint()
    with pytest.raises(ValueError, match="nothing is left"):
        data.check_images(max_megapixels=1e-6, skip_bad=True)


def test_masked_means_unlabelled() -> None:
    pictures, xy = [ramp(8, 8)] * 2, np.ones((2, 2, 2))
    mask = np.zeros((2, 2, 2), bool)
    mask[1, 0] = True
    masked = np.ma.masked_array(xy, mask)
    for points in (masked, list(masked), masked.astype(int)):
        assert from_arrays(pictures, points).labelled.tolist() == [[True, True], [False, True]]
    boxes = np.ma.masked_array([[0, 0, 5, 5]] * 2, [[True] * 4, [False] * 4])
    data = from_arrays(pictures, xy, boxes=boxes)
    assert np.isnan(data.box).tolist() == [[True] * 4, [False] * 4]
    with pytest.raises(ValueError, match="boxes: expected finite pixels"):
        as_boxes(boxes)
    assert data.with_xy(masked).labelled.tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("limit", [float("nan"), 0, -1, "100", None])
def test_what_is_no_limit_of_megapixels_is_refused_before_an_image_is_read(limit, tmp_path: Path) -> None:
    data = from_arrays([tmp_path / "none.png"], np.zeros((1, 1, 2)))
    for opens in (data.check_images, lambda limit: Predictor(tmp_path / "none.onnx", max_megapixels=limit)):
        with pytest.raises(ValueError, match="^max_megapixels: expected a number above 0, got"):
            opens(limit)


def labelled_at(folder: Path, sizes: list[tuple[int, int]]) -> Dataset:
    """An image of 8 x 6 px for each size that its labels claim, one object each."""
    paths = [folder / f"{i}.png" for i in range(len(sizes))]
    for path in paths:
        write_image(path, ramp(6, 8))
    data = from_arrays(paths, np.full((len(sizes), 1, 2), 3.0))
    return dataclasses.replace(data, image_sizes=np.array(sizes))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        pytest.param((8, 6), "", id="right"),
        pytest.param((0, 0), "", id="unknown"),
        pytest.param((8, 0), "", id="half-known"),
        pytest.param((640, 480), "labelled at 640x480 px, but the picture is 8x6", id="scaled"),
        pytest.param((6, 8), "6x8 px, but the picture is 8x6 (labelled before its EXIF turn?", id="turned"),
        pytest.param((0, 7), "labelled at ?x7 px", id="half-wrong"),
    ],
)
def test_labels_made_at_another_size_are_refused(size: tuple[int, int], words: str, tmp_path: Path) -> None:
    data = labelled_at(tmp_path, [(8, 6), size])
    if not words:
        assert len(data.check_images()) == 2
        return
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be used: .*1\.png: labelled at") as caught:
        data.check_images()
    assert words in str(caught.value)
    kept = data.check_images(skip_bad=True)
    assert kept.images == data.images[:1]
    assert kept.image_sizes.tolist() == [[8, 6]]
    assert words in kept.notes[0]


def test_boxes_outside_the_picture_are_refused_and_points_counted(tmp_path: Path) -> None:
    data = labelled_at(tmp_path, [(0, 0)] * 4)
    data.box[:3] = [[8, 0, 9, 5], [-3, -3, 1, 1], [0, -5, 4, 0]]
    data.xy[1:] = [9, 3]
    with pytest.raises(ValueError, match="^arrays: 2 of 4 objects cannot be used") as caught:
        data.check_images()
    for words in ("0.png: box [8.0, 0.0, 9.0, 5.0] (xyxy) lies outside its 8x6 image", "2.png: box", "`skip_bad=True`"):
        assert words in str(caught.value)
    assert "1.png" not in str(caught.value)
    kept = data.check_images(skip_bad=True)
    assert kept.images == (data.images[1], data.images[3])
    assert kept.notes[0] == "2 labelled points lie outside their image"
    assert "2 of 4 objects" in kept.notes[1]
    assert kept.check_images(max_megapixels=50).notes == kept.notes, "said once"


def test_ctrl_c_does_not_wait_for_the_images_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    released, finished = threading.Event(), []

    def open_it(data: Dataset, image: int) -> Picture:
        if image == 0:
            raise KeyboardInterrupt
        released.wait(10)
        finished.append(image)
        return Picture("", ramp(4, 6), (4, 6, 3))

    monkeypatch.setattr(Dataset, "open_image", open_it)
    with pytest.raises(KeyboardInterrupt):
        made(200).check_images()
    assert finished == []
    released.set()


def grouped(names: list[str], folder: Path, group: str) -> Dataset:
    data = from_arrays([folder / name for name in names], np.ones((len(names), 1, 2)))
    return data.regrouped(group_by_name(names, group), named=group.startswith("regex"))


FRAMES = ["0.png", "1.png", "2.png", "3.png"]
SHARED_GROUPS = {
    "images of one name in two folders": ("image", "there", FRAMES, []),
    "the same images": ("image", "here", FRAMES[2:], ["2.png", "3.png"]),
    "the same images through a link": ("image", "link", FRAMES[2:], ["2.png", "3.png"]),
    "blocks of two videos": ("block:2", "there", FRAMES, []),
    "blocks with an image of the other": ("block:2", "here", FRAMES[3:], ["block 00001"]),
    "subjects by name": ("regex:[12]", "there", FRAMES[1:2], ["1"]),
}


@pytest.mark.parametrize("case", SHARED_GROUPS)
def test_shared_groups(case: str, tmp_path: Path) -> None:
    group, folder, names, expected = SHARED_GROUPS[case]
    (tmp_path / "link").symlink_to(tmp_path / "here")
    mine = FRAMES[1:3] if group.startswith("regex") else FRAMES
    data = grouped(mine, tmp_path / "here", group)
    assert data.shared_groups(grouped(names, tmp_path / folder, group)) == expected


def test_parts_of_a_split_share_nothing_and_arrays_are_told_apart() -> None:
    train, val = made().split(0.3)
    assert train.shared_groups(val) == []
    assert train.shared_groups(train) == list(train.groups)
    pixels = [ramp(4, 6) for _ in range(4)]
    one, two = (from_arrays(images, np.ones((2, 1, 2))) for images in (pixels[:2], pixels[2:]))
    assert one.groups == two.groups
    same = [from_arrays(images, np.ones((2, 1, 2)), groups=["ann", "ben"]) for images in (pixels[:2], pixels[2:])]
    assert same[0].shared_groups(same[1]) == ["ann", "ben"], "names of subjects"
    assert same[0].shared_groups(one.regrouped(["ann", "x"], named=False)) == ["ann", "ben"], "of the same images"
    assert same[0].shared_groups(two.regrouped(["ann", "x"], named=False)) == []
    assert one.shared_groups(two) == []
    assert one.shared_groups(one) == list(one.groups)


def test_regrouped() -> None:
    data = made(count=4, groups=1).regrouped(["b", "a", "b", "c"])
    assert data.groups == ("a", "b", "c")
    assert data.group_index.tolist() == [1, 0, 1, 2]
    assert made(count=2, groups=1).regrouped([10, 2]).groups == ("10", "2")
    with pytest.raises(ValueError, match="names_per_object: expected 4, one per object, got 1"):
        made(count=4, groups=1).regrouped(["a"])


def test_from_arrays() -> None:
    xy = np.array([[[1.0, 2.0], [np.nan, np.nan]], [[3.0, 4.0], [5.0, 6.0]]])
    data = from_arrays(["x/a.png", "b.png"], xy, visible=np.array([[1, 0], [0, 2]]), boxes=[[0, 0, 4, 4]] * 2)
    assert data.skeleton.names == ("k0", "k1")
    assert data.groups == ("b.png", "x/a.png")
    assert data.visible.tolist() == [[1, 0], [0, 2]]
    assert data.labelled.tolist() == [[True, False], [False, True]], "visible 0 is unlabelled whatever xy says"
    assert data.box.shape == (2, 4)
    assert data.images[0] == Path("x/a.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"xy": np.ones((2, 2))}, r"xy: expected shape \(1, K, 2\)"),
        ({"xy": np.ones((2, 1, 2))}, "one entry per image"),
        ({"xy": [[["a", 1]]]}, "xy: expected an array of numbers, got"),
        ({"boxes": [[1, 2, 3, 4], [1]]}, "boxes: expected an array of numbers, got"),
        ({"groups": ["a", "b"]}, "groups: expected 1, one per image, got 2"),
        ({"xy": np.ones((1, 1, 2), complex)}, "xy: expected an array of numbers, got"),
        ({"boxes": np.ones((1, 3))}, r"boxes: expected shape \(1, 4\)"),
        ({"images": None}, "images: expected a list, one entry per image, got None"),
        ({"images": "a.png"}, "images: expected a list, one entry per image, got 'a.png'"),
        ({"images": [["a.png"]]}, "images: expected arrays or paths"),
        ({"groups": 3}, "groups: expected a list, one entry per image, got 3"),
        ({"groups": np.array("a")}, "groups: expected a list"),
        ({"xy": np.broadcast_to(1.0, (10**5, 10**5, 2))}, r"xy: expected shape \(1, K, 2\)"),  # 160 GB of float64
        ({"visible": np.ones((1, 3))}, "visible: expected shape"),
        ({"visible": [["seen"]]}, "visible: expected an array of numbers, got"),
        ({"skeleton": Skeleton(("a", "b"))}, r"xy: expected shape \(1, 2, 2\)"),
        ({"images": [], "xy": np.ones((0, 1, 2))}, "the data set is empty"),
    ],
)
def test_from_arrays_refuses(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_arrays(**({"images": ["a.png"], "xy": np.ones((1, 1, 2))} | arguments))


BAD_OBJECT = {  # of four objects the first and the last: what is wrong with them
    "x without y": ({"xy": [[4.0, np.nan], [1, 1]]}, "left is labelled (v 2) but lies at (4, nan)"),
    "infinite": ({"xy": [[1, 1], [np.inf, 2]]}, "right is labelled (v 2) but lies at (inf, 2)"),
    "absurdly far": ({"xy": [[1, 1], [1e9, 2]]}, "right is labelled (v 2) but lies at (1e+09, 2)"),
    "visible 3": ({"visible": [3, 2]}, "left: expected v 0, 1 or 2, got 3"),
    "visible -1": ({"visible": [2, -1]}, "right: expected v 0, 1 or 2, got -1"),
    "visible 0.5": ({"visible": [2, 0.5]}, "right: expected v 0, 1 or 2, got 0.5"),
    "visible NaN": ({"visible": [2, np.nan]}, "right: expected v 0, 1 or 2, got nan"),
    "visible, but NaN": ({"xy": [[np.nan] * 2, [1, 1]], "visible": [1, 2]}, "left is labelled (v 1) but lies at (nan"),
    "inverted box": ({"boxes": [10, 10, 5, 5]}, "box: expected a width and a height above 0, got -5 x -5"),
    "flat box": ({"boxes": [10, 10, 10, 15]}, "box: expected a width and a height above 0, got 0 x 5"),
    "half a box": ({"boxes": [10, 10, np.nan, 15]}, "box: expected four finite numbers"),
    "infinite box": ({"boxes": [10, 10, np.inf, 15]}, "box: expected four finite numbers"),
    "absurd box": ({"boxes": [0, 0, 1e300, 15]}, "box [0.0, 0.0, 1e+300, 15.0] (xyxy) reaches beyond 16777216 px"),
    "box in fractions": ({"boxes": [0.1, 0.2, 0.6, 0.7]}, "looks like fractions of the image: multiply"),
}


@pytest.mark.parametrize(("values", "words"), BAD_OBJECT.values(), ids=BAD_OBJECT)
def test_arrays_are_refused_as_a_file_is_all_bad_objects_at_once(values: dict, words: str) -> None:
    columns = {"xy": np.full((4, 2, 2), 7.0), "visible": np.full((4, 2), 2.0), "boxes": np.tile([2.0, 3, 9, 9], (4, 1))}
    for name, value in values.items():
        columns[name][[0, 3]] = value
    names = [f"{letter}.png" for letter in "abcd"]
    with pytest.raises(ValueError) as caught:
        from_arrays(names, **columns, skeleton=Skeleton(("left", "right")), name="mine")
    line = str(caught.value)
    assert line.startswith("mine: 2 of 4 objects are bad: a.png: ")
    assert line.endswith("; mend them, or leave them out")
    assert line.count(words) == 2
    assert "d.png: " in line
    assert "b.png" not in line


FAR, BEYOND = 2.0**24, 2.0**24 + 2
LIMITS = {  # points, v, a box and the image's size: what is wrong with an object; None: nothing
    "as far as may be": ([[FAR, -FAR], [1, 1]], [2, 2], [-FAR, 0, FAR, 9], None, None),
    "a point beyond": (
        [[1, 1], [9, BEYOND]],
        [2, 1],
        None,
        None,
        "right is labelled (v 1) but lies at (9, 1.67772e+07)",
    ),
    "a point beyond that is none": ([[1, 1], [9, BEYOND]], [2, 0], None, None, None),
    "an edge beyond": ([[1, 1]] * 2, [2, 2], [0, -BEYOND, 9, 9], None, "reaches beyond 16777216 px"),
    "a pixel wide": ([[1, 1]] * 2, [2, 2], [2, 2, 3, 2.5], None, None),
    "less than a pixel": ([[1, 1]] * 2, [2, 2], [2, 2, 2.9, 2.9], None, "is less than 1 px wide and high"),
    "a line": ([[1, 1]] * 2, [2, 2], [2, 2, 2, 2.9], None, "expected a width and a height above 0, got 0 x 0.9"),
    "inside": ([[1, 1]] * 2, [2, 2], [39, 29, 50, 50], (40, 30), None),
    "outside": ([[1, 1]] * 2, [2, 2], [40, 29, 50, 50], (40, 30), "lies outside its 40x30 image"),
    "of unknown width": ([[1, 1]] * 2, [2, 2], [40, 29, 50, 50], (0, 30), None),
    "below an unknown width": ([[1, 1]] * 2, [2, 2], [40, 30, 50, 50], (np.nan, 30), "lies outside its ?x30 image"),
    "bad in two ways": ([[1, 1]] * 2, [2, 3], [2, 2, 2, 2], None, "right: expected v 0, 1 or 2, got 3"),
}


@pytest.mark.parametrize(("xy", "visible", "box", "size", "words"), LIMITS.values(), ids=LIMITS)
def test_an_object_is_good_up_to_the_limits(xy, visible, box, size, words: str | None) -> None:
    problems = object_problems(
        ("left", "right"),
        np.array([[[1, 1], [2, 2]], xy], float),
        np.array([[2, 2], visible]),
        np.array([[np.nan] * 4, box or [np.nan] * 4]),
        size and np.array([(np.nan, np.nan), size]),
    )
    assert list(problems) == ([] if words is None else [1])
    assert words is None or words in problems[1]


def test_points_on_the_edge_of_an_image_are_in_it() -> None:
    xy = np.array([[[0, 0], [40, 30], [-0.01, 5], [5, -0.01], [40.01, 5], [5, 30.01], [np.nan, 5]]])
    assert points_outside(xy, np.array([[40, 30]])).tolist() == [[False, False, True, True, True, True, False]]


WHOLE = {  # kinds of points, and pictures that hold one of each, of 20: are they the points of one object?
    "in all": ("ab", 20, True),
    "in 19": ("ab", 19, True),
    "in 18": ("ab", 18, False),
    "of three kinds": ("abc", 19, True),
    "of one kind": ("a", 20, False),
}


@pytest.mark.parametrize(("kinds", "count", "whole"), WHOLE.values(), ids=WHOLE)
def test_kinds_that_come_together_are_one_object(kinds: str, count: int, whole: bool) -> None:
    """In the other pictures one kind is there twice."""
    images = [image for image in range(20) for _ in kinds] + list(range(count, 20))
    of = [*kinds] * 20 + [kinds[0]] * (20 - count)
    if not whole:
        require_whole_objects(Path("l.json"), of, images)
        return
    with pytest.raises(
        ValueError, match=f"l.json: {len(kinds)} categories have one keypoint each, once in nearly every"
    ):
        require_whole_objects(Path("l.json"), of, images)


BAD_COLUMN = {
    "an image that is not there": (
        {"image_index": [0, 1, 2]},
        "1 of 3 objects are bad: object 2: image_index: expected 0 to 1, got 2",
    ),
    "an image before the first": ({"image_index": [-1, 0, 1]}, "object 0: image_index: expected 0 to 1, got -1"),
    "a group that is not there": ({"group_index": [0, 0, 2]}, "b.png: group_index: expected 0 to 1, got 2"),
    "no area": ({"area": [0.0, np.nan, 2]}, "a.png#0: area: expected a number above 0, or NaN .*, got 0"),
    "negative area": ({"area": [-3.0, np.nan, 2]}, "a.png#0: area: expected a number above 0, or NaN .*, got -3"),
    "infinite area": ({"area": [1, np.nan, np.inf]}, "b.png: area: .*, got inf"),
    "a place without a label": ({"visible": [[0], [2], [2]]}, r"a.png#0: k0 is unlabelled \(visible 0\) but lies at"),
    "a label without a place": ({"xy": [[[np.nan] * 2]] * 3}, r"3 of 3 objects .* k0 is labelled \(v 2\) but lies at"),
    "places that are no numbers": (
        {"image_index": [0.5, 0.0, 1.0]},
        "image_index: expected whole numbers, got float64",
    ),
}


@pytest.mark.parametrize(("columns", "words"), BAD_COLUMN.values(), ids=BAD_COLUMN)
def test_a_data_set_refuses_columns_that_cannot_be(columns: dict, words: str) -> None:
    data = several_per_image()
    assert len(data.subset([0, 2])) == 2
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(data, **{name: np.array(values) for name, values in columns.items()})


def test_the_files_that_an_output_may_fall_on_are_found_by_name() -> None:
    data = from_arrays(["x/a.png", "y/a.png", "b.png", np.zeros((4, 6, 3), np.uint8)], np.ones((4, 1, 2)))
    images = {"x/a.png": Path("x/a.png"), "y/a.png": Path("y/a.png")}
    assert data.files_named(("a.png", "c.png")) == images
    read = dataclasses.replace(data, source="l.json")
    assert read.files_named(["a.png"]) == images | {"data": Path("l.json")}, "its labels, whatever their name"


def test_images_names_and_sizes_are_of_one_length() -> None:
    data = several_per_image()
    with pytest.raises(ValueError, match=r"arrays: image_sizes: expected shape \(2, 2\), got \(3, 2\)"):
        dataclasses.replace(data, image_sizes=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="arrays: 2 images but 1 image names"):
        dataclasses.replace(data, image_names=("a.png",))


def test_array_images_are_refused_at_once() -> None:
    images = [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), np.uint8)]
    with pytest.raises(ValueError) as caught:
        from_arrays(images, np.array([[[1.0, 1]], [[1, np.nan]], [[1, 1]]]))
    line = str(caught.value)
    assert line.startswith("arrays: 2 of 3 images and 1 of 3 objects are bad: image_000001: expected a uint8 array")
    assert "float32 (4, 6, 3); scale it to 0..255" in line
    assert "image_000002: expected a uint8 array (H, W, 3) RGB, got uint8 (4, 6); make RGB of grey" in line


def test_with_xy_says_what_is_labelled() -> None:
    data = made(count=3)
    xy = data.xy.copy()
    xy[1, 0] = np.nan
    other = data.with_xy(xy)
    assert other.visible.tolist() == [[2, 2], [0, 2], [2, 2]]
    assert other.with_xy(data.xy).visible.tolist() == [[2, 2], [1, 2], [2, 2]], (
        "of a new point nobody said that it is seen"
    )


def test_whole_boxes_are_of_known_sizes_then_of_headers(tmp_path: Path) -> None:
    for name, width in (("a.png", 9), ("b.png", 7)):
        write_image(tmp_path / name, ramp(5, width))
    data = from_arrays([tmp_path / name for name in ("a.png", "b.png", "none.png")], np.ones((3, 1, 2)))
    data = dataclasses.replace(data.subset([2, 1, 0, 1]), image_sizes=np.array([[30, 20], [7, 0], [0, 0]]))
    with pytest.raises(FileNotFoundError, match=r"none.png: no such image"):
        data.whole_boxes()
    rest = data.subset([1, 2, 3])
    assert rest.whole_boxes().tolist() == [[0, 0, 7, 5], [0, 0, 30, 20], [0, 0, 7, 5]], "a known size is not looked up"
    whole = dataclasses.replace(rest, image_sizes=None)
    assert whole.whole_boxes().tolist() == [[0, 0, 7, 5], [0, 0, 9, 5], [0, 0, 7, 5]]
    assert whole.check_images().image_sizes.tolist() == [[9, 5], [7, 5]], "kept, so that no header is read again"


def test_images_are_checked_in_runs_and_named_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(50)
    bad = {3, 17, 31, 32, 49}

    def open_it(data: Dataset, image: int) -> Picture:
        if image in bad:
            raise ValueError(f"{image} is bad")
        return Picture("", ramp(4, 6), (4, 6, 3))

    monkeypatch.setattr(Dataset, "open_image", open_it)
    with pytest.raises(ValueError, match="5 of 50 images cannot be used: 3 is bad; 17 is bad; 31 .*; 32 .*; 49 is bad"):
        data.check_images()
    kept = data.check_images(skip_bad=True)
    assert kept.image_names == tuple(name for i, name in enumerate(data.image_names) if i not in bad)
    assert kept.image_sizes.tolist() == [[6, 4]] * 45


def test_what_was_checked_is_read_again_for_another_limit_alone(tmp_path: Path) -> None:
    data = labelled_at(tmp_path, [(0, 0)] * 2).check_images(max_megapixels=9)
    for path in data.images:
        path.unlink()
    assert data.check_images(max_megapixels=9) is data
    assert data.check_images(max_megapixels=9, white_level=65535) is data
    for other in ({"max_megapixels": 8}, {"max_megapixels": 9, "white_level": 4095}, {}):
        with pytest.raises(ValueError, match="2 of 2 images cannot be used"):
            data.check_images(**other)


def test_an_object_whose_image_is_bad_is_no_bad_object_too(tmp_path: Path) -> None:
    data = labelled_at(tmp_path, [(0, 0)] * 3)
    data.box[:] = [[8, 0, 9, 5], [1, 1, 5, 5], [1, 1, 5, 5]]
    data.images[1].write_bytes(b"text")
    with pytest.raises(ValueError, match="1 of 3 images and 1 of 3 objects cannot be used: .*1.png: not .*0.png: box"):
        data.check_images()
    assert data.check_images(skip_bad=True).images == data.images[2:]


def test_two_bad_boxes_of_a_kind_stand_for_many(tmp_path: Path) -> None:
    data = labelled_at(tmp_path, [(0, 0)] * 13)
    data.box[1:] = [8, 0, 9, 5]
    with pytest.raises(
        ValueError, match=r"12 of 13 objects .*2.png: box \[8.0.* image; also .*3.png, .*, .*10.png; and 2 more; mend"
    ):
        data.check_images()


def test_one_picture_under_two_paths_is_one_group(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", f"{tmp_path}/x/../a.png", tmp_path / "b.png"]
    data = from_arrays(paths, np.full((3, 1, 2), 5.0))
    assert data.group_index.tolist() == [0, 0, 1]
