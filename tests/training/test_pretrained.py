"""Pretrained weights come from a file, the hub's cache, or the hub; each failure is one line."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from keylite.training.pretrained import find_pretrained

WEIGHTS = b"weights " * 100
ADDRESS = "/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors"
FIND = """
from keylite.training.pretrained import find_pretrained
try:
    print(find_pretrained("imagenet", "lite0"))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("nothing", [None, False, "none"])
def test_none_is_random_weights(nothing: object):
    assert find_pretrained(nothing, "lite0") is None
    assert find_pretrained(nothing, "timm:resnet18") is None


def test_a_path_is_itself(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WEIGHTS)
    assert find_pretrained(path, "timm:resnet18") == path
    assert find_pretrained(str(path), "lite0") == path


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"pretrained: .*none\.safetensors: no such file; expected imagenet, none, or"
    ):
        find_pretrained(tmp_path / "none.safetensors", "lite0")
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_pretrained(tmp_path, "lite0")


@pytest.mark.parametrize("imagenet", [True, "imagenet"])
def test_imagenet_weights_are_known_for_lite_only(imagenet: object):
    with pytest.raises(
        ValueError, match="imagenet weights are known for lite0, .*, got timm:resnet18; give a .safetensors"
    ):
        find_pretrained(imagenet, "timm:resnet18")


# ---- the hub


@pytest.fixture
def hub() -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """A hub on this machine that has one file, and the requests it was sent."""
    pytest.importorskip("huggingface_hub", reason="needs keylite[pytorch]")
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(f"{self.command} {self.path}")
            found = self.path == ADDRESS
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(WEIGHTS) if found else 0))
            self.send_header("ETag", f'"{hashlib.sha256(WEIGHTS).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(WEIGHTS)

        do_GET = do_HEAD  # noqa: N815 - http.server's name

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server, requests
        server.shutdown()
        thread.join()


def client(home: Path, port: int) -> dict[str, str]:
    """The environment of a hub client with its own empty home."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }


def test_weights_are_downloaded_once_and_found_without_the_hub(hub, tmp_path: Path, python):
    server, requests = hub
    environment = client(tmp_path, server.server_port)
    path = python(FIND, **environment).strip()
    assert Path(path).read_bytes() == WEIGHTS
    assert requests.count(f"GET {ADDRESS}") == 1
    asked = len(requests)
    assert python(FIND, **environment).strip() == path
    assert [r for r in requests[asked:] if ADDRESS in r] == [], "what is there is not asked for again"
    assert python(FIND, **client(tmp_path, 9)).strip() == path, "nor is the hub needed"


FAILURES = {"nobody there": 9, "no such repository": None}


@pytest.mark.parametrize("port", FAILURES.values(), ids=FAILURES.keys())
def test_a_hub_that_cannot_give_them_is_one_line_at_once(port: int | None, hub, tmp_path: Path, python):
    server, requests = hub
    code = FIND if port else FIND.replace("lite0", "lite4")
    said = python(
        code, timeout=15, **client(tmp_path, port or server.server_port)
    )  # the client's own retries take 25 s
    assert "pretrained: cannot get model.safetensors of timm/tf_efficientnet_lite" in said
    assert said.endswith("give its path, or use `pretrained='none'`\n")
    assert said.count("\n") == 1
    assert (len(requests) > 0) == (port is None)


def test_a_missing_client_says_what_to_install(python):
    code = FIND.replace("ValueError", "ModuleNotFoundError")
    said = python(code, missing=("huggingface_hub",))
    assert said == "huggingface_hub is not installed: install it with: pip install huggingface_hub\n"
