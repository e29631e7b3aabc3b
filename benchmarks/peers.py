"""Input pipelines of other libraries (peers) with augmentation similar to keylite's, each in a process of its own.

`python benchmarks/peers.py NAME` runs in the environment of the peers. It reads a task as a line of JSON and writes its
versions; then it makes batch N for each line with a number N and writes the seconds. It imports nothing of keylite and
calls public functions of the peers. What a peer cannot do is left out, and NOTES says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-peers"  # git-ignored
STATE = "peers.json"  # in the environment: the pins that were installed, and the last line of those that were not
# What is installed, in this order; what comes later must fit what is there.
PINS: dict[str, tuple[str, ...]] = {
    "torchvision v2": ("torchvision==0.29.1", "torch==2.14.1", "numpy==2.4.6", "pillow==13.0.0"),
    "albumentations": ("albumentations==2.0.8", "opencv-python-headless==5.0.0.93"),
    "mmpose": (
        *("addict==2.4.0", "json-tricks==3.17.3", "matplotlib==3.11.2", "munkres==3.0.0", "platformdirs==4.14.8"),
        *("pyyaml==6.0.4", "rich==15.0.0", "scipy==1.17.1", "termcolor==3.3.0", "yapf==0.43.0"),
    ),
}
# What is installed after that without asking what it needs: chumpy and xtcocotools, which mmpose wants for bodies in 3D
# and for COCO's masks, cannot be installed beside these numpy and pip, and no transform of 2D points calls them.
ALONE: dict[str, tuple[str, ...]] = {"mmpose": ("mmpose==1.3.2", "mmcv-lite==2.1.0", "mmengine==0.10.7")}
NOTES = {
    "torchvision v2": "no change of aspect, black beyond the image's edges, contrast about the image's mean, "
    "a blur kernel of 5 px, noise of one strength, black rectangles",
    "albumentations": "no change of aspect",
    "mmpose": "the transforms of its regression configs, with targets: no change of aspect, none of pixels, the box "
    "warped at once, black beyond the image's edges",
}
LIKE = {
    **dict.fromkeys(("torchvision v2", "albumentations"), "like augmentation"),
    "mmpose": "geometry alone",
}
Task = dict[
    str, Any
]  # paths, boxes (x0, y0, x1, y1 px, or null for whole images), xy (px), size (px), batch, augmentation
Item = Callable[[int], tuple[Any, Any]]  # object -> its uint8 pixels and its keypoints, px of the input


# ---- the peers


def torchvision_v2(task: Task) -> Item:
    """Image and keypoints as tv_tensors through one Compose."""
    import torch
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import InterpolationMode, v2

    torch.set_num_threads(1)
    a, size = task["augmentation"], task["size"]
    with_chance = {
        "brightness": v2.ColorJitter(brightness=(1 - a["brightness"], 1 + a["brightness"])),
        "contrast": v2.ColorJitter(contrast=(1 / (1 + a["contrast"]), 1 + a["contrast"])),
        "saturation": v2.ColorJitter(saturation=(1 - a["saturation"], 1 + a["saturation"])),
        "hue": v2.ColorJitter(hue=a["hue"] / 360),
        "grey": v2.Grayscale(num_output_channels=3),
        "blur": v2.GaussianBlur(5, sigma=(0.1, a["blur"])),
        "noise": v2.GaussianNoise(sigma=a["noise"] / 2 / 255, clip=True),
        "jpeg": v2.JPEG((a["jpeg"], 100)),
    }
    change = v2.Compose(
        [
            v2.Resize((size, size), antialias=True),
            v2.RandomAffine(
                a["rotate"],
                translate=(a["shift"], a["shift"]),
                scale=(1 / (1 + a["scale"]), 1 + a["scale"]),
                interpolation=InterpolationMode.BILINEAR,
            ),
            v2.RandomHorizontalFlip(a["flip_p"]),
        ]
    )
    erase = v2.RandomErasing(a["occlude_p"], scale=(1e-4, a["occlude"] ** 2), ratio=(0.3, 3.3))
    photometric = v2.Compose([erase, *(v2.RandomApply([v], a[f"{name}_p"]) for name, v in with_chance.items())])

    def item(number: int) -> tuple[Any, Any]:
        image = decode_image(task["paths"][number], ImageReadMode.RGB)
        x, y = 0, 0
        if task["boxes"]:
            x, y, right, bottom = task["boxes"][number]
            image = image[:, y:bottom, x:right]
        points = torch.tensor(task["xy"][number]) - torch.tensor([x, y])
        canvas = (image.shape[1], image.shape[2])
        points = tv_tensors.KeyPoints(points, canvas_size=canvas)  # pyright: ignore[reportCallIssue] - no types
        image, points = change(tv_tensors.Image(image), points)
        return photometric(image).permute(1, 2, 0).numpy(), points

    return item


def albumentations(task: Task) -> Item:
    """OpenCV's decoder, then one Compose with keypoints."""
    import albumentations as A  # noqa: N812  # pyright: ignore[reportMissingImports] - it is in another environment
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    a, size = task["augmentation"], task["size"]
    zero = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}

    def jitter(name: str, value: Any) -> Any:
        return A.ColorJitter(**{**zero, name: value}, p=a[f"{name}_p"])

    change = A.Compose(
        [
            A.Resize(size, size, interpolation=cv2.INTER_AREA),
            A.Affine(
                rotate=(-a["rotate"], a["rotate"]),
                translate_percent=(-a["shift"], a["shift"]),
                scale=(1 / (1 + a["scale"]), 1 + a["scale"]),
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            ),
            A.HorizontalFlip(p=a["flip_p"]),
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(0.01, a["occlude"]),
                hole_width_range=(0.01, a["occlude"]),
                fill="random_uniform",
                p=a["occlude_p"],
            ),
            A.RandomBrightnessContrast(brightness_limit=a["brightness"], contrast_limit=0, p=a["brightness_p"]),
            A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=a["contrast"], p=a["contrast_p"]),
            jitter("saturation", (1 - a["saturation"], 1 + a["saturation"])),
            jitter("hue", (-a["hue"] / 360, a["hue"] / 360)),
            A.ToGray(p=a["grey_p"]),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, a["blur"]), p=a["blur_p"]),
            A.GaussNoise(std_range=(0, a["noise"] / 255), p=a["noise_p"]),
            A.ImageCompression(quality_range=(a["jpeg"], 100), p=a["jpeg_p"]),
        ],
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
    )

    def item(number: int) -> tuple[Any, Any]:
        image = cv2.imread(task["paths"][number], cv2.IMREAD_COLOR_RGB)
        assert image is not None
        x, y = 0, 0
        if task["boxes"]:
            x, y, right, bottom = task["boxes"][number]
            image = image[y:bottom, x:right]
        made = change(image=image, keypoints=np.asarray(task["xy"][number], np.float32) - (x, y))
        return made["image"], made["keypoints"]

    return item


