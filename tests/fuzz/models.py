"""Cases of model files and their descriptions: bits, headers, specs, archive parts; accepted damage must change nothing."""

from __future__ import annotations

import functools
import io
import json
import random
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

from cases import Case, Outcome
from damage import dumped, mutate_bytes, mutate_number, mutate_tree, spliced
from labels import damaged_json, dry_train
from seeds import TRAINING

BACKBONES = (
    "lite9",
    "timm:",
    "timm:convnext_xxlarge",
    "timm:vit_giant_patch14_dinov2",
    "timm:resnet18",
    "timm:../x",
    "",
)
FILES = ("model.safetensors",) * 3 + ("model.onnx",) * 2 + ("model.tflite",) * 2


def damaged_spec(rng: random.Random, text: str | bytes) -> bytes:
    """A description with damaged fields, some to what would cost much if it was believed."""
    tree = json.loads(text)
    kind = rng.randrange(6)
    if kind == 0:
        tree["head"]["hidden"] = rng.choice((10**12, 10**6, 0, 2**63, 1.5))
    elif kind == 1:
        tree["backbone"] = rng.choice(BACKBONES)
    elif kind == 2:
        tree["size"] = [rng.choice((0, 1, 33, 4096, 10**5, 10**9)), rng.choice((32, 10**5))]
    elif kind == 3:
        part = rng.choice(("skeleton", "head", "provenance", "confidence"))
        tree[part] = mutate_tree(rng, tree[part], 2)
    else:
        return damaged_json(rng, json.dumps(tree).encode())
    return dumped(rng, tree)


