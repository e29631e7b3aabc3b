"""Install the lowest versions that pyproject.toml allows and run the runtime's tests with them: `make floors`.

An environment for each Python and set of extras, in `.venv-floors`; of the frameworks' extras, whose lowest versions
are gigabytes, it only says whether they can be had together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sysconfig.get_path("scripts")) / "uv"
PYTHONS = ("3.11", "3.12", "3.13")
INSTALLED = ((), ("cli", "onnx"), ("litert",))  # sets of extras
RESOLVED = ("pytorch", "tensorflow-cpu", "coco")  # extras
TESTS = (
    "tests/runtime",
    "tests/data",
    "tests/training/test_recipe.py",
    "tests/evaluation/test_evaluation.py",
    "tests/pictures/test_worst.py",
)
TOOLS = ("pytest>=8.3", "pillow>=10")


def uv(*arguments: str) -> str:
    """What uv prints; ValueError with what it says where it fails."""
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "automatic", "UV_SYSTEM_CERTS": "1"}
    ended = subprocess.run([UV, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(ended.stderr.strip())
    return ended.stdout.strip()


def interpreter(version: str) -> str | None:
    """A Python of this version, of this machine or fetched by uv; None where there is none."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if of_pyenv:
        return str(of_pyenv[-1])
    try:
        uv("python", "install", version)
        return uv("python", "find", version)
    except ValueError:
        return None


def lowest(python: str, extras: tuple[str, ...]) -> str:
    """The lowest versions, as lines of requirements: of direct dependencies, and whatever goes with them."""
    options = [f"--extra={extra}" for extra in extras]
    flags = ("--quiet", "--resolution=lowest-direct", "--only-binary=:all:", "--no-annotate", "--no-header")
    return uv("pip", "compile", *flags, f"--python={python}", *options, "pyproject.toml")


def passes(python: str, version: str, extras: tuple[str, ...]) -> bool:
    """Whether the tests pass in an environment of its own."""
    name = "-".join((version, *extras))
    folder = ROOT / ".venv-floors" / name
    folder.parent.mkdir(exist_ok=True)
    requirements = folder.parent / f"{name}.txt"
    requirements.write_text(lowest(python, extras) + "\n")
    uv("venv", "--quiet", "--clear", f"--python={python}", str(folder))
    into = f"--python={folder / 'bin/python'}"
    uv("pip", "install", "--quiet", "--only-binary=:all:", into, f"--requirements={requirements}", *TOOLS)
    command = [folder / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    print(f"{name}: {ended.stdout.splitlines()[-1] if ended.stdout else ended.stderr.strip()}", flush=True)
    if ended.returncode:
        print(ended.stdout[-4000:])
    return ended.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", default=PYTHONS, help="versions such as 3.12; all unless given")
    failed = []
    for version in parser.parse_args().pythons:
        python = interpreter(version)
        if python is None:
            print(f"{version}: no such Python here, and none could be fetched")
            failed.append((version, ()))
            continue
        failed += [(version, extras) for extras in INSTALLED if not passes(python, version, extras)]
        for extra in RESOLVED:
            try:
                lowest(python, (extra,))
                print(f"{version}-{extra}: the lowest versions go together")
            except ValueError as error:
                print(f"{version}-{extra}: {error}")
                failed.append((version, (extra,)))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
