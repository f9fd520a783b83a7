"""The models at a worker's first start, from the hub on loopback."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport, WorkerState
from tests.conftest import ROOT, wait_for
from tests.worker.hub import Hub
from worker.first_models import Source, bring_models
from worker.model_catalog import Pin
from worker.model_download import Downloader, Report
from worker.model_lock import Record, sha256, sole_downloader, write_record
from worker.model_sources import Supply
from worker.presence import Presence

TOTAL_BYTES = 200_000 + 2 + 2 + 3  # tests/worker/hub.py's files without its README
NOWHERE = "http://127.0.0.1:9"
PULL = "from core.settings import Settings; from worker.first_models import bring_models; from tests.worker.test_first_models import Mute; "
BRING = PULL + "bring_models(Settings.from_environment(), Mute())"


class Mute(Presence):
    """In place of one that has a Redis; keeps every word."""

    def __init__(self) -> None:
        self.said: list[WorkerReport] = []
        about = WorkerReport("gpu0", False, "starting", "cpu", "own/whisper")
        super().__init__(None, about, heartbeat_s=15)  # type: ignore[arg-type]

    def prepares(self, *what: object) -> None:  # type: ignore[override]
        super().prepares(*what)  # type: ignore[arg-type]
        self.said.append(self._about)


class Enough(Exception):
    """Ends a worker that would try for ever."""


@pytest.fixture
def folder(tmp_path: Path, model_dir: Path) -> Path:
    """With the small models of diarization, as a worker would find them that lacks its Whisper model only."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("pyannote-segmentation-3.0", "campplus-zh-en"):
        (folder / name).symlink_to(model_dir / name)
    return folder


def settings(folder: Path, **changes: object) -> Settings:
    return Settings.model_validate({"model_dir": folder, "asr_model": "own/whisper", "align_languages": (), "device": "cpu", **changes})


def source(*hubs: str, free_bytes: Callable[[Path], int] = lambda _: 1 << 40) -> Source:
    """A supply from each hub in turn, the last one for ever; nothing but loopback is reached."""
    left = list(hubs)

    @contextmanager
    def supply(model_dir: Path, hf_token: str | None, report: Report) -> Iterator[Supply]:
        closed = {"https://": httpx.HTTPTransport(proxy=NOWHERE)}
        with httpx.Client(follow_redirects=True, mounts=closed) as client:
            downloader = Downloader(model_dir / ".partial", client, report=report, free_bytes=free_bytes, retry_delay_s=0)
            yield Supply(downloader, (), hf_token, hub=left.pop(0) if len(left) > 1 else left[0])

    return supply


def refuse(_: float) -> None:
    raise Enough


def test_every_byte_is_known_ahead_and_told_in_the_report_and_the_log(hub: Hub, folder: Path) -> None:
    presence = Mute()
    with capture_logs() as lines:
        bring_models(settings(folder), presence, source(hub.url))
    assert (folder / "own--whisper" / "model.bin").read_bytes() == hub.files["model.bin"]
    progress = [report.downloading for report in presence.said if report.downloading]
    assert {at.total_bytes for at in progress} == {TOTAL_BYTES}
    assert [at.done_bytes for at in progress] == sorted(at.done_bytes for at in progress)
    assert progress[-1].done_bytes == TOTAL_BYTES
    assert {report.state for report in presence.said} == {WorkerState.DOWNLOADING}
    events = [line["event"] for line in lines]
    assert {"event": "models: downloading", "files": 4, "done_bytes": 0, "total_bytes": TOTAL_BYTES, "log_level": "info"} in lines
    assert "models: 0.0 of 0.0 GB, own/whisper, model.bin" in events


def test_what_is_there_is_not_asked_for(hub: Hub, folder: Path) -> None:
    copied = folder / "own--whisper"
    copied.mkdir()
    for name in ("config.json", "model.bin", "tokenizer.json"):
        (copied / name).write_bytes(b"copied from another machine, with its lock")
    pins = {path.name: Pin(sha256(path), path.stat().st_size) for path in copied.iterdir()}
    write_record(folder, copied.name, Record("hub:own/whisper", None, pins))
    bring_models(settings(folder), Mute(), source(hub.url))
    assert hub.asked == []


