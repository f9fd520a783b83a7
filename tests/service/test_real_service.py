"""A real gunicorn on loopback: what only threads, sockets and signals can show."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from core.job_store import JobStore
from core.local_file_store import LocalFileStore
from core.redis_steps import connect
from tests.conftest import RedisServer, files_in, wait_for
from tests.service.box import RunningService, is_alive, run_pending, running_service, wav

MB = 1024**2
MULTIPART = {"Content-Type": "multipart/form-data; boundary=frontier"}
HEAD = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
TAIL = b"\r\n--frontier--\r\n"


def submit(service: RunningService, **extra: Any) -> str:
    response = httpx.post(f"{service.url}/v1/jobs", files={"file": ("a.wav", wav(2))}, timeout=20, **extra)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def long_wav(megabytes: int) -> Iterator[bytes]:
    """A form with that much silence in it, made as it is sent; WAV's sizes are left at the most, as recorders that stream do."""
    silence = bytes(MB)
    yield HEAD + wav(0)[:40] + b"\xff\xff\xff\xff"
    yield from (silence for _ in range(megabytes))
    yield TAIL


def stored_files(service: RunningService) -> set[Path]:
    return {service.folder / name for name in files_in(service.folder)}


def peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_job_goes_through_a_real_service(service: RunningService, redis_url: str) -> None:
    job_id = submit(service)
    redis = connect(redis_url)
    jobs, files = JobStore(redis), LocalFileStore(service.folder)
    with httpx.Client(base_url=service.url) as http, connect_sse(http, "GET", f"/v1/jobs/{job_id}/events") as stream:
        seen = []
        for event in stream.iter_sse():
            seen.append(event.json()["state"])
            run_pending(jobs, files)
    assert (seen[0], seen[-1]) == ("queued", "succeeded")
    assert "Good morning" in httpx.get(f"{service.url}/v1/jobs/{job_id}/transcript?format=srt").text
    assert redis.llen("spillway-wakeups") == 1
    redis.close()


def test_a_large_upload_is_never_whole_in_memory(service: RunningService) -> None:
    submit(service)
    before = peak_memory(service.worker_pid)
    response = httpx.post(f"{service.url}/v1/jobs", content=long_wav(300), headers=MULTIPART, timeout=120)
    assert response.status_code == 202, response.text
    assert response.json()["duration_s"] > 9000
    assert peak_memory(service.worker_pid) - before < 50 * MB
    assert (service.folder / "jobs" / response.json()["id"] / "input").stat().st_size > 300 * MB


def test_an_upload_that_breaks_off_leaves_nothing(service: RunningService) -> None:
    before = stored_files(service)

    def broken() -> Iterator[bytes]:
        yield HEAD + wav(1)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(f"{service.url}/v1/jobs", content=broken(), headers=MULTIPART)
    wait_for(lambda: "malformed_request" in service.log.read_text(), "the service to notice")
    assert stored_files(service) == before


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/uploads"])
@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nhelloXX0\r\n\r\n"], ids=["a size that is none", "no end where it should be"])
def test_broken_chunks_are_the_callers_fault_and_end_the_connection(service: RunningService, path: str, chunks: bytes) -> None:
    address = httpx.URL(service.url)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.host, address.port), timeout=10) as client:
        client.sendall(head.encode() + chunks)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.split()[1] == b"400"
    assert b'"code":"malformed_request"' in answer


def test_a_client_that_is_refused_half_way_reads_why(service: RunningService) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--frontier\r\nContent-Disposition: form-data; name="langauge"\r\n\r\nen\r\n' + HEAD
        while True:
            yield bytes(MB)

    response = httpx.post(f"{service.url}/v1/jobs", content=endless(), headers=MULTIPART, timeout=20)
    assert (response.status_code, response.json()["field"]) == (422, "langauge")


def test_probes_answer_while_uploads_and_streams_hold_every_place(service: RunningService) -> None:
    job_id, released = submit(service), threading.Event()
    holders = [threading.Thread(target=_watch, args=(service, job_id, released)) for _ in range(6)]
    holders += [threading.Thread(target=_upload_slowly, args=(service, released)) for _ in range(8)]
    for holder in holders:
        holder.start()
    wait_for(lambda: service.log.read_text().count("service_busy") >= 9, "the places to be taken")
    for path in ("/healthz", "/readyz", "/metrics", f"/v1/jobs/{job_id}"):
        assert httpx.get(f"{service.url}{path}", timeout=5).status_code == 200
    released.set()
    httpx.post(f"{service.url}/v1/jobs/{job_id}/cancel")
    for holder in holders:
        holder.join(timeout=20)


def test_the_service_outlives_redis(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    with running_service(redis_server.url, tmp_path, ffmpeg) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        job_id = submit(service)
        redis_server.stop()
        assert httpx.get(f"{service.url}/readyz", timeout=20).status_code == 503
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        redis_server.start()
        wait_for(lambda: httpx.get(f"{service.url}/readyz", timeout=20).is_success, "the service to be ready again")
        assert httpx.get(f"{service.url}/v1/jobs/{job_id}").json()["state"] == "queued"


def test_a_stopping_service_finishes_uploads_and_lets_go_of_streams(redis_url: str, tmp_path: Path, ffmpeg: str) -> None:
    with running_service(redis_url, tmp_path, ffmpeg) as service:
        _stop_in_the_middle(service)


def _stop_in_the_middle(service: RunningService) -> None:
    job_id, opened, released, answers = submit(service), threading.Event(), threading.Event(), list[int]()
    watcher = threading.Thread(target=_watch, args=(service, job_id, released, opened))
    uploader = threading.Thread(target=lambda: answers.append(_upload_slowly(service, released)))
    watcher.start()
    uploader.start()
    wait_for(lambda: opened.is_set() and list(service.folder.glob("partial/*")), "the stream and the upload to begin")
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    watcher.join(timeout=10)
    assert not watcher.is_alive()
    assert not is_alive(service.url)
    released.set()
    uploader.join(timeout=20)
    assert answers == [202]
    assert service.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 20


def test_the_log_is_json_and_names_no_file(service: RunningService) -> None:
    job_id = submit(service)
    wait_for(lambda: f'"status": 202, "job_id": "{job_id}"' in service.log.read_text(), "the request's line")
    log = service.log.read_text()
    assert "a.wav" not in log
    assert all(line.startswith("{") and '"process": "service"' in line for line in log.splitlines())


def _watch(service: RunningService, job_id: str, released: threading.Event, opened: threading.Event | None = None) -> None:
    with httpx.stream("GET", f"{service.url}/v1/jobs/{job_id}/events", timeout=30) as response:
        for _ in response.iter_lines():
            if opened:
                opened.set()
            if released.is_set():
                return


def _upload_slowly(service: RunningService, released: threading.Event) -> int:
    def content() -> Iterator[bytes]:
        yield HEAD + wav(5)
        released.wait(timeout=20)
        yield TAIL

    return httpx.post(f"{service.url}/v1/jobs", content=content(), headers=MULTIPART, timeout=60).status_code
