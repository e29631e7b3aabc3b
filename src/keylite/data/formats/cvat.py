"""CVAT: its XML for images and for video, with skeletons, or with points that a label or a group joins.

Source: https://docs.cvat.ai/docs/other/xml_format (1.1) and its skeletons, whose elements are `points` with `outside`
(not there) and `occluded` (hidden). CVAT's canvas covers 0 to the picture's width, so nothing is shifted.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import SubElement

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.entries import Box, Entries, Point, named_points, number
from keylite.data.formats.xml_text import Element, read_xml, write_xml
from keylite.data.labels import Labels, Wanted
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.words import counted

TELLING = re.compile(rb"<annotations>.*?<(version|meta|image|track)\b", re.DOTALL)
OBJECT = "object"  # the label of objects whose file does not say what they are
FRAME = "frame_{:06d}.PNG"  # as CVAT's export of a video with its frames names them
NODE = re.compile(r"<circle\b[^>]*>")
EDGE = re.compile(r"<line\b[^>]*>")
ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')


def is_cvat(start: bytes) -> bool:
    """Whether XML begins as an export of CVAT."""
    return TELLING.search(start) is not None


def read_cvat(path: Path, wanted: Wanted) -> Labels:
    """Read `annotations.xml` of CVAT, for images or for video."""
    root = read_xml(path)
    if root.tag != "annotations":
        raise DataError(f"{path}: expected CVAT's <annotations>, got <{root.tag[:60]}>")
    entries = Entries(path, wanted.fields)
    skeletons = _skeletons(path, root)
    for at, image in enumerate(root.iterfind("image")):
        _add_image(entries, image, at, skeletons)
    if root.find("track") is not None:
        _add_tracks(entries, root)
    return dataclasses.replace(entries.labels(wanted.category, skeletons), climb=True)


def _add_image(entries: Entries, image: Element, at: int, skeletons: Mapping[str, Skeleton]) -> None:
    """Add the objects of one <image>."""
    name = image.get("name")
    if not name:
        entries.bad.append(f"image number {at + 1}: it has no name")
        return
    try:
        size = [number(image.get(side), side) if image.get(side) else None for side in ("width", "height")]
    except ValueError as error:
        entries.bad.append(f"{name}: {error}")
        return
    number_of = entries.image(name, *size)
    shared = {key: text for tag in image.iterfind("tag") for key, text in _attributes(tag).items()}
    boxes = list(image.iterfind("box"))  # those that no object has taken
    for kind in ("polygon", "polyline", "mask", "ellipse", "cuboid"):
        if count := len(image.findall(kind)):
            entries.left_out[kind] += count
    for order, skeleton in enumerate(image.iterfind("skeleton"), start=1):
        where = f"{name} skeleton {order}"
        try:
            label = skeleton.get("label", "")
            points = named_points([_element(each) for each in skeleton.iterfind("points")])
            if label in skeletons and (odd := set(points) - set(skeletons[label].names)):
                raise DataError(f"no point of {label} is called {min(odd)!r:.60}")
            box = _taken(boxes, skeleton.get("group_id"))
            group = skeleton.get("group_id") or "0"
            identity = int(group) if group.isdecimal() and group != "0" else None
            entries.add(number_of, points, where, box, identity, label, shared | _attributes(skeleton))
        except ValueError as error:
            entries.bad.append(f"{where}: {error}")
    _add_loose(entries, number_of, name, list(image.iterfind("points")), boxes, shared)
    if boxes:
        entries.left_out["box without points"] += len(boxes)


def _add_loose(
    entries: Entries, image: int, name: str, loose: list[Element], boxes: list[Element], shared: Mapping[str, str]
) -> None:
    """Add objects of <points> outside skeletons: a shape with many points is an object, single ones are joined."""
    single: dict[str, list[tuple[str, Point]]] = {}
    for order, shape in enumerate(loose, start=1):
        where = f"{name} points {order}"
        try:
            pairs = _pairs(shape.get("points", ""))
            v = 1.0 if shape.get("occluded") == "1" else 2.0
            group, label = shape.get("group_id") or "0", shape.get("label", "")
            if len(pairs) == 1:
                single.setdefault(group, []).append((label, (*pairs[0], v)))
                continue
            points: dict[str, Point] = {key: (*pair, v) for key, pair in zip(unnamed(len(pairs)), pairs, strict=True)}
            entries.add(image, points, where, _taken(boxes, group), None, label, {**shared, **_attributes(shape)})
        except ValueError as error:
            entries.bad.append(f"{where}: {error}")
    for group, found in single.items():
        where = name if group == "0" else f"{name} group {group}"
        alone = len(single) == 1 and len(boxes) == 1 and all(len(_pairs(each.get("points", ""))) == 1 for each in loose)
        try:
            box = _box(boxes.pop()) if alone else _taken(boxes, group)  # one object and one box belong together
            entries.add(image, named_points(found), where, box, None if group == "0" else group, "", shared)
        except ValueError as error:
            hint = "; group the points of each object in CVAT" if group == "0" else ""
            entries.bad.append(f"{where}: {error}{hint}")


def _add_tracks(entries: Entries, root: Element) -> None:
    """Add the objects of a video: of each track its key frames, because CVAT computes the frames between them."""
    frames: dict[int, int] = {}
    size = root.find("meta//original_size")
    width, height = (size.findtext(side) if size is not None else None for side in ("width", "height"))
    between = 0
    for track in root.iterfind("track"):
        label, name = track.get("label", ""), track.get("id", "")
        for shape in track:
            if shape.tag not in ("skeleton", "points"):
                entries.left_out[f"{shape.tag} of a track"] += 1
                continue
            where = f"track {name} frame {shape.get('frame')}"
            parts = list(shape.iterfind("points")) if shape.tag == "skeleton" else [shape]
            keys = [part.get("keyframe") for part in (shape, *parts) if part.get("keyframe")]
            if keys and "1" not in keys:
                between += 1
                continue
            if shape.get("outside") == "1":
                continue
            try:
                frame = int(number(shape.get("frame"), "frame"))
                if frame not in frames:
                    sizes = [None if each is None else number(each, "original_size") for each in (width, height)]
                    frames[frame] = entries.image(FRAME.format(frame), *sizes)
                if shape.tag == "skeleton":
                    points = named_points([_element(part) for part in parts])
                else:
                    pairs = _pairs(shape.get("points", ""))
                    v = 1.0 if shape.get("occluded") == "1" else 2.0
                    points = {key: (*pair, v) for key, pair in zip(unnamed(len(pairs)), pairs, strict=True)}
                entries.add(frames[frame], points, where, None, name, label, _attributes(shape))
            except ValueError as error:
                entries.bad.append(f"{where}: {error}")
    if between:
        entries.notes.append(f"left out: {counted(between, 'shape')} between key frames, which nobody labelled")


def _element(point: Element) -> tuple[str, Point]:
    """Name and point of one element of a skeleton; one that is outside is not labelled."""
    name = point.get("label", "")
    if point.get("outside") == "1":
        return name, (0.0, 0.0, 0.0)
    pairs = _pairs(point.get("points", ""))
    if len(pairs) != 1:
        raise DataError(f"{name}: expected one point, got {len(pairs)}")
    return name, (*pairs[0], 1.0 if point.get("occluded") == "1" else 2.0)


def _pairs(text: str) -> list[tuple[float, float]]:
    """The points of `x,y;x,y`."""
    pairs = []
    for pair in text.split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise DataError(f"points: expected x,y;x,y, got {text!r:.60}")
        pairs.append((number(x, "points"), number(y, "points")))
    return pairs


def _box(box: Element) -> Box:
    left, top, right, bottom = (number(box.get(side), f"box: {side}") for side in ("xtl", "ytl", "xbr", "ybr"))
    if box.get("rotation") and number(box.get("rotation"), "box: rotation"):
        raise DataError("the box is turned; keylite's boxes are upright")
    return left, top, right, bottom


def _taken(boxes: list[Element], group: str | None) -> Box | None:
    """The one box of a group, which leaves the list; None if the group is 0, which means no group, or has no box."""
    found = [box for box in boxes if (group or "0") != "0" and box.get("group_id") == group]
    if len(found) > 1:
        raise DataError(f"group {group} has {len(found)} boxes")
    for box in found:
        boxes.remove(box)
        return _box(box)
    return None


def _attributes(shape: Element) -> dict[str, str]:
    return {each.get("name", ""): each.text for each in shape.iterfind("attribute") if each.text}


def _skeletons(path: Path, root: Element) -> dict[str, Skeleton]:
    """The skeletons that the file describes: each label of type skeleton, with its points in order, and its edges."""
    names: dict[str, list[str]] = {}
    edges: dict[str, list[tuple[int, int]]] = {}
    labels = list(root.iterfind("meta//label"))
    for label in labels:
        if label.findtext("type") == "skeleton":
            kind = label.findtext("name") or ""
            names[kind] = [each.findtext("name") or "" for each in labels if each.findtext("parent") == kind]
            edges[kind] = list(_edges(label.findtext("svg") or "", names[kind]))
    try:
        return {kind: Skeleton(tuple(each), tuple(edges[kind])) for kind, each in names.items() if each}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _edges(svg: str, names: list[str]) -> Iterator[tuple[int, int]]:
    """The edges that the drawing of a skeleton holds, as CVAT writes it."""
    nodes = [{key: html.unescape(text) for key, text in ATTRIBUTE.findall(each)} for each in NODE.findall(svg)]
    place = {
        node.get("data-node-id"): names.index(name) for node in nodes if (name := node.get("data-label-name")) in names
    }
    for line in EDGE.findall(svg):
        ends = dict(ATTRIBUTE.findall(line))
        one, other = place.get(ends.get("data-node-from")), place.get(ends.get("data-node-to"))
        if one is not None and other is not None:
            yield one, other


# ---- writing


def cvat_text(data: Dataset, sizes: np.ndarray, source: str = "manual") -> bytes:
    """The XML "CVAT for images" of a data set: a skeleton per object, its box in the same group.

    sizes: (M, 2) width and height, px. source: who labelled, "manual" or "auto".
    """
    kind = data.category or OBJECT
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    _label(labels, kind, "skeleton", svg=_svg(data), group=data.groups_named)
    for name in data.skeleton.names:
        _label(labels, name, "points", parent=kind)
    if data.boxed.any():
        _label(labels, f"{kind} box", "rectangle")
    images = []
    for at, (name, (width, height)) in enumerate(zip(data.image_names, sizes.tolist(), strict=True)):
        sides = {"width": str(int(width)), "height": str(int(height))}
        images.append(SubElement(root, "image", {"id": str(at), "name": name} | sides))
    counts = [0] * len(images)
    ids = data.ids if holds_groups(data) else ()
    for row, image in enumerate(data.image_index.tolist()):
        counts[image] += 1
        group = {"group_id": str(ids[row] if ids else counts[image])}
        skeleton = SubElement(images[image], "skeleton", {"label": kind, "source": source, "z_order": "0"} | group)
        if data.groups_named:
            SubElement(skeleton, "attribute", {"name": "group"}).text = data.groups[data.group_index[row]]
        for point, (x, y), v in zip(
            data.skeleton.names, data.xy[row].tolist(), data.visible[row].tolist(), strict=True
        ):
            flags = {"outside": "0" if v else "1", "occluded": "1" if v == 1 else "0"}
            place = {"points": f"{x},{y}" if v else "0.0,0.0"}
            SubElement(skeleton, "points", {"label": point, "source": source} | flags | place)
        if data.boxed[row]:
            edges = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(repr, data.box[row].tolist()), strict=True))
            SubElement(
                images[image], "box", {"label": f"{kind} box", "source": source, "occluded": "0"} | edges | group
            )
    return write_xml(root)


def holds_groups(data: Dataset) -> bool:
    """Whether ids can be CVAT's groups: whole numbers above 0, each once in a picture."""
    pairs = set(zip(data.image_index.tolist(), data.ids, strict=False))
    return len(pairs) == len(data) and all(isinstance(key, int) and key > 0 for key in data.ids)