def test_a_network_that_is_away_is_waited_for(hub: Hub, folder: Path) -> None:
    presence, pauses = Mute(), []
    bring_models(settings(folder), presence, source(NOWHERE, NOWHERE, NOWHERE, hub.url), pauses.append)
    assert pauses == [2, 4, 8]
    away = [report for report in presence.said if "does not answer" in report.reason]
    assert {report.state for report in away} == {WorkerState.DOWNLOADING}
    assert away[0].reason.endswith("; next try in 2 s")
    assert "check the network and the proxy" in away[0].reason
    assert (folder / "own--whisper").is_dir()


@pytest.mark.parametrize(
    ("changes", "spoil", "reason"),
    [
        ({"asr_model": "own/nothing"}, lambda _: None, "own/nothing is gated, private or not there: accept its conditions"),
        ({}, lambda hub: setattr(hub, "large_file_digest", "0" * 64), "model.bin as downloaded has sha256"),
    ],
)
def test_a_refusal_is_said_plainly_and_tried_again_every_minute(
    hub: Hub, folder: Path, changes: dict[str, object], spoil: Callable[[Hub], None], reason: str
) -> None:
    presence, pauses = Mute(), []
    spoil(hub)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise Enough

    with pytest.raises(Enough):
        bring_models(settings(folder, **changes), presence, source(hub.url), pause)
    assert pauses == [60, 60]
    assert presence.said[-1].state == WorkerState.MODELS_MISSING
    assert reason in presence.said[-1].reason
    assert presence.said[-1].reason.endswith("; next try in 60 s")


def test_a_full_disk_is_said_before_the_first_byte_and_room_is_taken(hub: Hub, folder: Path) -> None:
    presence, free = Mute(), [1000]

    def make_room(_: float) -> None:
        assert hub.served == []
        free.append(1 << 40)

    bring_models(settings(folder), presence, source(hub.url, free_bytes=lambda _: free[-1]), make_room)
    (full,) = [report for report in presence.said if report.state == WorkerState.MODELS_MISSING]
    assert "no room for own--whisper: it needs 200,007 bytes" in full.reason
    assert (folder / "own--whisper").is_dir()


def test_an_alignment_model_that_does_not_come_holds_nobody_up(hub: Hub, folder: Path) -> None:
    with capture_logs() as lines:
        bring_models(settings(folder, align_languages=("fr",)), Mute(), source(hub.url), lambda _: None)
    assert (folder / "own--whisper").is_dir()
    (warning,) = [line for line in lines if line.get("model")]
    assert (warning["model"], warning["log_level"]) == ("wav2vec2-fr", "warning")


def test_a_name_that_means_no_model_is_not_waited_for(folder: Path, hub: Hub) -> None:
    with pytest.raises(Exception, match="unknown model 'large-v9'"):
        bring_models(settings(folder, asr_model="large-v9"), Mute(), source(hub.url), refuse)


def test_a_second_worker_waits_for_the_one_that_downloads_and_says_so(hub: Hub, folder: Path) -> None:
    presence = Mute()
    with sole_downloader(folder, lambda _: None):
        second = threading.Thread(target=lambda: bring_models(settings(folder), presence, source(hub.url), refuse))
        second.start()
        wait_for(lambda: presence.said and "another pull is filling" in presence.said[-1].reason, "it to say so")
        assert presence.said[-1].state == WorkerState.DOWNLOADING
    second.join(10)
    assert (folder / "own--whisper").is_dir()