def mmpose(task: Task) -> Item:
    """Its transforms as a regression config lists them, the targets of its codec and packing too."""
    import cv2
    import numpy as np

    for name in ("xtcocotools", "xtcocotools.mask", "xtcocotools.coco", "xtcocotools.cocoeval"):
        sys.modules[name] = Absent(name)  # imported on the way, and never called
    import mmpose.datasets.transforms as t  # pyright: ignore[reportMissingImports] - it is in another environment

    cv2.setNumThreads(1)
    a, size = task["augmentation"], (task["size"], task["size"])
    load = t.LoadImage()
    steps = [
        t.GetBBoxCenterScale(padding=1.0),  # the boxes of a task have grown already
        t.RandomFlip(prob=float(a["flip_p"])),
        t.RandomBBoxTransform(
            shift_factor=a["shift"],
            shift_prob=1.0,
            scale_factor=(1 / (1 + a["scale"]), 1 + a["scale"]),
            rotate_factor=a["rotate"],
            rotate_prob=1.0,
        ),
        t.TopdownAffine(input_size=size),
        t.GenerateTarget(encoder={"type": "RegressionLabel", "input_size": size}),
        t.PackPoseInputs(),
    ]

    def item(number: int) -> tuple[Any, Any]:
        xy = np.asarray(task["xy"][number], np.float32)[None]
        facts: Any = load({"img_path": task["paths"][number]})
        box = task["boxes"][number] if task["boxes"] else [0, 0, *facts["img_shape"][::-1]]
        facts |= {
            "bbox": np.asarray([box], np.float32),
            "keypoints": xy,
            "keypoints_visible": np.ones(xy.shape[:2], np.float32),
            "flip_indices": list(range(xy.shape[1])),
        }
        for step in steps:
            facts = step(facts)
        return facts["inputs"].permute(1, 2, 0).numpy(), facts["data_samples"].gt_instance_labels.keypoint_labels[0]

    return item


