"""The kinds of gauge, as tables: dials, needles, lettering, cases, and which family has which.

Colours are RGB 0..255, angles are clockwise in radians, lengths are on the dial plane of render.py, where the glass has
radius 1.
"""

from __future__ import annotations

import dataclasses

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Dial:
    """A kind of dial face.

    Attributes:
        inks: Pairs of colours, of the face and of the ink.
        tick: The shape of the ticks, a name in TICKS.
        rails: Whether there are arcs along the outer and along the inner ends of the ticks.
        band: Where the coloured zones begin and end, as shares of the tick length from the outer end; None: no zones.
        outside: Whether the numerals are outside the ticks.
        radial: Whether the numerals are turned with the scale, rather than upright.
        sunburst: The strength of the rays of a brushed metal face; 0: none.
    """

    inks: tuple[tuple[Colour, Colour], ...]
    tick: str
    rails: tuple[bool, bool]
    band: tuple[float, float] | None = None
    outside: bool = False
    radial: bool = False
    sunburst: float = 0.0


@dataclasses.dataclass(frozen=True)
class Font:
    """A kind of lettering.

    Attributes:
        rounds: How often the corners of the strokes are cut, which rounds them.
        width: The width of a letter, as a share of its height.
        slant: How far a letter leans to the right, as a share of its height.
        weight: The width of its strokes, as a share of its height.
    """

    rounds: int
    width: float
    slant: float
    weight: float


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of case.

    Attributes:
        corners: 0 is round, 4 is square with soft corners, 8 is an octagon.
        rim: The least and the largest width of the rim.
        lobes: The number of highlights around the rim: metal has several, plastic has one.
        gloss: The strength of the highlights.
        steps: The number of rings of the rim.
        screws: The number of screws.
        colours: The colours to choose from.
    """

    corners: int
    rim: tuple[float, float]
    lobes: int
    gloss: float
    steps: int
    screws: int
    colours: tuple[Colour, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """The kinds of parts from which the gauges of one family are made; the two families have none in common."""

    dials: dict[str, Dial]
    needles: tuple[str, ...]
    accents: tuple[Colour, ...]
    fonts: dict[str, Font]
    units: tuple[str, ...]
    cases: dict[str, Case]
    backgrounds: tuple[str, ...]
    reflections: tuple[str, ...]


# A tick's outline: x from the outer end (0) to the inner end (1), y in half widths.
TICKS: dict[str, tuple[tuple[float, float], ...]] = {
    "bar": ((0, -1), (1, -1), (1, 1), (0, 1)),
    "wedge": ((0, -1.3), (1, -0.3), (1, 0.3), (0, 1.3)),
    "peg": ((0, -1.2), (0.65, -1.2), (1, 0), (0.65, 1.2), (0, 1.2)),
    "diamond": ((0, 0), (0.5, -1.7), (1, 0), (0.5, 1.7)),
    "spike": ((0, -0.5), (1, -1.4), (1, 1.4), (0, 0.5)),
    "tee": ((0, -2), (0.3, -2), (0.3, -0.8), (1, -0.8), (1, 0.8), (0.3, 0.8), (0.3, 2), (0, 2)),
}

# One half of a needle's outline: x from the tip (1) past the pivot (0) to the tail, y in half widths.
NEEDLES: dict[str, tuple[tuple[float, float], ...]] = {
    "taper": ((1, 0.15), (0, 1), (-0.26, 1.3)),
    "baton": ((1, 0.7), (-0.2, 0.7)),
    "lance": ((1, 0.1), (0.8, 1.1), (0.76, 0.4), (0, 0.6), (-0.24, 1)),
    "arrow": ((1, 0.1), (0.74, 1.9), (0.78, 0.45), (-0.1, 0.45), (-0.12, 1.6), (-0.28, 1.6)),
    "rod": ((1, 0.4), (-0.14, 0.4), (-0.16, 1.5), (-0.2, 2.1), (-0.26, 2.1), (-0.3, 1.5), (-0.31, 0.3)),
    "leaf": ((1, 0.1), (0.8, 0.8), (0.5, 1.35), (0.15, 0.5), (-0.22, 0.7)),
    "sword": ((1, 0.1), (0.86, 0.8), (0, 1), (-0.06, 0.45), (-0.3, 0.45)),
    "spade": ((1, 0.1), (0.88, 0.4), (0.8, 1.5), (0.7, 1.7), (0.62, 0.45), (-0.16, 0.5), (-0.26, 1.3), (-0.3, 0.3)),
    "stepped": ((1, 0.35), (0.6, 0.35), (0.56, 1), (-0.16, 1), (-0.27, 0.5)),
}

# Strokes on a grid 4 wide and 6 high, as pairs of digits x and y from the top left; "/" begins a new stroke.
GLYPHS: dict[str, str] = {
    "0": "20 30 41 45 36 16 05 01 10 20",
    "1": "11 20 26",
    "2": "01 10 30 41 42 06 46",
    "3": "01 10 30 41 42 33 23/23 33 44 45 36 16 05",
    "4": "36 30 04 44",
    "5": "40 00 03 12 32 43 45 36 16 05",
    "6": "40 20 02 05 16 36 45 43 32 12 03",
    "7": "00 40 16",
    "8": "23 13 02 01 10 30 41 42 33 23/23 13 04 05 16 36 45 44 33 23",
    "9": "06 26 44 41 30 10 01 03 14 34 43",
    ".": "15 16",
    "-": "03 33",
    "A": "06 20 46/14 34",
    "B": "03 33 42 41 30 00 06 36 45 44 33",
    "C": "41 30 10 01 05 16 36 45",
    "H": "00 06/40 46/03 43",
    "I": "20 26",
    "K": "00 06/40 03 46",
    "M": "06 00 23 40 46",
    "P": "06 00 30 41 42 33 03",
    "R": "06 00 30 41 42 33 03/23 46",
    "S": "41 30 10 01 02 13 33 44 45 36 16 05",
    "V": "00 26 40",
    "Z": "00 40 06 46",
}

WHITE, BLACK = (238, 238, 234), (24, 24, 26)
ZONES: tuple[Colour, ...] = ((58, 150, 72), (228, 186, 40), (204, 48, 40))
GAP = 0.32  # between two letters, in heights
STEPS = (0.1, 0.2, 0.5, 1, 2, 4, 5, 10, 20, 25, 50, 100)  # value between two numerals


FAMILIES: dict[str, Family] = {
    "train": Family(
        dials={
            "pressure": Dial((((236, 236, 230), BLACK), ((250, 248, 240), (16, 24, 70))), "bar", (False, False)),
            "railway": Dial((((233, 222, 190), (50, 36, 26)), ((226, 226, 220), BLACK)), "bar", (True, True)),
            "dashboard": Dial((((28, 28, 30), WHITE), ((22, 30, 56), WHITE)), "wedge", (False, False), radial=True),
            "process": Dial((((205, 208, 210), BLACK), ((240, 240, 236), BLACK)), "peg", (True, False), (0.0, 0.55)),
            "cockpit": Dial((((40, 42, 44), (240, 236, 214)), ((18, 18, 20), WHITE)), "bar", (False, True), (1.0, 1.5)),
            "ship": Dial(
                (((88, 52, 34), (240, 226, 190)), ((36, 84, 104), (236, 240, 240)), ((226, 206, 96), BLACK)),
                "wedge",
                (False, True),
                outside=True,
            ),
        },
        needles=("taper", "baton", "lance", "arrow", "rod"),
        accents=((200, 36, 30), (232, 112, 28), (20, 20, 22), (240, 240, 236), (24, 128, 104), (120, 196, 84)),
        fonts={
            "plain": Font(2, 0.56, 0.0, 0.13),
            "bold": Font(2, 0.6, 0.0, 0.2),
            "narrow": Font(2, 0.4, 0.0, 0.14),
            "stencil": Font(0, 0.58, 0.0, 0.15),
        },
        units=("BAR", "PSI", "KPA", "V", "A"),
        cases={
            "chrome": Case(0, (0.07, 0.16), 4, 0.6, 1, 0, ((170, 174, 178),)),
            "brass": Case(0, (0.08, 0.2), 3, 0.45, 1, 0, ((176, 136, 62),)),
            "plastic": Case(0, (0.06, 0.18), 1, 0.25, 1, 0, ((34, 34, 36), (70, 72, 76), (222, 222, 218))),
            "flange": Case(0, (0.28, 0.38), 1, 0.2, 2, 3, ((48, 50, 54), (120, 124, 128), (38, 62, 92))),
            "panel": Case(4, (0.06, 0.14), 1, 0.15, 1, 4, ((30, 30, 32), (196, 196, 190), (92, 98, 102))),
        },
        backgrounds=("plaster", "planks", "machinery", "pipes"),
        reflections=("streak", "spot"),
    ),
    "test": Family(
        dials={
            "marine": Dial(
                (((30, 62, 50), (236, 226, 190)), ((70, 26, 30), (240, 232, 214))), "diamond", (True, False)
            ),
            "meter": Dial(
                (((186, 192, 200), (20, 30, 84)), ((208, 198, 176), (40, 20, 20))),
                "spike",
                (False, True),
                sunburst=0.14,
            ),
            "signal": Dial(
                (((52, 54, 60), (240, 204, 60)), ((214, 226, 206), (18, 44, 30))), "tee", (False, False), (0.35, 1.0)
            ),
            "outer": Dial(
                (((244, 232, 232), (60, 20, 40)), ((16, 38, 44), (196, 236, 236))), "spike", (False, True), outside=True
            ),
        },
        needles=("leaf", "sword", "spade", "stepped"),
        accents=((140, 16, 40), (24, 60, 160), (246, 214, 60), (30, 26, 40), (226, 244, 240)),
        fonts={
            "italic": Font(2, 0.54, 0.24, 0.14),
            "wide": Font(1, 0.78, 0.0, 0.12),
            "poster": Font(1, 0.5, 0.1, 0.22),
        },
        units=("MPA", "HZ", "C"),
        cases={
            "octagon": Case(8, (0.1, 0.2), 1, 0.25, 1, 8, ((62, 66, 60), (150, 150, 146))),
            "stepped": Case(0, (0.14, 0.26), 6, 0.5, 3, 0, ((150, 150, 156), (186, 158, 132))),
            "enamel": Case(0, (0.1, 0.24), 2, 0.4, 2, 0, ((150, 28, 32), (30, 74, 150), (36, 104, 62))),
        },
        backgrounds=("tiles", "treadplate", "cables", "lights"),
        reflections=("window", "crescent"),
    ),
}
