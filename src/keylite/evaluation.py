"""A model file measured on a data set: predictions through the shipped predictor, and the report of them.

The figures are metrics.py's. Knows nothing of training, frameworks or how a report is shown.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.dataset import Dataset, listed
from keylite.metrics import (
    BOX_NORMALISERS,
    FAILURE_LIMIT,
    FEWEST_GROUPS,
    auc_of,
    failure_rate_of,
    group_intervals,
    nme_of,
    normaliser,
    oks_ap,
    pck_of,
    point_errors,
)
from keylite.reliability import Reliability, halves, reliability_of, reliability_rows
from keylite.runtime.geometry import Crop, as_boxes, jitter_boxes, whole_box
from keylite.runtime.skeleton import Skeleton

if TYPE_CHECKING:
    from keylite.runtime.predictor import Predictor

PCK_AT = (0.05, 0.1, 0.2)
KEYPOINT_COLUMNS = ("keypoint", "NME", "p50 px", "p95 px", "x px", "y px", "count")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The points that a model gives for N objects.

    xy: (N, K, 2) image px. unit_xy: (N, K, 2) of the crop. score: (N, K), NaN where the head has no confidence.
    boxes: (N, 4) xyxy px the crops were made from, before padding. crops: N of them.
    normaliser_boxes: (N, 4) boxes that the NME is measured by: the annotations', those given where there is none, or
    whole images; never jittered. None takes `boxes`. sigma: (N, K) image px, see Keypoints; None is NaN for all.
    """

    xy: np.ndarray
    unit_xy: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    crops: tuple[Crop, ...]
    normaliser_boxes: np.ndarray | None = None
    sigma: np.ndarray | None = None


class NmeReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NME as fractions, over the `count` objects that have a normaliser; interval: 95 % by group, or None."""

    mean: float
    median: float
    interval: tuple[float, float] | None
    normalize: str
    count: int


class PixelReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances to the label over labelled points, px of the original image."""

    mean: float
    p50: float
    p90: float
    p95: float
    max: float


class SignedReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean of prediction minus label, px of the original image: a bias common to all points."""

    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None


class KeypointReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One keypoint: NME as a fraction; the rest in px of the original image; None where nothing is labelled."""

    nme: float | None
    p50: float | None
    p95: float | None
    x: float | None
    y: float | None
    count: int


class DatasetReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which data was measured."""

    name: str
    fingerprint: str


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model does on a data set; fields are written to JSON as they stand, None as null.

    count: objects. points: labelled points. Rates are fractions. confidence: how sigma held, px of the original image,
    or None. boxes: where the boxes came from.
    Two reports compare only if `comparable` accepts them.
    """

    nme: NmeReport
    failure_rate: float
    failure_limit: float
    pck: dict[str, float]
    auc: float
    pixel_error: PixelReport
    signed_error: SignedReport
    per_keypoint: dict[str, KeypointReport]
    confidence: Reliability | None
    count: int
    points: int
    groups: int
    oks_ap: float | None
    boxes: str
    model_sha256: str | None
    dataset: DatasetReport
    engine: str | None
    notes: tuple[str, ...]

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


# ---- reports


