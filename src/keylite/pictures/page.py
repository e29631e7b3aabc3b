"""A page for browsers: a folder with a model file, what runs it, and a page that finds points in pictures and video."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

from keylite.pictures.runtimes import RUNTIMES, Package, runtime_files
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing_within, require_outputs, require_writable
from keylite.runtime.kinds import path_of, path_or_none
from keylite.runtime.modelfile import read_model_file
from keylite.runtime.sides import side_of
from keylite.runtime.spec import ModelSpec, encode_spec
from keylite.runtime.types import FilePath
from keylite.runtime.words import quoted

FACTS = "page.json"  # marks a folder as a page of keylite
OWN = ("index.html", "style.css", "page.js", "moving.js", "draw.js", "model.js", "crop.js", "decode.js")
LICENCES = "LICENCES.txt"
TEXTS = {"Apache-2.0": "Apache-2.0.txt", "MIT": "MIT.txt"}
KEYLITE = ", ".join(OWN)


def write_page(
    model: FilePath, out: FilePath, *, runtime: FilePath | None = None, spec: FilePath | None = None
) -> list[Path]:
    """Write a page that runs a model in the browser, as a folder for any static web server.

    The page finds points in pictures, videos and a camera, and sends nothing anywhere. Its folder holds all that it
    needs: LiteRT.js (19 MB) for a `.tflite` file, ONNX Runtime Web (14 MB) for an `.onnx` file. These come from npm
    packages, which are fetched once and kept in the cache folder of the user.

    Args:
        model: A `.tflite` or `.onnx` file.
        out: The folder to write to. It does not exist, is empty, or holds a page that keylite wrote, which is replaced.
        runtime: A folder with the tarballs of the npm packages, as `npm pack` writes them; nothing is fetched then.
            None: the cache folder, and the npm registry for what it lacks.
        spec: A JSON file with the description of a model file that holds none. None: the model file holds it.

    Returns:
        The files written; `index.html` is the first.

    Raises:
        ArgumentError: No browser runs this kind of model file, `out` holds other files, or the npm packages are neither
            there nor can be fetched.
        ModelFileError: The file is damaged or is no model file.
        FileNotFoundError: There is no such model file.
        OSError: The folder cannot be written to.
    """
    model, out = path_of("model", model), path_of("out", out)
    runtime, spec = path_or_none("runtime", runtime), path_or_none("spec", spec)
    suffix = model.suffix.lower()
    described, digest = read_model_file(model, spec)
    if suffix not in RUNTIMES:
        raise ArgumentError(
            f"model: expected a file that browsers run ({', '.join(RUNTIMES)}), got {quoted(suffix)}; make one of it "
            "with keylite export"
        )
    if suffix == ".tflite" and (described.input_type == "int8" or described.output):
        raise ArgumentError(
            "model: LiteRT.js has no int8 tensors, so no page can run a file that takes or gives them; export it with "
            "`input_type='uint8'` and `output_type='float32'`"
        )
    names = [*OWN, LICENCES, "spec.json", FACTS, f"model{suffix}"]
    names += [name for package in RUNTIMES[suffix] for name in package.files]
    require_writable(out)
    _require_free(out)
    require_outputs({name: out / name for name in names}, {"model": model, "spec": spec})
    contents = runtime_files(suffix, runtime)
    web = files("keylite.pictures") / "web"
    contents |= {name: (web / name).read_bytes() for name in OWN}
    contents[LICENCES] = _licences(RUNTIMES[suffix]).encode()
    contents["spec.json"] = (json.dumps(json.loads(encode_spec(described)), indent=1) + "\n").encode()
    contents[FACTS] = (json.dumps(_facts(model, digest, described), indent=1) + "\n").encode()
    contents[f"model{suffix}"] = model.read_bytes()
    with replacing_within(out) as folder:
        for name, data in contents.items():
            (folder / name).write_bytes(data)
    for name in _every_name() - set(contents):  # of a page of another kind of model file
        (out / name).unlink(missing_ok=True)
    return [out / name for name in sorted(contents, key=lambda name: (name != "index.html", name))]


def _require_free(out: Path) -> None:
    """Raise ArgumentError if a folder holds anything but a page of keylite."""
    if out.is_dir() and not (out / FACTS).is_file() and (others := sorted(os.listdir(out))):
        raise ArgumentError(
            f"out: expected a new or an empty folder, or a page of keylite, but {out} holds {quoted(others[0])}"
        )


def _every_name() -> set[str]:
    """Files of a page of any kind of model file that a page of another kind does not have."""
    return {f"model{suffix}" for suffix in RUNTIMES} | {
        name for packages in RUNTIMES.values() for package in packages for name in package.files
    }


def _facts(model: Path, digest: str, spec: ModelSpec) -> dict[str, object]:
    """What the page needs to know beside the spec. digest: the seal of the model file."""
    suffix = model.suffix.lower()
    return {
        "file": f"model{suffix}",
        "name": model.name,
        "digest": digest,
        "network": spec.network,
        "runtime": RUNTIMES[suffix][0].spelt,
        "sides": [side_of(name) for name in spec.skeleton.names],
    }


def _licences(packages: tuple[Package, ...]) -> str:
    """The text of LICENCES.txt: whose each file is, and the licences."""
    lines = ["Licences of the files of this folder", "", f"keylite, Apache-2.0: {KEYLITE}"]
    for package in packages:
        lines.append(f"{package.spelt} ({package.source}), {package.licence}: {', '.join(package.files)}")
    lines += [
        "",
        "The .wasm files contain libraries of others; the source of each package names them and their licences.",
        "The model file and spec.json belong to whoever trained the model.",
    ]
    for name in sorted({"Apache-2.0", *(package.licence for package in packages)}):
        text = (files("keylite.pictures") / "web" / TEXTS[name]).read_text(encoding="utf-8")
        lines += ["", "-" * 80, name, "", text.strip()]
    return "\n".join(lines) + "\n"
