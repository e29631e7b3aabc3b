"""Writing a data set in the format of another tool, and saying what that format cannot hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keylite.data.copies import copy_picture, file_names
from keylite.data.dataset import Dataset
from keylite.data.formats.coco_writing import coco_of
from keylite.data.formats.cvat import cvat_text, holds_groups
from keylite.data.formats.dlc import dlc_text, holds_names
from keylite.data.formats.label_studio import label_studio_text
from keylite.data.formats.labelme import labelme_texts
from keylite.data.formats.reading import Labelled, as_dataset, parts_of, read_dataset, require_new_files
from keylite.data.formats.scores import Scores
from keylite.data.formats.tables import wide_text
from keylite.data.formats.yolo import label_texts, yaml_of
from keylite.data.groups import in_number_order
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.files import replacing_within, require_outputs, require_writable, write_together
from keylite.runtime.images import image_size
from keylite.runtime.kinds import path_of, require_kind
from keylite.runtime.progress import step
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted, is_utf8, listed, quoted


class Target(NamedTuple):
    """A format that labels are written in.

    Attributes:
        holds: What it holds beside names, points and pictures, of the words that `lost` knows; ids: `_holds_ids`.
        suffix: Of the file of each part; empty for a format that is a folder.
        text: The text of the file, from the data set, the sizes of its images, and how sure a model is of its points.
    """

    holds: str
    suffix: str
    text: Callable[[Dataset, np.ndarray, Scores | None], bytes] | None = None


TARGETS = {
    "coco": Target(
        "hidden boxes areas image_ids groups edges mirror sigmas category order scale",
        ".json",
        lambda data, sizes, scores: coco_of(data, data.xy, scores),
    ),
    "yolo": Target("hidden boxes edges mirror category order", ""),
    "labelme": Target("hidden boxes groups category scale", ""),
    "label-studio": Target("hidden boxes groups category scale score", ".json", label_studio_text),
    "cvat": Target(
        "hidden boxes groups edges category order",
        ".xml",
        lambda data, sizes, scores: cvat_text(data, sizes, "auto" if scores else "manual"),
    ),
    "dlc": Target("order sigma", ".csv", lambda data, sizes, scores: dlc_text(data, scores)),
    "csv": Target("groups order scale score sigma", ".csv", lambda data, sizes, scores: wide_text(data, scores)),
}


def convert(data: Labelled | Mapping[str, Labelled], out: FilePath, *, format: str) -> tuple[str, ...]:
    """Write labels in the format of another tool.

    Coordinates are shifted as each format counts them, so `read_dataset` gives the same points back. Pictures are
    copied (or linked) for `yolo`, which finds labels by the place of the pictures; else they stay where they are.

    Args:
        data: The data set, or the path of labels, of which all parts are written. Or parts by name: train, val, test.
        out: The file to write; a folder for `yolo` and `labelme`, and if there are several parts. A file is replaced if
            it is not the data set's own; a folder of `yolo` must be new or empty.
        format: "coco", "yolo", "labelme", "label-studio", "cvat", "dlc" or "csv".

    Returns:
        A line for each thing that the format cannot hold, such as boxes in a table; empty if it holds everything.

    Raises:
        ArgumentError: `format` is unknown, or `out` cannot be written.
        DataError: The format cannot hold these objects at all, such as several per picture in a wide table.

    Example:
        >>> keylite.convert("data.yaml", "labels", format="coco")
    """
    out = path_of("out", out)
    require_kind("format", format, str, "a text", f"one of {', '.join(TARGETS)}")
    if format not in TARGETS:
        raise ArgumentError(f"format: expected {', '.join(TARGETS)}, got {quoted(format)}")
    return write_labels(_parts(data), out, format)


def write_labels(parts: Mapping[str, Dataset], out: Path, format: str, scores: Scores | None = None) -> tuple[str, ...]:
    """What `convert` does, for parts by name. scores: if a model predicted the points, how sure it is of them."""
    target = TARGETS[format]
    for each in parts.values():
        require_names(each, format)
    sizes = {part: np.array([image_size(image) for image in each.images]) for part, each in parts.items()}
    lines = [line for part, each in parts.items() for line in lost(each, format, part, scores)]
    if format == "yolo":
        _write_yolo(parts, sizes, out)
        return tuple(lines)
    if format == "labelme":
        files = {
            path: text for part, each in parts.items() for path, text in _labelme_files(each, out / part, sizes[part])
        }
        require_new_files(out, [path.relative_to(out).as_posix() for path in files])  # they may be somebody's work
    elif target.text:
        alone = set(parts) == {""}
        files = {
            out if alone else out / f"{part}{target.suffix}": target.text(each, sizes[part], scores)
            for part, each in parts.items()
        }
    else:
        raise AssertionError(format)
    taken = {
        f"{path}": path for each in parts.values() for path in each.files_named({path.name for path in files}).values()
    }
    require_outputs({f"{path}" if len(files) > 1 else "out": path for path in files}, taken)
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    write_together(files)
    return tuple(lines)


def require_names(data: Dataset, format: str) -> None:
    """Raise DataError if the name of a picture is not UTF-8, unless the format does not write names."""
    bad = [name for name in data.image_names if not is_utf8(name)]
    if bad and format != "yolo":
        line = listed(f"{data.called}: {format} files are UTF-8, which cannot hold these names of pictures", bad)
        raise DataError(f"{line}; rename the pictures")


def _parts(data: Labelled | Mapping[str, Labelled]) -> dict[str, Dataset]:
    """The parts to write by name; a data set without parts has the name ""."""
    if isinstance(data, Mapping):
        return {name: as_dataset("data", each) for name, each in data.items()}
    if isinstance(data, (str, os.PathLike)) and (names := parts_of(path_of("data", data))):
        return {name: read_dataset(data, part=name) for name in names}
    return {"": as_dataset("data", data)}


# ---- what a format cannot hold


def lost(data: Dataset, format: str, part: str = "", scores: Scores | None = None) -> Iterator[str]:
    """A line for each thing that the data set has and the format does not hold."""
    holds = TARGETS[format].holds.split()
    skeleton = data.skeleton
    known = {
        "hidden": f"which points are hidden ({int((data.visible == 1).sum())} are)",
        "boxes": f"boxes of {counted(int(data.boxed.sum()), 'object')}",
        "areas": f"areas of {counted(int(np.isfinite(data.area).sum()), 'object')}",
        "ids": f"ids of {counted(len(data.ids), 'object')}",
        "image_ids": f"ids of {counted(len(data.image_ids), 'image')}",
        "groups": f"names of {counted(len(data.groups), 'group')}",
        "edges": counted(len(skeleton.edges), "edge"),
        "mirror": counted(len(skeleton.mirror_pairs()), "mirror pair"),
        "sigmas": counted(len(skeleton.sigmas or ()), "OKS sigma"),
        "category": f"the category {data.category}",
        "order": "the order of keypoints, which is then that of their names",
        "scale": "mm per px",
        "score": "scores of points",
        "sigma": "sigma of points",
    }
    has = {
        "hidden": bool((data.visible == 1).any()),
        "boxes": bool(data.boxed.any()),
        "areas": bool(np.isfinite(data.area).any()),
        "ids": bool(data.ids) and not _holds_ids(data, format),
        "image_ids": bool(data.image_ids),
        "groups": data.groups_named,
        "edges": bool(skeleton.edges),
        "mirror": bool(skeleton.mirror),
        "sigmas": bool(skeleton.sigmas),
        "category": bool(data.category),
        "order": list(skeleton.names) != sorted(skeleton.names, key=in_number_order),
        "scale": data.mm_per_px is not None,
        "score": scores is not None and bool(np.isfinite(scores.score).any()),
        "sigma": scores is not None and bool(np.isfinite(scores.sigma).any()),
    }
    missing = [known[what] for what in has if has[what] and what not in holds]
    of = f"{format} cannot hold" if not part else f"{part}: {format} cannot hold"
    if missing:
        yield listed(of, missing)
    if format == "yolo" and not data.boxed.all():
        count = int((~data.boxed).sum())
        yield f"{counted(count, 'object')} without a box: yolo needs one, so the smallest around the points is written"


def _holds_ids(data: Dataset, format: str) -> bool:
    """Whether a format can hold the ids of these objects."""
    if format == "coco":
        return len(set(data.ids)) == len(data)
    if format == "label-studio":
        return bool(data.boxed.all())  # they are names of rectangles
    if format == "dlc":
        return holds_names(data) and len(np.unique(data.image_index)) < len(data)  # else it has no row of animals
    return format in ("labelme", "cvat") and holds_groups(data)


# ---- formats that are folders


def require_empty(out: Path, name: str = "out") -> None:
    """Raise ArgumentError if this is not a new or an empty folder that can be written to. name: of the argument."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArgumentError(f"{name}: expected a new or empty folder, got {out}; choose another")
    require_writable(out)


