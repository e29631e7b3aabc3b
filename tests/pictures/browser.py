"""A headless Chromium for tests, driven through a pipe by the DevTools protocol, and a web server for a folder."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--hide-scrollbars", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
    *("--autoplay-policy=no-user-gesture-required", "--disable-background-networking", "--disable-component-update"),
)
LONGEST = 120  # s until an answer


def chromium() -> str:
    """The program; the test is skipped if there is none."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    return next(found, "") or pytest.skip("needs a browser: apt-get install chromium")


class Tab:
    """A page in the browser. problems: errors that it wrote to its console."""

    def __init__(self, process: subprocess.Popen, to_it: int, from_it: int) -> None:
        self.process, self.to_it, self.from_it = process, to_it, from_it
        self.number, self.rest, self.session = 0, b"", None
        self.problems: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_it, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)
        raise AssertionError("unreachable")

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + LONGEST
        while True:
            while b"\0" in self.rest:
                whole, _, self.rest = self.rest.partition(b"\0")
                yield json.loads(whole)
            ready, _, _ = select.select([self.from_it], [], [], max(0, end - time.monotonic()))
            more = os.read(self.from_it, 1 << 20) if ready else b""
            assert more, "the browser gives no answer"
            self.rest += more

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        if event.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.problems.append(values["entry"]["text"])

    def run(self, code: str) -> Any:
        """The value of an expression; of a promise, what it gives."""
        values = {"expression": code, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.ask("Runtime.evaluate", **values)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        """Open the page of keylite at an address, and wait until its model is open."""
        self.ask("Page.navigate", url=address)
        self.wait("document.querySelector('main')?.hidden === false")

    def wait(self, code: str) -> None:
        """Wait until an expression is true."""
        shown = "document.getElementById('status')?.textContent"
        found = self.run(
            f"""new Promise((done) => {{
                const look = (left) => {{
                    if ({code}) done("");
                    else if (left < 0 || document.querySelector("#status.wrong")) done("not so: " + {shown});
                    else setTimeout(() => look(left - 1), 50);
                }};
                look(1200);
            }})"""
        )
        assert not found, (code, found, self.problems)

    def give(self, path: Path) -> None:
        """Give a file to the page's button, as a user does."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag over the picture, from one place to another, px of the screen from its top left corner."""
        left, top = self.run(
            "(({left, top}) => [left, top])(document.getElementById('canvas').getBoundingClientRect())"
        )
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            place = {"x": left + x, "y": top + y, "button": "left", "buttons": 1, "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **place)

    def look(self, path: Path, width: int, height: int) -> None:
        """Write a picture of the page in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(home: Path, *flags: str) -> Iterator[Tab]:
    """A browser with one page. home: the folder for its files."""
    read_it, to_it = os.pipe()
    from_it, write_it = os.pipe()
    theirs = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 30) for number in (read_it, write_it)]
    start = f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
    command = ["bash", "-c", start, chromium(), *FLAGS, f"--user-data-dir={home}", *flags]
    process = subprocess.Popen(command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for number in (*theirs, read_it, write_it):
        os.close(number)
    try:
        tab = Tab(process, to_it, from_it)
        yield tab
        tab.session = None
        tab.ask("Browser.close")
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        os.close(to_it)
        os.close(from_it)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a web server of this process."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