def report_of(
    predictions: Predictions,
    dataset: Dataset,
    normalize: str,
    *,
    failure_limit: float = FAILURE_LIMIT,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    box_source: str = "annotation",
    model_sha256: str | None = None,
    engine: str | None = None,
    judges: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The report on predictions that are already made; no model is needed.

    normalize: see `normaliser`. sigmas: K OKS constants, None for no OKS-AP. seed: of the bootstrap. judges: indices of
    the objects that sigma was not fitted on; None is all.
    Raises ValueError where no object has a label or none has a normaliser, or where predictions are not finite.
    """
    errors = point_errors(predictions.xy, dataset.xy)
    labelled = np.isfinite(errors)
    if not labelled.any():
        raise ValueError(f"{dataset.name}: none of the {len(dataset)} objects has a labelled point to measure against")
    length = normaliser(normalize, dataset.xy, _normaliser_boxes(predictions), dataset.skeleton.names)
    nme = nme_of(errors, length)
    counted = np.isfinite(nme)
    if not counted.any():
        raise ValueError(
            f"{dataset.name}: normalize {normalize!r} is unlabelled or 0 px in all {len(dataset)} objects; "
            "choose another pair, box_side, or a constant such as 100px"
        )
    signed = np.where(labelled[..., None], predictions.xy - dataset.xy, 0)

    generator = np.random.default_rng(seed)
    nme_range = group_intervals(np.where(counted, nme, 0)[:, None], counted, dataset.group_index, generator)
    signed_range = group_intervals(signed.sum(axis=1), labelled.sum(axis=1), dataset.group_index, generator)
    pixels = errors[labelled]
    p50, p90, p95 = np.percentile(pixels, [50, 90, 95]).tolist()
    shift_x, shift_y = (signed.sum(axis=(0, 1)) / labelled.sum()).tolist()
    return Report(
        nme=NmeReport(
            mean=float(nme[counted].mean()),
            median=float(np.median(nme[counted])),
            interval=_pair(nme_range, 0),
            normalize=normalize,
            count=int(counted.sum()),
        ),
        failure_rate=failure_rate_of(nme, failure_limit),
        failure_limit=failure_limit,
        pck={f"{at:g}": pck_of(errors, length, at) for at in PCK_AT},
        auc=auc_of(nme, failure_limit),
        pixel_error=PixelReport(mean=float(pixels.mean()), p50=p50, p90=p90, p95=p95, max=float(pixels.max())),
        signed_error=SignedReport(
            x=shift_x, y=shift_y, x_interval=_pair(signed_range, 0), y_interval=_pair(signed_range, 1)
        ),
        per_keypoint={
            name: _keypoint_report(errors[:, k], signed[:, k], length) for k, name in enumerate(dataset.skeleton.names)
        },
        confidence=_confidence(predictions, errors, dataset, judges, seed),
        count=len(dataset),
        points=int(labelled.sum()),
        groups=len(dataset.groups),
        oks_ap=None if sigmas is None else _oks_ap(predictions, dataset, sigmas),
        boxes=box_source,
        model_sha256=model_sha256,
        dataset=DatasetReport(dataset.name, dataset.fingerprint()),
        engine=engine,
        notes=(*notes, *_count_notes(labelled, counted, dataset, normalize, nme_range is None)),
    )


def _confidence(
    predictions: Predictions, errors: np.ndarray, dataset: Dataset, judges: np.ndarray | None, seed: int
) -> Reliability | None:
    """How sigma held on the objects that judge it."""
    if predictions.sigma is None:
        return None
    of = slice(None) if judges is None else judges
    return reliability_of(predictions.sigma[of], errors[of], dataset.group_index[of], seed)


def object_nme(predictions: Predictions, dataset: Dataset, normalize: str) -> np.ndarray:
    """Each object's NME (N,), a fraction; NaN where it has no label or no normaliser."""
    length = normaliser(normalize, dataset.xy, _normaliser_boxes(predictions), dataset.skeleton.names)
    return nme_of(point_errors(predictions.xy, dataset.xy), length)


def _normaliser_boxes(predictions: Predictions) -> np.ndarray:
    """(N, 4) xyxy px of the boxes before jitter."""
    return predictions.boxes if predictions.normaliser_boxes is None else predictions.normaliser_boxes


def _boxed(dataset: Dataset) -> np.ndarray:
    """(N,) bool: which objects have an annotation's box with an area."""
    return np.all(dataset.box[:, 2:] > dataset.box[:, :2], axis=1)  # a comparison with NaN is False


def _oks_ap(predictions: Predictions, dataset: Dataset, sigmas: Sequence[float]) -> float:
    """The OKS-AP; an object's area is the data set's, else its box's, else that of the box it was predicted from."""
    boxes = np.where(_boxed(dataset)[:, None], dataset.box, _normaliser_boxes(predictions))
    area = np.where(np.isfinite(dataset.area), dataset.area, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return oks_ap(predictions.xy, predictions.score, dataset.xy, area, dataset.image_index, sigmas)


def _pair(intervals: np.ndarray | None, row: int) -> tuple[float, float] | None:
    return None if intervals is None else (float(intervals[row, 0]), float(intervals[row, 1]))


def _keypoint_report(errors: np.ndarray, signed: np.ndarray, length: np.ndarray) -> KeypointReport:
    """One keypoint from its errors (N,) and signed errors (N, 2) in px, and the normalisers (N,)."""
    labelled = np.isfinite(errors)
    if not labelled.any():
        return KeypointReport(nme=None, p50=None, p95=None, x=None, y=None, count=0)
    nme = nme_of(errors[:, None], length)
    counted = nme[np.isfinite(nme)]
    p50, p95 = np.percentile(errors[labelled], [50, 95]).tolist()
    x, y = signed[labelled].mean(axis=0).tolist()
    mean = float(counted.mean()) if len(counted) else None
    return KeypointReport(nme=mean, p50=p50, p95=p95, x=x, y=y, count=int(labelled.sum()))


def _count_notes(
    labelled: np.ndarray, counted: np.ndarray, dataset: Dataset, normalize: str, no_interval: bool
) -> list[str]:
    """What the figures leave out, a line each."""
    empty = int((~labelled.any(axis=1)).sum())
    unscaled = len(dataset) - int(counted.sum()) - empty
    groups = len(np.unique(dataset.group_index[counted]))
    lines = {
        f"{empty} of {len(dataset)} objects have no labelled point and count nowhere": empty,
        f"{unscaled} of {len(dataset)} objects have no normaliser ({normalize} unlabelled or 0 px): "
        "no NME, PCK, AUC or failure": unscaled,
        f"no interval: {groups} group(s) with an NME, and a bootstrap needs at least {FEWEST_GROUPS}": no_interval,
    }
    return [line for line, applies in lines.items() if applies]


def comparable(a: Report, b: Report) -> None:
    """Raises ValueError unless both reports measure the same data by the same normaliser."""
    if a.dataset.fingerprint != b.dataset.fingerprint:
        raise ValueError(
            f"reports: expected one data set, got {a.dataset.name} ({a.dataset.fingerprint[:12]}) and "
            f"{b.dataset.name} ({b.dataset.fingerprint[:12]}); evaluate both models on the same data"
        )
    if a.nme.normalize != b.nme.normalize:
        raise ValueError(
            f"reports: expected one normaliser, got {a.nme.normalize} and {b.nme.normalize}; "
            "evaluate again with the same --normalize"
        )


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """(label, value) texts of a report, most telling first; the normaliser is always named."""
    nme, pixel, signed = report.nme, report.pixel_error, report.signed_error
    interval = f"[{nme.interval[0]:.2%}, {nme.interval[1]:.2%}]" if nme.interval else "(no interval)"
    limit = f"{report.failure_limit:.3g}"
    rows = [
        ("NME", f"{nme.mean:.2%} {interval} by {nme.normalize}"),
        ("NME median", f"{nme.median:.2%}"),
        (f"failures (NME > {limit})", f"{report.failure_rate:.2%}"),
        (f"AUC to {limit}", f"{report.auc:.4f}"),
        *((f"PCK@{at}", f"{share:.2%}") for at, share in report.pck.items()),
        ("OKS-AP", "" if report.oks_ap is None else f"{report.oks_ap:.4f}"),
        ("pixel error", f"mean {pixel.mean:.2f} px, p50 {pixel.p50:.2f}, p90 {pixel.p90:.2f}, p95 {pixel.p95:.2f}"),
        ("largest error", f"{pixel.max:.2f} px"),
        ("signed error", f"x {_signed(signed.x, signed.x_interval)}, y {_signed(signed.y, signed.y_interval)} px"),
        *(reliability_rows(report.confidence) if report.confidence else ()),
        ("measured", f"{report.count} objects, {report.points} labelled points, {report.groups} groups"),
        ("boxes", report.boxes),
        ("data", f"{report.dataset.name} ({report.dataset.fingerprint[:12]})"),
        ("model", (report.model_sha256 or "")[:12]),
        ("engine", report.engine or ""),
        *(("note", note) for note in report.notes),
    ]
    return [row for row in rows if row[1]]


def _signed(mean: float, interval: tuple[float, float] | None) -> str:
    return f"{mean:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def keypoint_rows(report: Report) -> list[tuple[str, ...]]:
    """Texts under KEYPOINT_COLUMNS, a row a keypoint in the skeleton's order; "-" where nothing is labelled."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        (
            name,
            text(k.nme, ".2%"),
            *(text(px, ".2f") for px in (k.p50, k.p95)),
            *(text(px, "+.2f") for px in (k.x, k.y)),
            str(k.count),
        )
        for name, k in report.per_keypoint.items()
    ]


# ---- models


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset,
    *,
    boxes: np.ndarray | None = None,
    jitter_box: float = 0.0,
    generator: np.random.Generator | None = None,
    mirror: Sequence[int] | None = None,
    batch: int = 32,
    on_batch: Callable[[int, int], object] | None = None,
) -> Predictions:
    """The points of every object, through the predictor's own crop, engine and decode; each image is read once.

    boxes: (N, 4) xyxy px, say a detector's; None takes the annotations' or whole images, as the model's spec says.
    jitter_box: moves them by that fraction of their sides with `generator`. mirror: (K) the keypoint that each becomes
    in a flip; the model then sees mirrored images, and its points are given back where and what they are in the
    original. on_batch: called with (done, N).
    Raises ValueError where the number of keypoints differs, or a box is needed and missing.
    """
    spec = predictor.spec
    if len(spec.skeleton) != len(dataset.skeleton):
        raise ValueError(
            f"model has {len(spec.skeleton)} keypoints, data has {len(dataset.skeleton)}; "
            "evaluate on data with the keypoints that the model was trained on"
        )
    if jitter_box and generator is None:
        raise ValueError("jitter_box: expected a numpy Generator beside it, got None")
    if not 0 <= jitter_box < 1:
        raise ValueError(f"jitter_box: expected a fraction of the box's side in 0..1, got {jitter_box}")
    given = _boxes_given(dataset, boxes, spec.box)
    count, keypoints = len(dataset), len(spec.skeleton)
    unit_xy, score = np.zeros((count, keypoints, 2)), np.full((count, keypoints), np.nan)
    used, measured = np.zeros((count, 4)), np.zeros((count, 4))
    crops: list[Crop | None] = [None] * count
    pixels = np.zeros((min(batch, count), spec.size[1], spec.size[0], 3), np.uint8)
    waiting: list[int] = []
    done = 0

    def run() -> None:
        nonlocal done
        unit_xy[waiting], score[waiting] = predictor.run(pixels[: len(waiting)])
        done += len(waiting)
        waiting.clear()
        if on_batch is not None:
            on_batch(done, count)

    flip = np.array([[-1.0, 0, spec.size[0]], [0, 1, 0]])
    boxed = _boxed(dataset)
    by_image = np.argsort(dataset.image_index, kind="stable")
    for objects in np.split(by_image, np.flatnonzero(np.diff(dataset.image_index[by_image])) + 1):
        image = dataset.read_image(int(dataset.image_index[objects[0]]))
        whole = np.tile(whole_box(image), (len(objects), 1))
        used[objects] = whole if given is None else given[objects]
        # A detector's boxes must not change the ruler: the annotation's box goes first, object by object.
        own = np.where(boxed[objects, None], dataset.box[objects], used[objects])
        measured[objects] = whole if spec.box == "image" else own
        if jitter_box and generator is not None:
            used[objects] = jitter_boxes(used[objects], jitter_box, generator)
        for i, crop in zip(objects.tolist(), predictor.crops(image, used[objects]), strict=True):
            crops[i] = crop = crop if mirror is None else crop.then(flip, mirrored=True)
            pixels[len(waiting)] = crop.warp(image)
            waiting.append(i)
            if len(waiting) == len(pixels):
                run()
    if waiting:
        run()
    kept = tuple(crop for crop in crops if crop is not None)
    if mirror is not None:
        unit_xy, score = unit_xy[:, list(mirror)], score[:, list(mirror)]
    xy = np.stack([crop.from_unit(points) for crop, points in zip(kept, unit_xy, strict=True)])
    return Predictions(xy, unit_xy, score, used, kept, measured, predictor.sigma(score, kept))


def _boxes_given(dataset: Dataset, boxes: np.ndarray | None, box: str) -> np.ndarray | None:
    """The boxes (N, 4) known before any image is read: the caller's or the annotations', None for whole images."""
    if boxes is not None:
        given = as_boxes(boxes)
        if len(given) != len(dataset):
            raise ValueError(f"boxes: expected {len(dataset)}, one an object of {dataset.name}, got {len(given)}")
        return given
    if box == "image":
        return None
    bad = np.flatnonzero(~_boxed(dataset))
    if len(bad):
        line = f"{dataset.name}: the model crops by a box, and {len(bad)} of {len(dataset)} objects lack one"
        names = listed(line, [dataset.sample_name(int(i)) for i in bad])
        raise ValueError(f"{names}; train with --box image, or pass --boxes FILE")
    return dataset.box


def evaluate(
    model: Predictor | Path | str,
    dataset: Dataset,
    *,
    normalize: str | None = None,
    boxes: np.ndarray | None = None,
    jitter_box: float = 0.0,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    engine: str | None = None,
    threads: int | None = None,
    on_batch: Callable[[int, int], object] | None = None,
    on_predictions: Callable[[Predictions], object] | None = None,
) -> Report:
    """The report of a model file, or an open predictor, on a data set.

    normalize: see `normaliser`; None takes the model's. boxes, jitter_box: see `predict_dataset`. sigmas: None takes
    the data's, then the model's; without any there is no OKS-AP. engine, threads: for opening a file.
    on_predictions: called with the predictions, for whoever draws or keeps them.
    """
    if isinstance(model, (str, Path)):
        from keylite.runtime.predictor import Predictor

        predictor = Predictor(model, engine=engine, threads=threads)
    else:
        if engine is not None or threads is not None:
            raise ValueError("engine, threads: expected None with an open predictor; give them when it is opened")
        predictor = model
    spec = predictor.spec
    notes = _name_notes(spec.skeleton, dataset.skeleton)
    predictions = predict_dataset(
        predictor,
        dataset,
        boxes=boxes,
        jitter_box=jitter_box,
        generator=np.random.default_rng(seed),
        on_batch=on_batch,
    )
    if on_predictions is not None:
        on_predictions(predictions)
    shared = len(dataset) - len(dataset.images)
    if spec.box == "image" and boxes is None and shared > 0:
        notes.append(f"{shared} objects share their image with another; a whole-image model gives both the same points")
    if sigmas is None:
        sigmas = dataset.skeleton.sigmas or spec.skeleton.sigmas
        if sigmas and importlib.util.find_spec("faster_coco_eval") is None:  # nobody asked for it: a note, no error
            notes.append("no OKS-AP although there are sigmas: pip install 'keylite[coco]'")
            sigmas = None
    lacking = len(dataset) - int(_boxed(dataset).sum())
    if boxes is not None and lacking and spec.box == "annotation" and (normalize or spec.normalize) in BOX_NORMALISERS:
        notes.append(f"{lacking} of {len(dataset)} objects have no annotated box: their NME is by the given one")
    judges, fitted = None, spec.confidence
    if fitted and fitted.data_fingerprint == dataset.fingerprint() and (parts := halves(dataset.group_index)):
        judges = parts[1]
        notes.append(f"sigma was fitted on {fitted.count} of these objects and is judged by the other {len(judges)}")
    source = spec.box if boxes is None else "file"
    return report_of(
        predictions,
        dataset,
        normalize or spec.normalize,
        sigmas=sigmas,
        seed=seed,
        box_source=f"{source}, jitter {jitter_box:g} seed {seed}" if jitter_box else source,
        model_sha256=predictor.sha256,
        engine=predictor.engine_name,
        judges=judges,
        notes=notes,
    )


def _name_notes(model: Skeleton, data: Skeleton) -> list[str]:
    """A note where the keypoints are named differently.

    Raises ValueError where both have the same names in another order: points would be measured against wrong labels.
    """
    pairs = [(a, b) for a, b in zip(model.names, data.names, strict=False) if a != b]
    if not pairs or len(model) != len(data):
        return []  # another number of keypoints is refused by predict_dataset
    if set(model.names) == set(data.names):
        raise ValueError(
            f"keypoints: model and data have the same names in another order ({pairs[0][0]!r} against "
            f"{pairs[0][1]!r}); reorder the data's keypoints"
        )
    shown = [f"{a!r} is {b!r} in the data" for a, b in pairs]
    return [listed(f"{len(pairs)} of {len(model)} keypoint names differ, matched by position", shown)]
