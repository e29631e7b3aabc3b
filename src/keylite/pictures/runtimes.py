"""The runtimes of a page for browsers: files of npm packages, from a folder of tarballs or from the npm registry.

The packages have up to 33 MB, so keylite does not contain them. Each is fetched once and kept in a cache folder.
Whatever its origin, a tarball is used only if its sha512 is the one that the npm registry publishes for this version.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import re
import tarfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import write_bytes
from keylite.runtime.progress import step

REGISTRY = "https://registry.npmjs.org"
LARGEST = 100_000_000  # bytes of a tarball
TIMEOUT = 30  # s without an answer


class Package(NamedTuple):
    """A version of an npm package. sha512: as the registry publishes it. files: name in the page -> member."""

    name: str
    version: str
    sha512: str
    licence: str
    source: str
    files: dict[str, str]

    @property
    def spelt(self) -> str:
        """Name and version, as npm takes them."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


_ONNX = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    "MIT",
    "https://github.com/microsoft/onnxruntime",
    {  # .mjs becomes .js, because some servers do not know that suffix
        "onnxruntime.js": "dist/ort.wasm.min.mjs",
        "onnxruntime-wasm.js": "dist/ort-wasm-simd-threaded.mjs",
        "onnxruntime.wasm": "dist/ort-wasm-simd-threaded.wasm",
    },
)
_LITERT = Package(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    "Apache-2.0",
    "https://github.com/google-ai-edge/LiteRT",
    {  # the compat files are for browsers without relaxed SIMD instructions, such as Safari
        "litert.js": "dist/index.js",
        **{
            f"litert_wasm_{kind}.{suffix}": f"wasm/litert_wasm_{kind}.{suffix}"
            for kind in ("internal", "compat_internal")
            for suffix in ("js", "wasm")
        },
    },
)
_LITERT_UTILS = Package(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    "Apache-2.0",
    "https://github.com/google-ai-edge/LiteRT",
    {"litert-wasm-utils.js": "dist/index.js"},
)
RUNTIMES = {".onnx": (_ONNX,), ".tflite": (_LITERT, _LITERT_UTILS)}  # suffix of a model file: what runs it


def runtime_files(suffix: str, folder: Path | None = None) -> dict[str, bytes]:
    """The files of the runtime for a kind of model file, by their names in the page.

    folder: holds the tarballs as `npm pack` names them. None: the cache folder; what it lacks is fetched.
    Raises ArgumentError if a tarball is missing, cannot be fetched or is not the published one.
    """
    if folder is not None:
        missing = [package for package in RUNTIMES[suffix] if not (folder / package.tarball).is_file()]
        if missing:
            names = ", ".join(package.tarball for package in missing)
            raise ArgumentError(f"runtime: {folder} lacks {names}; {_by_hand(suffix)} in that folder writes it")
    files: dict[str, bytes] = {}
    for package in RUNTIMES[suffix]:
        whole = _cached(package, suffix) if folder is None else (folder / package.tarball).read_bytes()
        if not _is_published(whole, package):
            raise ArgumentError(
                f"runtime: {folder and folder / package.tarball}: expected {package.spelt} as npm publishes it, got "
                f"another sha512; {_by_hand(suffix)} in that folder writes it"
            )
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:gz") as archive:
            for name, member in package.files.items():
                part = archive.extractfile(f"package/{member}")
                files[name] = part.read() if part else b""
    return files


def cache_folder() -> Path:
    """Where fetched tarballs are kept: `keylite` in the cache folder of the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keylite"


def _cached(package: Package, suffix: str) -> bytes:
    """The tarball of a package, fetched unless the cache folder holds it whole."""
    place = cache_folder() / package.tarball
    if place.is_file() and _is_published(whole := place.read_bytes(), package):
        return whole
    registry = registry_of(package.name)
    base = package.name.rpartition("/")[2]
    address = f"{registry.rstrip('/')}/{package.name}/-/{base}-{package.version}.tgz"
    try:
        with step(f"fetching {package.spelt} from npm"):
            whole = _fetched(address)
        problem = "" if _is_published(whole, package) else "what it sends has another sha512"
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = str(getattr(error, "reason", error)) or type(error).__name__
    if problem:
        host = urllib.parse.urlsplit(registry).hostname or registry
        raise ArgumentError(
            f"runtime: cannot fetch {package.spelt} from {host} ({problem}); where npm works, "
            f"{_by_hand(suffix)} writes it: give its folder as `runtime=FOLDER`"
        )
    write_bytes(place, whole)
    return whole


def _by_hand(suffix: str) -> str:
    return f"npm pack {' '.join(package.spelt for package in RUNTIMES[suffix])}"


def _fetched(address: str) -> bytes:
    """The bytes at an address of the web. OSError, ValueError or HTTPException if there are none."""
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("its address is not of the web")
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
        whole = answer.read(LARGEST + 1)
    if len(whole) > LARGEST:
        raise ValueError(f"it sends more than {LARGEST:,} bytes")
    return whole


def _is_published(whole: bytes, package: Package) -> bool:
    return base64.b64encode(hashlib.sha512(whole).digest()).decode() == package.sha512


# ---- npm's own settings


def registry_of(name: str) -> str:
    """The address of the registry that npm would ask for a package: of its scope, of npm_config_registry, or usual."""
    given = {key.lower(): value for key, value in os.environ.items() if key.lower().startswith("npm_config_")}
    settings = _settings(Path(given.get("npm_config_userconfig") or Path.home() / ".npmrc"))
    scope = name.partition("/")[0] if name.startswith("@") else ""
    scoped = settings.get(f"{scope}:registry") if scope else None
    return scoped or given.get("npm_config_registry") or settings.get("registry") or REGISTRY


def _settings(path: Path) -> dict[str, str]:
    """The lines `key=value` of an .npmrc file; empty if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = re.findall(r"^[ \t]*([^#;=\s][^=\n]*?)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return {key: os.path.expandvars(value.strip("\"'")) for key, value in pairs}
