"""Damage to bytes, texts and JSON trees, each drawn from a `random.Random`: what the cases of every kind are made with."""

from __future__ import annotations

import json
import random
from typing import Any

DEEP = "\x00deep\x00"  # stands for nested brackets, which json.dumps would refuse; `dumped` puts them in
DEPTHS = (50, 1000, 100_000)
NUMBERS = (
    *(0, -1, 1, 2, 3, 0.5, -0.5, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**18, 10**400),
    *(1e-300, 1e15, 1e300, -1e300, float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", " ", "0", "nan", "a/../../b", "/", ".", "..", "~", "-1", "x" * 5000, "a\x00b", "a\nb", "a\rb", "\x1b[31mred"),
    *("keylite: error", "%s%n{}", "ü\u0301", "\ud800", "🦔", "\u202eabc", "null", "[", '"', "true"),
)
MARKS = (
    b"",
    b"\x00",
    b"\xff",
    b"\xff\xd9",
    b"\xff\xd8",
    b"\x00" * 64,
    b"\xff" * 64,
    b"PK\x03\x04",
    b"\x7f\xff\xff\xff",
)


def odd_value(rng: random.Random) -> Any:
    """A number, text, truth value, list or object that hardly anybody expects."""
    return rng.choice(
        (
            *(lambda: rng.choice(NUMBERS),) * 4,
            *(lambda: rng.choice(TEXTS),) * 3,
            lambda: rng.choice((None, True, False, [], {}, [[]], {"": None})),
            lambda: [odd_value(rng) for _ in range(rng.randint(1, 4))],
            lambda: {rng.choice(TEXTS): odd_value(rng)},
            lambda: DEEP,
        )
    )()


def places_of(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside a tree."""
    places, open_yet = [], [tree]
    while open_yet:
        node = open_yet.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        open_yet += [node[key] for key in keys]
    return places


def mutate_tree(rng: random.Random, tree: Any, times: int) -> Any:
    """A copy of a JSON tree with so many changes: values replaced, left out, moved, repeated, renamed, nudged."""
    tree = json.loads(json.dumps(tree))
    for _ in range(times):
        places = places_of(tree)
        if not places:
            return odd_value(rng)
        node, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind <= 2:
            node[key] = odd_value(rng)
        elif kind == 3:
            del node[key]
        elif kind == 4:
            other, from_key = rng.choice(places)
            node[key] = json.loads(json.dumps(other[from_key])) if from_key in _keys(other) else odd_value(rng)
        elif kind == 5 and isinstance(node, dict):
            node[rng.choice(TEXTS)] = node.pop(key)
        elif kind == 5:
            node.insert(key, node[key])
        elif kind == 6 and isinstance(node[key], int | float):
            node[key] = _nudged(rng, node[key])
        elif isinstance(node[key], list):
            node[key] = node[key] * rng.choice((0, 2, 3, 50)) if rng.random() < 0.7 else list(reversed(node[key]))
        else:
            node[key] = [node[key]] if rng.random() < 0.5 else str(node[key])
    return tree


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def _nudged(rng: random.Random, value: float) -> Any:
    factor = rng.choice((-1, 0.01, 0.1, 10, 100, 1e4, 1e7, 1e12))
    return rng.choice(
        (value + 1, value - 1, value * factor, -value, float(value), str(value), [value], 1 / (value or 3))
    )


def dumped(rng: random.Random, tree: Any) -> bytes:
    """A tree as JSON, sometimes in another layout, encoding or with a key given twice; deep nesting put in."""
    text = json.dumps(tree, indent=rng.choice((None, None, 2)), ensure_ascii=rng.random() < 0.8)
    quoted = json.dumps(DEEP)
    while quoted in text:
        depth = rng.choice(DEPTHS)
        start, end = rng.choice((("[", "]"), ('{"a":', "}"))) if rng.random() < 0.9 else ("[", "")
        text = text.replace(quoted, f"{start * depth}1{end * depth}", 1)
    if rng.random() < 0.05 and '":' in text:
        text = text.replace("{", '{"images": 1, "images": 2, ', 1)
    encoding = rng.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1"))
    return text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")


def mutate_bytes(rng: random.Random, data: bytes, times: int = 1, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes with so many changes between `start` and `stop`: bits, runs, cuts, insertions, repeats, moves."""
    changed, stop = bytearray(data), len(data) if stop is None else stop
    for _ in range(times):
        if stop - start < 2:
            return bytes(changed)
        at = rng.randrange(start, stop)
        run = min(rng.choice((1, 1, 2, 4, 16, 64, 512, 4096)), stop - at)
        kind = rng.randrange(10)
        if kind <= 2:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            changed[at] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
        elif kind == 4:
            changed[at : at + run] = rng.choice((b"\x00", b"\xff", b"\x80")) * run
        elif kind == 5:
            changed[at : at + run] = rng.randbytes(run)
        elif kind == 6:
            del changed[at : at + run]
        elif kind == 7:
            changed[at:at] = rng.choice(MARKS)
        elif kind == 8:
            from_at = rng.randrange(start, stop)
            changed[at : at + run] = changed[from_at : from_at + run]
        else:
            del changed[at:]
            changed += rng.choice(MARKS)
        stop = min(stop, len(changed))
    return bytes(changed)


def mutate_number(rng: random.Random, data: bytes, at: int, size: int, order: str) -> bytes:
    """The bytes with the whole number of `size` bytes at `at` replaced by an odd one; order: little or big."""
    most = 256**size - 1
    old = int.from_bytes(data[at : at + size], order)
    value = rng.choice(
        (0, 1, most, most // 2, most // 2 + 1, old + 1, old - 1, old * 2, old * 100, rng.randint(0, most))
    )
    return data[:at] + (value & most).to_bytes(size, order) + data[at + size :]


def spliced(rng: random.Random, first: bytes, second: bytes) -> bytes:
    """The head of one file and the tail of another."""
    return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]


def mutate_lines(rng: random.Random, text: str, separators: str = ",") -> str:
    """A text of lines and fields with one of them replaced, left out, repeated, swapped or joined."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    separator = next((mark for mark in separators if mark in lines[at]), separators[0])
    fields = lines[at].split(separator)
    place = rng.randrange(len(fields))
    kind = rng.randrange(8)
    if kind <= 2:
        value = odd_value(rng)
        fields[place] = "[" * 1000 if value == DEEP else value if isinstance(value, str) else str(value)[:5000]
    elif kind == 3:
        del fields[place]
    elif kind == 4:
        fields.insert(place, fields[place])
    elif kind == 5:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 6:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        return "\n".join(lines)
    else:
        separator = rng.choice((";", "\t", " ", '"', "\n", ""))
    lines[at] = separator.join(fields)
    return "\n".join(lines)
