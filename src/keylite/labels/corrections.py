"""The corrected copy of labels: only what is certain is changed, and every change is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.labels.findings import Finding, place_of


def corrected(sets: Mapping[str, Dataset], findings: Sequence[Finding]) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The data sets with all corrections of the findings, by the same names, and a line for each object changed."""
    lines = list[str]()
    copies = {}
    for name, data in sets.items():
        own = [one for one in findings if one.part == name and one.correction is not None]
        copies[name] = _corrected(data, own)
        lines += [f"{place_of(one)}: {_change(one)}" for one in own]
    return copies, tuple(lines)


def _corrected(data: Dataset, findings: Sequence[Finding]) -> Dataset:
    """The data set with the labels of some objects in another order, and without copies."""
    names = {name: k for k, name in enumerate(data.skeleton.names)}
    xy, visible, keep = data.xy.copy(), data.visible.copy(), np.ones(len(data), bool)
    for one in findings:
        assert one.correction is not None
        assert one.number is not None
        if one.correction.order is None:
            keep[one.number] = False
            continue
        order = [names[name] for name in one.correction.order]
        xy[one.number], visible[one.number] = data.xy[one.number][order], data.visible[one.number][order]
    return dataclasses.replace(data, xy=xy, visible=visible).subset(keep)


def _change(finding: Finding) -> str:
    assert finding.correction is not None
    if finding.correction.order is None:
        return "the copy is left out"
    return "left and right are swapped back" if finding.kind == "swapped" else "the points are put in their order"