class Absent(types.ModuleType):
    """A module that has whatever is asked of it, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


MAKERS: dict[str, Callable[[Task], Item]] = {
    "torchvision v2": torchvision_v2,
    "albumentations": albumentations,
    "mmpose": mmpose,
}


# ---- their process


def serve(name: str) -> None:
    """The process of a peer."""
    import numpy as np

    task: Task = json.loads(sys.stdin.readline())
    item = MAKERS[name](task)
    packages = [pin.partition("==")[0] for pin in (ALONE if name in ALONE else PINS)[name]]
    print(json.dumps({package: importlib.metadata.version(package) for package in packages}), flush=True)
    count, batch = len(task["paths"]), task["batch"]
    for line in sys.stdin:
        start = time.perf_counter()
        first = int(line) * batch
        made = [item(number % count) for number in range(first, first + batch)]
        images, xy = np.stack([image for image, _ in made]), np.stack([np.asarray(points) for _, points in made])
        seconds = time.perf_counter() - start
        if (images.dtype, images.shape[1:3], len(xy)) != (np.uint8, (task["size"], task["size"]), batch):
            raise ValueError(
                f"{name}: expected uint8 pixels of the input and points, got {images.dtype} {images.shape}"
            )
        print(seconds, flush=True)


class Peer:
    """A running peer: called with N it makes batch N and gives the seconds that this took there."""

    def __init__(self, command: list[str], task: Task) -> None:
        alone = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | alone
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.command = command
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.versions: dict[str, str] = json.loads(self._asked(json.dumps(task)))

    def __call__(self, number: int) -> float:
        return float(self._asked(str(number)))

    def _asked(self, line: str) -> str:
        try:
            print(line, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{' '.join(self.command)}: the process ended with {self.process.wait()}; see above")
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


# ---- their environment


def command_of(name: str) -> list[str]:
    """What starts a peer's process."""
    return [str(ENVIRONMENT / "bin/python"), "-W", "ignore", str(Path(__file__).resolve()), name]


def installed() -> dict[str, str]:
    """Install what PINS names, once; the peers that cannot be, with the last line that pip said."""
    state = ENVIRONMENT / STATE
    pins = {name: [*of, *ALONE.get(name, ())] for name, of in PINS.items()}
    if state.is_file() and (held := json.loads(state.read_text()))["pins"] == pins:
        return held["failed"]
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    fitting: list[str] = []
    failed: dict[str, str] = {}
    for name, of in PINS.items():
        refusal = refused_by_pip([*fitting, *of])
        if not refusal and name in ALONE:
            refusal = refused_by_pip(["--no-deps", *ALONE[name]])
        if refusal:
            failed[name] = refusal
        else:
            fitting += of
    state.write_text(json.dumps({"pins": pins, "failed": failed}, indent=2) + "\n")
    return failed


def refused_by_pip(packages: list[str]) -> str:
    """Install packages; where pip refuses, how."""
    pip = [str(ENVIRONMENT / "bin/python"), "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(pip, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return f"pip install {' '.join(packages)} ends with `{last_line(done.stderr)}`" if done.returncode else ""


def last_line(said: str) -> str:
    """The last line of what pip said that names an error, or else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error: " in line or line.startswith("ERROR: ")), lines[-1])


if __name__ == "__main__":
    serve(sys.argv[1])