@contextmanager
def process(hub: Hub, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The real hub client in a process of its own, sent to the hub by HF_ENDPOINT."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
    ours = {"MODEL_DIR": str(folder), "ASR_MODEL": "own/whisper", "ALIGN_LANGUAGES": ",", "DEVICE": "cpu"}
    environment = {**kept, "HF_ENDPOINT": hub.url, **{f"SPILLWAY_{name}": value for name, value in ours.items()}}
    with subprocess.Popen([sys.executable, "-c", BRING], cwd=ROOT, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_download_that_was_cut_by_a_signal_goes_on_where_it_was(hub: Hub, folder: Path, number: signal.Signals) -> None:
    size = 4_000_000
    hub.files["model.bin"], hub.holds_at = os.urandom(size), size // 2
    with process(hub, folder) as first:
        wait_for(lambda: _partial_bytes(folder) >= size // 2, "half of it to be on the disk")
        first.send_signal(number)
        assert first.wait(timeout=2) == -number
    kept, hub.holds_at = _partial_bytes(folder), None
    hub.go.set()
    with process(hub, folder) as second:
        assert second.wait(timeout=30) == 0
    assert (folder / "own--whisper" / "model.bin").read_bytes() == hub.files["model.bin"]
    assert hub.served[1:] == [size - kept]


class RealWorker:
    """`python -m worker` on the CPU, with a folder for its temporary files of its own."""

    def __init__(self, store: JobStore, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
        ours = {"DEVICE": "cpu", "WORKER_SLOT": "gpu-box", "ALIGN_LANGUAGES": ","}
        self.environment = {**kept, **{f"SPILLWAY_{name}": value for name, value in ours.items()}, **variables}
        self.store = store

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        with subprocess.Popen([sys.executable, "-m", "worker"], cwd=ROOT, env=self.environment) as launcher:
            try:
                yield launcher
            finally:
                launcher.kill()

    def report(self) -> WorkerReport | None:
        return next(iter(self.store.workers()), None)

    def is_at(self, state: WorkerState, done_bytes: int = 0) -> bool:
        report = self.report()
        done = report.downloading.done_bytes if report and report.downloading else 0
        return bool(report and report.state == state and done >= done_bytes)

    def health(self) -> tuple[int, str]:
        command = [sys.executable, "-m", "worker.health"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.strip()


@pytest.fixture
def worker(redis_url: str, tmp_path: Path, folder: Path, hub: Hub, ffmpeg: str) -> Iterator[RealWorker]:
    places = {"SPILLWAY_REDIS_URL": redis_url, "SPILLWAY_FILE_STORE_DIR": str(tmp_path / "files"), "TMPDIR": str(tmp_path)}
    models = {"SPILLWAY_MODEL_DIR": str(folder), "SPILLWAY_ASR_MODEL": "own/whisper", "HF_ENDPOINT": hub.url}
    with connect(redis_url) as redis:
        yield RealWorker(JobStore(redis), SPILLWAY_FFMPEG=ffmpeg, **places, **models)


@pytest.mark.models
def test_a_worker_downloads_is_stopped_goes_on_and_gets_fit(worker: RealWorker, hub: Hub, folder: Path, model_dir: Path) -> None:
    hub.files = {path.name: path.read_bytes() for path in (model_dir / "faster-whisper-tiny.en").iterdir()}
    size = len(hub.files["model.bin"])
    hub.holds_at = size // 2
    with worker.running() as launcher:
        wait_for(lambda: worker.is_at(WorkerState.DOWNLOADING, size // 2), "half of the model", timeout_s=90)
        report = worker.report()
        assert report
        assert report.downloading
        assert (report.slot, report.downloading.total_bytes) == ("gpu-box", sum(map(len, hub.files.values())))
        assert report.reason == "models: 0.0 of 0.1 GB, own/whisper, model.bin"
        assert worker.health() == (0, "healthy")
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=3) == 128 + signal.SIGTERM
    kept, hub.holds_at = _partial_bytes(folder), None
    hub.go.set()
    with worker.running() as launcher:
        wait_for(lambda: worker.is_at(WorkerState.FIT), "it to be fit", timeout_s=120)
        assert hub.served[1:] == [size - kept]
        assert worker.health() == (0, "healthy")
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 0
    assert worker.health()[0] == 1


@pytest.mark.models
def test_a_worker_without_its_models_stays_to_say_so(worker: RealWorker) -> None:
    worker.environment["SPILLWAY_PULL_AT_START"] = "false"
    with worker.running() as launcher:
        wait_for(lambda: worker.is_at(WorkerState.MODELS_MISSING), "it to say so", timeout_s=90)
        status, said = worker.health()
        assert status == 1
        assert "`python -m worker.model_files pull own/whisper" in said
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=3) == 128 + signal.SIGTERM


def _partial_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(".partial/*/model.bin"))
