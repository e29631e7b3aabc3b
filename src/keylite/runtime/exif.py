"""The orientation in an EXIF block: which way a picture must be turned. It is read as OpenCV reads it.

OpenCV (modules/imgcodecs/src/exif.cpp) differs from the standard: it takes 16 bits whatever the type, and stops at the
first tag that points beyond the block. keylite does the same, because a path must give the pixels that OpenCV gives.
"""

from __future__ import annotations

import struct

ORIENTATION = 274
TEXTS = frozenset({270, 271, 272, 305, 306, 33432})  # tags whose text OpenCV reads
RATIONALS = {282: 1, 283: 1, 318: 2, 319: 6, 529: 3, 532: 6}  # tag: how many pairs of numbers OpenCV reads
SHORTS = frozenset({296, 531})  # tags whose 16-bit number OpenCV reads
TURNED = frozenset(range(2, 9))  # orientations that are not upright
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that exchange rows and columns


def orientation_of(block: bytes) -> int | None:
    """The orientation, 1 to 8 if it is valid; None if the part of the block that can be read has none."""
    order = "<" if block.startswith(b"II") else ">"

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(order + kind, block, at)[0]

    try:
        if number("H", 2) != 42:
            return None
        start = number("I", 4)
        for at in range(start + 2, start + 2 + 12 * number("H", start), 12):
            tag = number("H", at)
            if tag == ORIENTATION:
                return number("H", at + 8)
            if tag in TEXTS:
                length = number("I", at + 4)
                if (number("I", at + 8) if length > 4 else 8) + length > len(block):
                    return None
            elif tag in RATIONALS:
                first = number("I", at + 8)
                for pair in range(RATIONALS[tag]):
                    number("Q", (first + 8 * pair) % 2**32)
            elif tag in SHORTS:
                number("H", at + 8)
    except struct.error:  # beyond the block
        pass
    return None
