"""Pretrained weights of a backbone: finds or downloads the .safetensors file. Knows no framework."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import sha256
from keylite.runtime.lite import LITE
from keylite.runtime.packages import require, without_tqdm_warning
from keylite.runtime.progress import step


def find_pretrained(pretrained: str | Path | bool | None, backbone: str) -> Path | None:
    """The path of the weights file that `pretrained` names, or None for random weights.

    pretrained: None, False or "none" for random weights; True or "imagenet" for timm's weights from the Hugging Face
    hub, through its cache; or a path. Raises FileNotFoundError if the file is missing, ArgumentError if the hub cannot
    give it or has none for this backbone.
    """
    if pretrained in (None, False, "none"):
        return None
    if pretrained in (True, "imagenet"):
        if backbone not in LITE:
            raise ArgumentError(
                f"pretrained: imagenet weights are known for {', '.join(LITE)}, got {backbone}; "
                "give a .safetensors file, or none"
            )
        return download(f"timm/tf_efficientnet_{backbone}.in1k", "model.safetensors")
    path = Path(str(pretrained))
    if not path.is_file():
        raise FileNotFoundError(f"pretrained: {path}: no such file; expected imagenet, none, or a .safetensors file")
    return path


def download(repository: str, filename: str) -> Path:
    """The local path of a file from a repository of the Hugging Face hub; downloaded unless the cache holds it."""
    hub = require("huggingface_hub")
    with without_tqdm_warning():
        require("huggingface_hub.file_download")
    with contextlib.suppress(require("huggingface_hub.errors").LocalEntryNotFoundError):
        return Path(hub.hf_hub_download(repository, filename, local_files_only=True))
    try:
        hub.get_hf_file_metadata(
            hub.hf_hub_url(repository, filename), timeout=10
        )  # fails sooner than a download, which retries for 25 s
        quiet = contextlib.redirect_stderr(io.StringIO())  # the hub's progress bar would print over keylite's
        with step(f"downloading {filename} of {repository}"), quiet:
            return Path(hub.hf_hub_download(repository, filename))
    except Exception as error:  # the hub's client raises its own errors and those of requests and httpx
        raise ArgumentError(
            f"pretrained: cannot get {filename} of {repository} from the Hugging Face hub ({type(error).__name__}); "
            "fetch it on a connected machine and give its path, or use `pretrained='none'`"
        ) from None


def pretrained_name(pretrained: str) -> str:
    """The pretrained weights as a model file names them: by file name and hash, without the path on this machine."""
    if pretrained in ("imagenet", "none"):
        return pretrained
    path = Path(pretrained)
    return f"{path.name} sha256 {sha256(path)}" if path.is_file() else path.name
