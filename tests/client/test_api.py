"""The typed client against a real service."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from client.api import SpillwayClient
from client.errors import NotTheService, ServiceAway, ServiceBusy, ServiceRefused, SpillwayError, refusal
from client.models import Job
from client.sse import Event, events
from core.job_store import JobStore
from tests.conftest import free_port, wait_for
from tests.dispatcher.source_server import SourceServer
from tests.service.box import TRANSCRIPT, RunningService, wav


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(2))
    return path


@pytest.mark.usefixtures("runner")
def test_a_recording_is_sent_waited_for_and_read(client: SpillwayClient, recording: Path) -> None:
    sent: list[tuple[int, int]] = []
    seen: list[Job] = []
    job = client.submit(recording, on_upload=lambda done, total: sent.append((done, total)), language="en", metadata={"order": 7})
    assert sent[-1] == (recording.stat().st_size, recording.stat().st_size)
    assert (job.filename, job.duration_s, job.metadata, job.options["language"]) == ("talk.wav", 2.0, {"order": 7}, "en")
    done = client.wait(job.id, seen.append)
    assert done.state == seen[-1].state == "succeeded"
    assert [job.progress for job in seen] == sorted(job.progress for job in seen)
    assert json.loads(client.transcript(job.id)) == json.loads(TRANSCRIPT.model_dump_json())
    assert client.transcript(job.id, "txt").startswith("SPEAKER_00: Good morning.")


def test_a_source_is_named_in_place_of_a_file(client: SpillwayClient, recording: Path) -> None:
    job = client.submit(source="https://example.org/talk.mp3?s=1", language="en", diarize=False, num_speakers=None, metadata={"order": 7})
    assert (job.state, job.stage, job.duration_s, job.filename) == ("queued", "fetching", None, "talk.mp3")
    assert (job.source, job.metadata, job.options["diarize"]) == ("https://example.org/talk.mp3", {"order": 7}, False)
    assert client.queue().fetching_jobs == 1
    with pytest.raises(ServiceRefused, match="begins with https://"):
        client.submit(source="talk.mp3")
    with pytest.raises(ValueError, match="either"):
        client.submit(recording, source="https://example.org/talk.mp3")
    with pytest.raises(ValueError, match="either"):
        client.submit()


def test_jobs_are_listed_cancelled_and_deleted(client: SpillwayClient, recording: Path) -> None:
    first, second = client.submit(recording), client.submit(recording, diarize=False)
    page = client.jobs(limit=1)
    assert len(page.jobs) == 1
    rest = client.jobs(limit=1, cursor=page.next)
    assert ({page.jobs[0].id, rest.jobs[0].id}, rest.next) == ({first.id, second.id}, None)
    assert client.cancel(first.id).state == "cancelled"
    assert [job.id for job in client.jobs(state="queued").jobs] == [second.id]
    client.delete(second.id)
    with pytest.raises(ServiceRefused) as refused:
        client.job(second.id)
    assert (refused.value.code, refused.value.status) == ("job_not_found", 404)


def test_a_refusal_carries_code_message_and_field(client: SpillwayClient, recording: Path) -> None:
    with pytest.raises(ServiceRefused, match="did you mean 'language'") as refused:
        client.submit(recording, langauge="en")
    assert (refused.value.code, refused.value.field, refused.value.status) == ("unknown_option", "langauge", 422)


def test_the_same_key_gives_the_same_job(client: SpillwayClient, recording: Path) -> None:
    assert client.submit(recording, idempotency_key="k").id == client.submit(recording, idempotency_key="k").id
    assert client.submit(recording).id != client.submit(recording).id


def test_the_queue_is_typed(client: SpillwayClient, recording: Path) -> None:
    client.submit(recording)
    queue = client.queue()
    assert (queue.queued_jobs, queue.queued_audio_s, queue.workers, queue.real_time_factor) == (1, 2.0, (), None)


def test_waiting_goes_on_by_polling_when_streams_are_refused(
    client: SpillwayClient, service: RunningService, recording: Path, jobs: JobStore
) -> None:
    job, other = client.submit(recording), client.submit(recording)
    ended: list[Job] = []
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(httpx.stream("GET", f"{service.url}/v1/jobs/{other.id}/events"))
        waiter = threading.Thread(target=lambda: ended.append(client.wait(job.id)))
        waiter.start()
        wait_for(lambda: "service_busy" in service.log.read_text(), "the stream to be refused")
        jobs.cancel(job.id)
        waiter.join(timeout=10)
    assert ended[0].state == "cancelled"


def test_waiting_for_a_job_that_is_deleted_ends(client: SpillwayClient, recording: Path) -> None:
    job = client.submit(recording)
    threading.Timer(0.3, client.delete, [job.id]).start()
    with pytest.raises(ServiceRefused, match="there is no job"):
        client.wait(job.id)


@pytest.mark.parametrize(
    ("named", "shown"),
    [("naïve “talk” 日本.wav", "naïve “talk” 日本.wav"), ('a "b";c=d.wav', 'a "b";c=d.wav'), ("bad\udcff.wav", "bad\ufffd.wav")],
)
def test_a_file_of_any_name_is_sent(client: SpillwayClient, recording: Path, named: str, shown: str) -> None:
    assert client.submit(recording.rename(recording.with_name(named))).filename == shown


@pytest.mark.parametrize("job_id", ["../queue", "a/../../queue", "x?y", "#", "\udcff"])
def test_an_id_leads_nowhere_but_to_a_job(client: SpillwayClient, job_id: str) -> None:
    for call in (client.job, client.transcript, client.deliveries, client.cancel, client.delete):
        with pytest.raises(ServiceRefused) as refused:
            call(job_id)
        assert refused.value.status == 404


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_what_is_no_id_asks_for_nothing(client: SpillwayClient, job_id: str) -> None:
    for call in (client.job, client.transcript, client.deliveries, client.cancel, client.delete):
        with pytest.raises(SpillwayError, match="is no job's id: `spillway jobs` lists"):
            call(job_id)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "localhost:8000", "http://", "http://[::1", "http://box:port", "ftp://box", "http://a\nb"]
)
def test_what_is_no_url_of_a_service_is_said_so(url: str) -> None:
    with pytest.raises(SpillwayError, match="is not the URL of a service: write it like http://"):
        SpillwayClient(url)


def test_a_service_that_is_not_there_is_said_so(recording: Path) -> None:
    with SpillwayClient(f"http://127.0.0.1:{free_port()}") as nobody, pytest.raises(ServiceAway, match="does not answer"):
        nobody.submit(recording)


FOREIGN = {
    "a page": (b"<html>Please sign in</html>", {"Content-Type": "text/html; charset=utf-8"}),
    "a list": (b"[]", {"Content-Type": "application/json"}),
    "nothing": (b"", {}),
    "no text": (b'{"id": "\xff"}', {"Content-Type": "application/json"}),
}


@pytest.mark.parametrize(("content", "headers"), FOREIGN.values(), ids=FOREIGN)
def test_an_answer_of_somebody_elses_is_said_to_be_that(content: bytes, headers: dict[str, str]) -> None:
    answers = {"/v1/jobs/a": lambda visit: visit.say(200, content, **headers)}
    with SourceServer(answers) as other, SpillwayClient(other.url("")) as client, pytest.raises(NotTheService, match="is that its address"):
        client.job("a")


def test_a_page_is_no_transcript() -> None:
    page = {"/v1/jobs/a/transcript": lambda visit: visit.say(200, b"<html>Please sign in</html>", Content_Type="text/html")}
    with SourceServer(page) as proxy, SpillwayClient(proxy.url("")) as client, pytest.raises(NotTheService, match="sign in"):
        client.transcript("a", "txt")


def test_a_proxy_that_redirects_is_told_with_where_to() -> None:
    moved = {"/v1/jobs/a": lambda visit: visit.say(301, Location="https://talks.example.org/v1/jobs/a")}
    with SourceServer(moved) as proxy, SpillwayClient(proxy.url("")) as client, pytest.raises(ServiceRefused) as refused:
        client.job("a")
    assert "points to https://talks.example.org/v1/jobs/a: is that its address?" in refused.value.message


@pytest.mark.parametrize("said", ["\u00b2", "1.5", "soon", ""])
def test_a_pause_that_cannot_be_read_is_a_second(said: str) -> None:
    busy = refusal(httpx.Response(503, headers=[(b"Retry-After", said.encode("latin-1"))]))
    assert busy.retry_after_s == 1.0


def test_an_answer_that_is_no_problem_document_is_still_a_refusal() -> None:
    error = refusal(httpx.Response(502, text="<html>"))
    assert (error.code, error.message, error.status) == ("http_error", "the service answered 502 Bad Gateway", 502)


@pytest.mark.parametrize(("status", "code"), [(503, "queue_full"), (429, "rate_limited"), (429, "too_many_jobs")])
def test_a_busy_service_says_when_to_try_again(status: int, code: str) -> None:
    error = refusal(httpx.Response(status, headers={"Retry-After": "7"}, json={"code": code, "detail": "full"}))
    assert isinstance(error, ServiceBusy)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["data: a", ""], [Event("message", "a")]),
        (["retry: 2000", "event: job", "id: 3", "data: {", "data: }", ""], [Event("job", "{\n}")]),
        ([": heartbeat", "", "event: job", "data:a", ""], [Event("job", "a")]),
        (["event: job", "", "data: a", ""], [Event("message", "a")]),
        (["event: job", "data: cut off"], []),
        (["nonsense", "data", ""], [Event("message", "")]),
    ],
)
def test_server_sent_events_are_read_by_the_standard(lines: list[str], found: list[Event]) -> None:
    assert list(events(lines)) == found