def safetensors_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a .safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def as_safetensors(header: bytes, tensors: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + tensors


def damaged_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A .safetensors file whose header, description or tensors are damaged, the rest being right."""
    header, tensors = safetensors_parts(data)
    kind = rng.randrange(6)
    if kind == 0:
        return as_safetensors(dumped(rng, mutate_tree(rng, header, rng.choice((1, 2)))), tensors)
    if kind == 1:
        name = rng.choice([name for name in header if name != "__metadata__"])
        header[name] = mutate_tree(rng, header[name], 1)
        return as_safetensors(json.dumps(header).encode(), tensors)
    if kind == 2:
        return as_safetensors(json.dumps(header).encode(), mutate_bytes(rng, tensors, rng.choice((1, 1, 3))))
    if kind == 3:
        return mutate_number(rng, data, 0, 8, "little")
    if kind == 4:
        return as_safetensors(rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"", b"null", b"[]", b"{}")), tensors)
    metadata = header.get("__metadata__", {})
    if not metadata:
        return mutate_bytes(rng, data)
    if "keylite" in metadata:
        metadata["keylite"] = damaged_spec(rng, metadata["keylite"]).decode("utf-8", "replace")
    else:  # a resume checkpoint of Keras
        metadata["history"] = damaged_json(rng, metadata["history"].encode()).decode("utf-8", "replace")
    return as_safetensors(json.dumps(header).encode(), tensors)


def damaged_onnx(rng: random.Random, data: bytes) -> bytes:
    """An .onnx file with a damaged description, or with none."""
    import onnx

    model = onnx.load_from_string(data)
    entries = {entry.key: entry for entry in model.metadata_props}
    if rng.random() < 0.1:
        del model.metadata_props[:]
    else:
        text = damaged_spec(rng, entries["keylite"].value)
        entries["keylite"].value = text.decode("utf-8", "ignore").encode("utf-8", "ignore").decode()
    return model.SerializeToString()


def damaged_tflite(rng: random.Random, data: bytes) -> bytes:
    """A .tflite file with damage in its archive: a part's text, a part left out or twice, or bytes of the archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = min(member.header_offset for member in archive.infolist())
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
        seal = archive.comment
    if rng.random() < 0.4:
        return mutate_bytes(rng, data, rng.choice((1, 1, 4)), start, len(data))
    i = rng.randrange(len(members))
    name, text = members[i]
    kind = rng.randrange(4)
    if kind == 0:
        del members[i]
    elif kind == 1:
        members.insert(rng.randrange(len(members) + 1), (rng.choice((name, "other")), mutate_bytes(rng, text)))
    elif name.endswith(".json"):
        members[i] = name, damaged_spec(rng, text)
    else:
        members[i] = name, mutate_bytes(rng, text)
    buffer = io.BytesIO(data[:start])
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a", kind) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice, as it should be
        for name, text in members:
            archive.writestr(zipfile.ZipInfo(name), text)
        archive.comment = seal
    return buffer.getvalue()


def sealed(data: bytes, good: bytes) -> bytes:
    """Damaged bytes with a right seal, as somebody hostile would make it; as they are if the seal's place is lost.

    good: the undamaged file, whose seal is looked for.
    """
    from keylite.runtime.modelfile import SEAL, seal_of

    digits = good[good.rfind(SEAL.encode()) :] if good.count(SEAL.encode()) else good
    found = re.search(rb"[0-9a-f]{64}", digits) or re.search(rb"[0-9a-f]{64}$", good)
    place = data.find(found[0]) if found else -1
    if place < 0:
        return data
    return data[:place] + seal_of(data, place).encode() + data[place + 64 :]


SPECIAL = {".safetensors": damaged_safetensors, ".onnx": damaged_onnx, ".tflite": damaged_tflite}


def damaged_model(rng: random.Random, path: Path) -> bytes:
    data, chance = path.read_bytes(), rng.random()
    if chance < 0.03:
        return spliced(rng, data, (path.parent / rng.choice(FILES)).read_bytes())
    if chance < 0.1:
        return data[: rng.randrange(len(data))]
    if chance < 0.4:
        return mutate_bytes(rng, data, rng.choice((1, 1, 1, 3)))
    if chance < 0.5:
        return mutate_bytes(rng, data, 1, 0, 300)
    return SPECIAL[path.suffix](rng, data)


def models(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """A damaged model file, in `info`, `predict`, `evaluate` or as the start of a training."""
    name = rng.choice(FILES)
    good, images = seeds / "models" / name, seeds / "labels"
    damaged, hostile = damaged_model(rng, good), rng.random() < 0.4
    (folder / name).write_bytes(sealed(damaged, good.read_bytes()) if hostile else damaged)
    label, picture = good.suffix[1:], str(images / "gauge_0.png")

    def check(_: Outcome) -> tuple[list[str], dict[str, Any]]:
        if hostile:  # with a right seal it is another model
            return [], {"accepted": "sealed anew"}
        return accepted(folder / name, good, folder / "out.json", seeds / "models" / f"{name}.points.json")

    kind = rng.randrange(10)
    if kind == 0:
        return Case(["info", name], ["info", str(good)], label=label)
    if kind == 1:
        rest = ["--data", str(images / "labels.json"), "--threads", "1"]
        return Case(["evaluate", name, *rest], ["evaluate", str(good), *rest], label=label)
    if kind == 2 and good.suffix == ".safetensors":
        rest = ["--backbone", "timm:test_efficientnet", "--data", str(images / "labels.json"), "--out", "run"]
        start = [part if part != "none" else "{}" for part in TRAINING]
        command, usual = (["train", *(p.format(path) for p in start), *rest] for path in (name, good))
        return Case(functools.partial(dry_train, command), functools.partial(dry_train, usual), ("run",), label=label)
    rest = [picture, "--boxes", str(images / "boxes.json"), "--threads", "1", "--out", "out.json"]
    return Case(["predict", name, *rest], ["predict", str(good), *rest], ("out.json",), check, label)


def accepted(path: Path, good: Path, written: Path, usual: Path) -> tuple[list[str], dict[str, Any]]:
    """Faults of a damaged model file that was accepted: with the same description it must give the same points."""
    from keylite.runtime.modelfile import read_spec

    if path.read_bytes() == good.read_bytes():
        return [], {"accepted": "unchanged"}
    if read_spec(path) != read_spec(good):
        return [], {"accepted": "another description"}
    points, expected = (json.loads(place.read_text())["images"] for place in (written, usual))
    if list(points.values()) == list(expected.values()):
        return [], {"accepted": "same points"}
    return ["unnoticed: a damaged model file gives other points"], {"accepted": "other points"}


def specs(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """A damaged description apart, for a file that holds none."""
    import onnx

    models, images = seeds / "models", seeds / "labels"
    model = onnx.load(str(models / "model.onnx"))
    del model.metadata_props[:]
    (folder / "bare.onnx").write_bytes(model.SerializeToString())
    (folder / "spec.json").write_bytes(damaged_spec(rng, (models / "spec.json").read_bytes()))
    rest = [str(images / "gauge_0.png"), "--boxes", str(images / "boxes.json"), "--out", "out.json"]
    if rng.random() < 0.2:
        command = ["info", "bare.onnx", "--spec", "spec.json"]
    else:
        command = ["predict", "bare.onnx", "--spec", "spec.json", *rest]
    return Case(command, ["predict", str(models / "model.onnx"), *rest], ("out.json",), label="spec")
