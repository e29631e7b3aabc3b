"""The runtimes of a page: npm packages that are fetched once, from the registry that npm is told, and checked."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from browser import served
from packages import packed, refusal

from keylite.pictures import page, runtimes
from keylite.pictures.page import write_page
from keylite.pictures.runtimes import cache_folder, registry_of


def test_the_packages_are_pinned_by_npm_s_own_hashes():
    for packages in runtimes.RUNTIMES.values():
        for package in packages:
            assert len(base64.b64decode(package.sha512)) == 64
            assert package.licence in page.TEXTS
    assert [package.tarball for package in runtimes.RUNTIMES[".tflite"]] == [
        "litertjs-core-2.5.3.tgz",
        "litertjs-wasm-utils-2.5.3.tgz",
    ]


def test_packages_are_fetched_once_from_the_registry_of_npm(
    litert_file: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    registry = tmp_path / "registry"
    for package in runtimes.RUNTIMES[".tflite"]:
        place = registry / package.name / "-"
        place.mkdir(parents=True)
        (place / f"{package.name.rpartition('/')[2]}-{package.version}.tgz").write_bytes(
            (small / package.tarball).read_bytes()
        )
    with served(registry) as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
        monkeypatch.delenv("npm_config_registry")
        (tmp_path / "npmrc").write_text(f"; settings\nregistry=http://127.0.0.1:9\n@litertjs:registry = {address}/\n")
        first = write_page(litert_file, tmp_path / "page")
    assert write_page(litert_file, tmp_path / "again") != first  # nobody answers now
    kept = cache_folder() / "litertjs-core-2.5.3.tgz"
    assert kept.read_bytes() == (small / "litertjs-core-2.5.3.tgz").read_bytes()
    kept.write_bytes(b"damaged")
    assert "cannot fetch @litertjs/core@2.5.3" in refusal(litert_file, tmp_path / "page")


def test_a_registry_that_sends_something_else_is_refused(
    onnx_file: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "registry/onnxruntime-web/-"
    place.mkdir(parents=True)
    (place / "onnxruntime-web-1.30.0.tgz").write_bytes(packed({}))
    with served(tmp_path / "registry") as address:
        monkeypatch.setenv("npm_config_registry", address)
        assert "(what it sends has another sha512)" in refusal(onnx_file, tmp_path / "page")
    assert not cache_folder().exists()
    for address in ("file:///etc/passwd", "nonsense"):
        monkeypatch.setenv("npm_config_registry", address)
        assert "(its address is not of the web)" in refusal(onnx_file, tmp_path / "page")


def test_the_registry_is_the_public_one_unless_npm_is_told_another(small: Path, tmp_path: Path, monkeypatch):
    assert registry_of("onnxruntime-web") == "http://127.0.0.1:9"
    monkeypatch.delenv("npm_config_registry")
    assert registry_of("onnxruntime-web") == "https://registry.npmjs.org"
    monkeypatch.setenv("PLACE", "npm.example")
    (tmp_path / "npmrc").write_text('# note\nregistry = "https://${PLACE}/"\n')
    assert registry_of("@litertjs/core") == "https://npm.example/"