def _write_yolo(parts: Mapping[str, Dataset], sizes: Mapping[str, np.ndarray], out: Path) -> None:
    """Write data.yaml, and for each part its pictures and its label files; all appear, or none."""
    require_empty(out)
    named = {part or "train": each for part, each in parts.items()}
    first = next(iter(named.values()))
    for part, each in named.items():
        if each.skeleton.names != first.skeleton.names:
            raise DataError(f"{part}: its keypoints differ from those of {next(iter(named))}; write each by itself")
    with replacing_within(out) as inside:
        for part, each in named.items():
            texts = label_texts(each, sizes[part if part in sizes else ""])
            names = file_names(each.image_names, each.images, each.called)
            with step(f"writing the pictures of {each.called}", len(names)) as done:
                for image, (name, text) in enumerate(zip(names, texts, strict=True)):
                    picture, label = inside / "images" / part / name, inside / "labels" / part / name
                    for path in (picture, label):
                        path.parent.mkdir(parents=True, exist_ok=True)
                    copy_picture(each.images[image], picture)
                    label.with_suffix(".txt").write_bytes(text)
                    done(1)
        (inside / "data.yaml").write_bytes(yaml_of(first, named))


def require_free(out: Path, format: str, image_names: Sequence[str], images: Sequence[Path | np.ndarray]) -> None:
    """Raise ArgumentError if labels of these pictures cannot be written to this folder, before they are made."""
    require_writable(out)
    if format == "yolo":
        require_empty(out)
    else:
        names = file_names(image_names, images, "out")
        require_new_files(out, [Path(name).with_suffix(".json").as_posix() for name in names])


def _labelme_files(data: Dataset, folder: Path, sizes: np.ndarray) -> Iterator[tuple[Path, bytes]]:
    """The JSON file of each picture, which names the picture as it sees it."""
    if any(isinstance(image, np.ndarray) for image in data.images):
        raise DataError(f"{data.called}: labelme needs pictures that are files; write them with write_dataset first")
    paths = [
        folder / Path(name).with_suffix(".json") for name in file_names(data.image_names, data.images, data.called)
    ]
    places = [
        Path(os.path.relpath(os.path.realpath(str(image)), os.path.realpath(path.parent))).as_posix()
        for image, path in zip(data.images, paths, strict=True)
    ]
    yield from zip(paths, labelme_texts(data, places, sizes), strict=True)
