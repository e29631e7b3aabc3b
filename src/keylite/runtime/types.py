"""What public functions take, named once. Knows nothing of what they do with it."""

from __future__ import annotations

from typing import Literal

WhiteLevel = Literal[255, 1023, 4095, 16383, 65535]  # the largest values of 8, 10, 12, 14 and 16 bits
