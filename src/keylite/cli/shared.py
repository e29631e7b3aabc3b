"""Shared by all verbs: the flags that say how labelled images are read, the exit codes, and how a verb fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import Parameter

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.runtime.types import WhiteLevel

log = logging.getLogger("keylite")

FOUND, WRONG_INPUT, OVER_BUDGET, OWN_FAULT, INTERRUPTED = 1, 2, 3, 70, 130


def _not_negative(type_: Any, value: int) -> None:
    if value < 0:
        raise ValueError(f"expected a whole number from 0 on, got {value}")


Seed = Annotated[int, Parameter(validator=_not_negative)]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The flags that say how labelled images are read. Every verb that takes --data has them."""

    images: Annotated[Path | None, Parameter(help="folder of the images, if they do not lie beside the labels")] = None
    category: Annotated[str | None, Parameter(help="category of the labels to use, if they have several")] = None
    part: Annotated[
        Literal["train", "val", "test"] | None,
        Parameter(help="part of the labels to use, if one file or folder has several"),
    ] = None
    group: Annotated[
        str,
        Parameter(help="images that belong together (one person's): auto, image, block:N, field:NAME or regex:PATTERN"),
    ] = "auto"
    pixel_origin: Annotated[
        Literal["index", "corner", "one"] | None,
        Parameter(help="index: 0 is in the centre of the first pixel; corner: at its edge; one: 1 is in its centre"),
    ] = None
    missing_mark: Annotated[
        str | None,
        Parameter(help="X,Y as in the labels: points exactly there are unlabelled", allow_leading_hyphen=True),
    ] = None
    mm_per_px: Annotated[
        float | None, Parameter(help="mm per px of all images, for reports in mm; default: what the labels say")
    ] = None
    max_megapixels: Annotated[
        float, Parameter(help="largest image, in millions of pixels; larger ones are refused")
    ] = 100.0
    skip_bad: Annotated[bool, Parameter(help="leave out images and annotations that cannot be used, and say which")] = (
        False
    )

    def require_labels(self, verb: str) -> None:
        """Raise ValueError for a flag that says how labels are read, because there are none."""
        usual = dataclasses.replace(USUAL, max_megapixels=self.max_megapixels, skip_bad=self.skip_bad)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != getattr(usual, field.name):
                name = field.name.replace("_", "-")
                raise ValueError(f"{verb}: --{name} says how labels are read; give them as --data, or leave it out")

    def labels(self, path: Path, part: str | None = None, skip_bad: bool = False) -> Dataset:
        """The data set of labels; its images are not read yet.

        part: the one to read, if --part names none. skip_bad: as the flag, which may ask for it, too.
        """
        from keylite.data.formats.reading import read_dataset
        from keylite.data.marks import read_mark

        return read_dataset(
            path,
            images=self.images,
            category=self.category,
            part=self.part or part,
            group=self.group,
            pixel_origin=self.pixel_origin,
            skip_bad=self.skip_bad or skip_bad,
            missing_mark=None if self.missing_mark is None else read_mark(self.missing_mark),
            mm_per_px=self.mm_per_px,
        )

    def dataset(self, path: Path, white_level: WhiteLevel | None = None, box: str = "image") -> Dataset:
        """The data set of a label file. Every image is read once, and the log says what was skipped or replaced.

        white_level, box: those of the model file that will see it.
        """
        from keylite.data.examples import with_boxes

        dataset = with_boxes(self.labels(path), box, self.skip_bad).check_images(
            self.max_megapixels, self.skip_bad, white_level
        )
        for note in dataset.notes:
            log.info("%s: %s", dataset.called, note)
        return dataset


As = Annotated[Reading, Parameter(name="*")]
USUAL = Reading()


def write_json(path: Path, value: Any) -> None:
    """Write a value as an indented JSON file."""
    from keylite.runtime.files import write_text

    write_text(path, json.dumps(value, indent=2) + "\n")


def fail(line: str, code: int) -> NoReturn:
    """Print one line on standard error and end with an exit code."""
    from keylite.cli.flags import error_as_flags
    from keylite.runtime.words import one_line

    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it was closed, so nobody reads the line
            print(f"keylite: {one_line(error_as_flags(line))}", file=sys.stderr, flush=True)
    raise SystemExit(code)