def _label(labels: Element, name: str, kind: str, parent: str = "", svg: str = "", group: bool = False) -> None:
    label = SubElement(labels, "label")
    SubElement(label, "name").text = name
    SubElement(label, "type").text = kind
    attributes = SubElement(label, "attributes")
    if group:
        attribute = SubElement(attributes, "attribute")
        for field, text in (("name", "group"), ("mutable", "False"), ("input_type", "text")):
            SubElement(attribute, field).text = text
        SubElement(attribute, "default_value")
        SubElement(attribute, "values")
    if svg:
        SubElement(label, "svg").text = svg
    if parent:
        SubElement(label, "parent").text = parent


def _svg(data: Dataset) -> str:
    """A drawing of the skeleton, as CVAT keeps it: nodes on a grid, and edges."""
    side = math.ceil(math.sqrt(len(data.skeleton)))
    places = [(100 * (k % side + 0.5) / side, 100 * (k // side + 0.5) / side) for k in range(len(data.skeleton))]
    lines = [
        f'<line x1="{places[a][0]:g}" y1="{places[a][1]:g}" x2="{places[b][0]:g}" y2="{places[b][1]:g}" stroke="black" '
        f'data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}" stroke-width="0.5"></line>'
        for a, b in data.skeleton.edges
    ]
    circles = [
        f'<circle r="1.5" stroke="black" fill="#b3b3b3" cx="{x:g}" cy="{y:g}" stroke-width="0.1" '
        f'data-type="element node" data-element-id="{k + 1}" data-node-id="{k + 1}" '
        f'data-label-name="{html.escape(name)}"></circle>'
        for k, ((x, y), name) in enumerate(zip(places, data.skeleton.names, strict=True))
    ]
    return "".join(lines + circles)
