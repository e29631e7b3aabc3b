"""The report of a check of labels: its facts and its findings, and how they are shown."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.spec import DataId
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.words import counted, first_of

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports] - it need not be there

SHOWN = 12  # findings of one kind that a terminal shows; JSON and the page have all
NAMED = 8  # keypoints that one finding names in a terminal
Severity = Literal["error", "warning", "note"]
ORDER = ("error", "warning", "note")
KINDS = {  # kind -> what it is, in the order in which kinds are shown
    "refused": "training refuses these labels as they are",
    "no-box": "objects without a box, although others have one",
    "swapped": "left and right are swapped",
    "mirrored": "points of a mirrored object",
    "permuted": "points in another order",
    "another": "labels of another picture",
    "shifted": "points far from where models that have not seen them, and the other points, put them",
    "unlikely": "objects that models that have not seen them find elsewhere",
    "shape": "objects of an unusual shape",
    "point": "points in an odd place",
    "outside": "points outside their picture",
    "box": "boxes that do not fit their points",
    "copy": "objects that are copies of another in the same picture",
    "two-labels": "equal pictures with different labels",
    "equal-pictures": "equal pictures",
    "alike-pictures": "nearly equal pictures",
    "shared-groups": "groups in two parts",
    "few-labels": "keypoints that hardly any object labels",
    "doubt": "doubts about the labels as a whole",
    "mirror": "what a flip swaps",
    "shift": "groups that are labelled with an offset",
    "rounding": "coordinates on a grid",
    "balance": "groups of unequal size",
    "note": "remarks of the reader",
}


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes an object right, if that is certain.

    Attributes:
        order: K names: for each keypoint, the one whose label it gets. None: the object is a copy, and goes.
        xy: (K) the corrected points, continuous px of the image, as pairs; None for an unlabelled point. Empty for a
            copy.
    """

    order: tuple[str, ...] | None
    xy: tuple[tuple[float, float] | None, ...] = ()


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is wrong with labels, or that is worth to know.

    Attributes:
        kind: What it is: a key of the table in docs/check.md, such as "swapped".
        severity: "error" (training refuses it), "warning" (probably wrong) or "note".
        sentence: What was found, for a human.
        data: The data set, as messages call it.
        part: The part that it is in, such as "train"; empty if there is one alone.
        number: The number of the object in the data set; None if it is not about one object.
        id: The id of the object in the label file; None if it has none.
        image: The name of the picture, as the label file has it; None if it is not about one picture.
        group: The name of the object's group.
        keypoints: The names of the keypoints that it is about, the most conspicuous first.
        others: Names of other pictures that it is about.
        correction: What makes it right; None if that is not certain.
        times: With folds: how many usual errors the object, or its worst point, lies from its predictions. None:
            it was found without a model.
    """

    kind: str
    severity: Severity
    sentence: str
    data: str
    part: str = ""
    number: int | None = None
    id: int | str | None = None
    image: str | None = None
    group: str | None = None
    keypoints: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    correction: Correction | None = None
    times: float | None = None


class LabelCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many objects label a keypoint, and how many of them as hidden."""

    labelled: int
    hidden: int


class PartFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one part of the labels holds.

    smallest_image, largest_image: (width, height) px, by area. object_px: the longer side of the smallest box around an
    object's points, px: 5, 50 and 95 % of the objects are smaller; None if no object has two points.
    """

    name: str
    data: DataId
    objects: int
    images: int
    groups: int
    boxes: int
    points: int
    hidden: int
    smallest_image: tuple[int, int]
    largest_image: tuple[int, int]
    object_px: tuple[float, float, float] | None
    keypoints: dict[str, LabelCounts]

    @staticmethod
    def of(data: Dataset) -> PartFacts:
        labelled, hidden = data.labelled, data.visible == 1
        sizes = data.whole_boxes()[:, 2:].astype(np.int64)
        areas = sizes.prod(axis=1)
        sides = extents(data)
        sides = sides[np.isfinite(sides)]
        counts = zip(data.skeleton.names, labelled.sum(axis=0).tolist(), hidden.sum(axis=0).tolist(), strict=True)
        return PartFacts(
            name=data.called,
            data=data.identity(),
            objects=len(data),
            images=len(data.images),
            groups=len(data.groups),
            boxes=int(data.boxed.sum()),
            points=int(labelled.sum()),
            hidden=int(hidden.sum()),
            smallest_image=tuple(sizes[areas.argmin()].tolist()),
            largest_image=tuple(sizes[areas.argmax()].tolist()),
            object_px=tuple(np.percentile(sides, (5, 50, 95)).tolist()) if len(sides) else None,
            keypoints={name: LabelCounts(points, covered) for name, points, covered in counts},
        )


class CheckReport(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `check` found in labels. `print(report)` shows its tables.

    Attributes:
        keylite: The version that made it.
        parts: The counts of each part that was checked.
        findings: What was found, errors first.
        changes: What was changed in the corrected copy, or left out of it, a line each; empty if none was written.
        lost: What the format of the copy cannot hold, a line each.
    """

    keylite: str
    parts: tuple[PartFacts, ...]
    findings: tuple[Finding, ...]
    changes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing was found but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    def __repr__(self) -> str:
        return f"CheckReport({summary(self)})"

    def __str__(self) -> str:
        return as_text(parts_of_report(self))

    def _repr_html_(self) -> str:
        return as_html(parts_of_report(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """Give the findings as a pandas table.

        Returns:
            One row per finding: kind, severity, sentence, data, part, number, id, image, group, keypoints, others.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        rows = [msgspec.structs.asdict(finding) for finding in self.findings]
        return require("pandas").DataFrame([{k: v for k, v in row.items() if k != "correction"} for row in rows])


def finding_of(
    data: Dataset,
    kind: str,
    severity: Severity,
    sentence: str,
    row: int | None = None,
    keypoints: tuple[str, ...] = (),
    others: tuple[str, ...] = (),
    correction: Correction | None = None,
    times: float | None = None,
) -> Finding:
    """A finding about a data set, or about one of its objects."""
    if row is None:
        return Finding(kind, severity, sentence, data.called, keypoints=keypoints, others=others)
    return Finding(
        kind,
        severity,
        sentence,
        data.called,
        number=row,
        id=data.ids[row] if data.ids else None,
        image=data.image_names[data.image_index[row]],
        group=data.groups[data.group_index[row]],
        keypoints=keypoints,
        others=others,
        correction=correction,
        times=times,
    )


def extents(data: Dataset) -> np.ndarray:
    """(N,) the longer side of the smallest box around an object's points, px; NaN with fewer than two."""
    known = data.labelled[..., None]
    low, high = np.where(known, data.xy, np.inf).min(axis=1), np.where(known, data.xy, -np.inf).max(axis=1)
    return np.where(data.labelled.sum(axis=1) > 1, (high - low).max(axis=1), np.nan)


def usual_extent(data: Dataset) -> float:
    """The median extent of objects, px; the median side of their images if no object has two points."""
    sides = extents(data)
    known = np.isfinite(sides) & (sides > 0)
    return float(np.median(sides[known] if known.any() else data.whole_boxes()[:, 2:].max(axis=1)))


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings, errors first, then by kind."""
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda one: (ORDER.index(one.severity), kinds.index(one.kind))))


# ---- words


def summary(report: CheckReport) -> str:
    """The counts of findings by severity in a few words."""
    counts = Counter(finding.severity for finding in report.findings)
    words = [counted(counts[severity], severity) for severity in ORDER if counts[severity]]
    return ", ".join(words) or "nothing found"


def parts_of_report(report: CheckReport) -> list[Table | str]:
    """The tables of a report: the facts of each part, then its findings by kind."""
    parts: list[Table | str] = [Table((), facts_rows(part), title=part.name) for part in report.parts]
    for kind, words in KINDS.items():
        for severity in ORDER:
            own = [one for one in report.findings if (one.kind, one.severity) == (kind, severity)]
            if own:
                rows = [(place_of(one), sentence_of(one)) for one in own[:SHOWN]]
                more = [("", f"and {len(own) - SHOWN} more")] if len(own) > SHOWN else []
                parts.append(Table((), [*rows, *more], title=f"{severity}, {kind} ({len(own)}): {words}"))
    if report.changes:
        parts.append(Table((), [(line,) for line in report.changes], title="changed in the copy"))
    if report.lost:
        parts.append(Table((), [(line,) for line in report.lost], title="not in the copy"))
    parts.append(summary(report))
    return parts


def place_of(finding: Finding) -> str:
    """What a finding is about: the picture and the id of the object, or the data set."""
    if finding.image is None:
        return finding.part or finding.data
    place = f"{finding.part}: {finding.image}" if finding.part else finding.image
    return place if finding.id is None else f"{place}, id {finding.id}"


def sentence_of(finding: Finding) -> str:
    """The sentence, with the correction if there is one."""
    return finding.sentence + ("" if finding.correction is None else " [certain: a corrected copy changes it]")


def facts_rows(part: PartFacts) -> list[tuple[str, str]]:
    """(label, value) texts of a part."""
    names = list(part.keypoints)
    small, large = ("x".join(map(str, size)) for size in (part.smallest_image, part.largest_image))
    fewest = min(names, key=lambda name: part.keypoints[name].labelled)
    rows = [
        ("objects", f"{part.objects:,} in {counted(part.images, 'image')}, {counted(part.groups, 'group')}"),
        ("keypoints", f"{len(names)}: {first_of(names, NAMED, ', ')}"),
        ("labelled points", f"{part.points:,} of {part.objects * len(names):,}, {part.hidden:,} of them hidden"),
        ("least labelled", f"{fewest}: {part.keypoints[fewest].labelled:,} of {part.objects:,} objects"),
        ("boxes", f"{part.boxes:,} of {part.objects:,}"),
        ("images", f"{small} px" if small == large else f"{small} to {large} px"),
    ]
    if part.object_px:
        low, middle, high = part.object_px
        rows.append(("extent of points", f"{middle:.0f} px (5 to 95 %: {low:.0f} to {high:.0f} px)"))
    return rows
