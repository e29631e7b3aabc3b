"""SLEAP and NWB files: written by sleap-io, read with the same points."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data.formats.reading import read_dataset
from keylite.runtime.errors import DataError

sio = pytest.importorskip("sleap_io", reason="needs keylite[sleap]")
NAN = float("nan")
POINTS = np.array([[[10.25, 12], [20 / 3, 30.5], [7, 8]], [[40, 12.5], [NAN, NAN], [9, 9]]])
SIZE = (60, 40)


@pytest.fixture
def skeleton():
    edges, pairs = [("nose", "left"), ("nose", "right")], [("left", "right")]
    return sio.Skeleton(nodes=["nose", "left", "right"], edges=edges, symmetries=pairs, name="mouse")


def labels(skeleton, video, frames=(0, 2)):
    """Two frames with an instance of each of two tracks, and one that a model predicted in the second frame."""
    tracks = [sio.Track("ada"), sio.Track("ben")]
    made = []
    for number in frames:
        instances = [
            sio.Instance.from_numpy(points + number, skeleton=skeleton, track=track)
            for points, track in zip(POINTS, tracks, strict=True)
        ]
        if number:
            scores = np.full(3, 0.5)
            instances.append(
                sio.PredictedInstance.from_numpy(POINTS[0], skeleton=skeleton, point_scores=scores, score=0.5)
            )
        made.append(sio.LabeledFrame(video=video, frame_idx=number, instances=instances))
    return sio.Labels(made)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"f{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        cv2.imwrite(path, np.full((*SIZE[::-1], 3), 40 * number, np.uint8))
    return paths


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE)
    for number in range(3):
        writer.write(np.full((*SIZE[::-1], 3), (0, 0, 80 * number), np.uint8))
    writer.release()
    return path


def assert_same(data, frames=(0, 2)):
    wanted = np.concatenate([POINTS + number for number in frames]) + 0.5
    np.testing.assert_allclose(data.xy, wanted, atol=1e-9, rtol=0)
    assert data.visible.tolist() == [[2, 2, 2], [2, 0, 2]] * 2
    assert (data.skeleton.names, data.skeleton.edges) == (("nose", "left", "right"), ((0, 1), (0, 2)))


def test_pictures_stay_files(skeleton, pictures, tmp_path):
    labels(skeleton, sio.Video.from_filename(pictures)).save(str(tmp_path / "l.slp"))
    data = read_dataset(tmp_path / "l.slp")
    assert_same(data)
    assert [path.name for path in data.images] == ["f0.png", "f2.png"]
    assert (data.ids, data.category, data.skeleton.mirror) == (("ada", "ben", "ada", "ben"), "mouse", (0, 2, 1))
    assert "left out: 1 predicted instance" in data.notes


def test_a_package_holds_its_pictures(skeleton, pictures, tmp_path):
    labels(skeleton, sio.Video.from_filename(pictures)).save(str(tmp_path / "l.pkg.slp"), embed=True, verbose=False)
    for path in pictures:
        Path(path).unlink()
    data = read_dataset(tmp_path / "l.pkg.slp")
    assert_same(data)
    assert [image.shape for image in data.images] == [(40, 60, 3)] * 2
    assert [int(image[0, 0, 0]) for image in data.images] == [0, 80]


def test_frames_of_a_video_are_read_also_where_it_moved(skeleton, video, tmp_path):
    made = labels(skeleton, sio.load_video(video))
    made.save(str(tmp_path / "l.slp"))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("l.slp", "clip.avi"):
        (tmp_path / name).rename(moved / name)
    data = read_dataset(moved / "l.slp", group="field:video")
    assert_same(data)
    assert data.image_names == ("clip.avi/000000.png", "clip.avi/000002.png")
    assert data.groups == ("clip.avi",)
    assert data.images[1][0, 0].tolist() == pytest.approx([160, 0, 0], abs=6), "red, not blue"


def test_videos_of_one_name_are_told_apart(skeleton, video, tmp_path):
    frames = []
    for number, camera in enumerate(("cam1", "cam2")):
        place = tmp_path / camera / "v.avi"
        place.parent.mkdir()
        place.write_bytes(Path(video).read_bytes())
        frames += labels(skeleton, sio.load_video(str(place)), frames=(number,)).labeled_frames
    sio.Labels(frames).save(str(tmp_path / "two.slp"))
    data = read_dataset(tmp_path / "two.slp", group="field:video")
    assert data.image_names == ("cam1/v.avi/000000.png", "cam2/v.avi/000001.png")
    assert data.groups == ("cam1/v.avi", "cam2/v.avi")


def test_nwb_is_read(skeleton, video, tmp_path):
    made = labels(skeleton, sio.load_video(video))
    for frame in made:  # sleap-io would write predicted instances of this kind of file as placed ones
        frame.instances = frame.user_instances
    sio.save_nwb(made, str(tmp_path / "l.nwb"), nwb_format="annotations")
    assert_same(read_dataset(tmp_path / "l.nwb"))


def test_what_cannot_be_read_is_one_line(skeleton, video, tmp_path):
    labels(skeleton, sio.load_video(video)).save(str(tmp_path / "l.slp"))
    whole = (tmp_path / "l.slp").read_bytes()
    (tmp_path / "cut.slp").write_bytes(whole[:3000])
    Path(video).unlink()
    for name, words in (("cut.slp", r"cut\.slp: sleap-io cannot read"), ("l.slp", r"clip\.avi: no such video")):
        with pytest.raises(DataError, match=words) as refusal:
            read_dataset(tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_predictions_alone_are_no_labels(skeleton, pictures, tmp_path):
    made = labels(skeleton, sio.Video.from_filename(pictures))
    for frame in made:
        frame.instances = [one for one in frame.instances if isinstance(one, sio.PredictedInstance)]
    made.save(str(tmp_path / "l.slp"))
    with pytest.raises(DataError, match="no object has points; 1 predicted instance"):
        read_dataset(tmp_path / "l.slp")
