"""Crops that every port to another language is compared on."""

from __future__ import annotations

BOXES = {  # padding and box of a crop, in a picture of 101x75 px for an input of 40x32 px
    "enlarged": (0.25, [20.0, 15.0, 51.0, 40.0]),
    "shrunk a little": (0.0, [3.5, 2.25, 90.0, 70.0]),
    "beyond the image": (0.25, [-40.0, 60.0, 30.0, 130.0]),
    "shrunk to a half": (0.0, [-8.0, -2.0, 120.0, 126.0]),
    "shrunk to a quarter and less": (0.5, [-60.0, -30.0, 150.0, 150.0]),
    "far larger than the image": (4.0, [-900.0, -900.0, 900.0, 900.0]),
}
