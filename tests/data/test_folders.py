"""A folder of pictures is what a person sees in it, and what is not taken is counted."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from keylite.data.folders import look_into
from keylite.prediction.sources import image_paths

FOLDERS = {  # what lies there, pictures taken, what is said of the rest
    "pictures alone": (["b.jpg", "a.PNG"], ["a.PNG", "b.jpg"], ""),
    "a Mac's and Windows' own files": (["a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", ".x.png.1.part.png"], ["a.jpg"], ""),
    "files that are no pictures": (["a.jpg", "notes.txt", "labels.json", "clip.mp4"], ["a.jpg"], ""),
    "pictures not read": (
        ["a.jpg", "b.HEIC", "c.heic", "d.dcm", "e.nef"],
        ["a.jpg"],
        "4 pictures that keylite does not read (2 HEIC, 1 DICOM, 1 camera raw; convert to JPEG)",
    ),
    "sub-folders": (
        ["a.jpg", "x/a.jpg", "y/b.jpg", ".hidden/c.jpg"],
        ["a.jpg"],
        "2 sub-folders (x, y; name those that you want, too)",
    ),
    "a folder that is called as a picture": (["a.jpg", "b.jpg/c.jpg"], ["a.jpg"], "1 sub-folder (b.jpg; name those"),
    "many": (["a.jpg", *(f"f{n}/a.jpg" for n in range(5)), "b.avif"], ["a.jpg"], "1 AVIF; convert to JPEG) and 5 sub-folders (f0, f1, f2, and 2 more;"),
}  # fmt: skip


def made(folder: Path, files: list[str]) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return folder


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_is_what_is_seen_in_it(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, taken, words = FOLDERS[case]
    with caplog.at_level(logging.INFO, "keylite"):
        paths = image_paths((made(tmp_path / "f", files),))
    assert paths == [tmp_path / "f" / name for name in taken]
    assert words in "; ".join(caplog.messages)
    assert len(caplog.messages) == bool(words)


def test_a_scan_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("IM000001", "1.2.840.113619", "empty"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" if name != "empty" else b"")
    assert look_into(tmp_path).unread == {"DICOM": 2}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.heic"], "no images in this folder .*; found 1 picture that keylite does not read .1 HEIC"),
        (["x/a.jpg"], r"no images in this folder .*; found 1 sub-folder \(x; name those"),
        (["._a.jpg"], r"no images in this folder \(.*\)$"),
    ],
)
def test_a_folder_without_pictures_is_refused_with_what_is_there(files: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        image_paths((made(tmp_path / "f", files),))


def test_a_hidden_picture_named_by_itself_is_taken(tmp_path: Path) -> None:
    made(tmp_path, [".a.jpg"])
    assert image_paths((tmp_path / ".a.jpg",)) == [tmp_path / ".a.jpg"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        look_into(tmp_path)
    with pytest.raises(ValueError, match="this folder cannot be read: Permission denied"):
        image_paths((tmp_path,))


def test_a_list_of_images_may_begin_with_a_mark(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes("\ufeffg/ä.png\r\ng/b.png\r\n".encode())
    assert image_paths((tmp_path / "list.txt",)) == [Path("g/ä.png"), Path("g/b.png")]
