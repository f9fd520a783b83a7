"""One try at a time: what is sent, how it is signed, and that no receiver can hold it or lead it astray."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.job import Job, JobFailure, JobOptions, JobState
from core.outbox import Delivery, DeliveryKind, DeliveryState, Owed
from core.transcript import Notice
from dispatcher.guard import Guard
from dispatcher.sending import Tried
from dispatcher.webhooks import MOST_BYTES, WebhookSender, event
from tests.conftest import free_port
from tests.dispatcher.source_server import SourceServer, Visit, redirect

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = Guard(("127.0.0.1/32",))


def an_ended_job(state: JobState = JobState.SUCCEEDED, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": "0" * 32, "filename": "talk.wav", "duration_s": 12.5, "input_key": "i", "options": JobOptions(metadata={"order": 7}),
        "state": state, "seq": 1, "created_at": 1763800000.5, "started_at": 1763800001.0, "finished_at": 1763800031.25,
        "result_key": "r" if state == JobState.SUCCEEDED else None,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def owed(url: str, job: Job | None = None) -> Delivery:
    what = Owed(kind=DeliveryKind.WEBHOOK, target=url, host="127.0.0.1")
    return Delivery(f"{'0' * 32}:1", job or an_ended_job(), what, DeliveryState.PENDING, 1, (), None)


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/hook": lambda visit: visit.say(204)}) as running:
        yield running


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets go of the answers that hang."""
    event = threading.Event()
    yield event
    event.set()


def sent(url: str, *, guard: Guard = LOOPBACK, try_s: float = 10.0, job: Job | None = None) -> Tried:
    return WebhookSender(guard, (SECRET,), try_s=try_s)(owed(url, job), lambda: None)


def test_the_signature_is_the_one_that_the_standard_publishes() -> None:
    """The test vector of the standard's own libraries."""
    signed = Webhook(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), '{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_verifies_what_it_gets_with_the_standards_library(server: SourceServer) -> None:
    assert sent(server.url("/hook")).state == DeliveryState.DELIVERED
    (asked,) = server.asked
    body = Webhook(SECRET).verify(asked.content, asked.headers)
    assert (body["type"], body["data"]["id"], asked.headers["webhook-id"]) == ("job.succeeded", "0" * 32, f"{'0' * 32}:1")
    assert abs(int(asked.headers["webhook-timestamp"]) - time.time()) < 5
    assert asked.headers["content-type"] == "application/json"
    for forged in ({**asked.headers, "webhook-id": "1"}, {**asked.headers, "webhook-timestamp": str(int(time.time()) - 60)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(asked.content, forged)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(asked.content.replace(b"12.5", b"99.5"), asked.headers)


def test_while_the_secret_changes_a_receiver_may_know_either(server: SourceServer) -> None:
    new = "whsec_dGhlIG5leHQgc2VjcmV0IG9mIHRoZSBib3g="
    WebhookSender(LOOPBACK, (new, SECRET))(owed(server.url("/hook")), lambda: None)
    (asked,) = server.asked
    assert len(asked.headers["webhook-signature"].split(" ")) == 2
    for secret in (new, SECRET):
        assert Webhook(secret).verify(asked.content, asked.headers)


def test_a_body_that_is_not_ascii_is_signed_as_it_is_sent(server: SourceServer) -> None:
    sent(server.url("/hook"), job=an_ended_job(filename="Gespräch 日本.wav"))
    (asked,) = server.asked
    assert Webhook(SECRET).verify(asked.content, asked.headers)["data"]["filename"] == "Gespräch 日本.wav"


def test_an_event_holds_the_job_and_nothing_of_what_was_said() -> None:
    source = "https://example.org/talk.wav?signature=secret"
    body = json.loads(event(an_ended_job(source=source, warnings=(Notice(code="poor", message="noisy"),))))
    assert (body["type"], body["timestamp"]) == ("job.succeeded", "2025-11-22T08:27:11.250Z")
    data = body["data"]
    assert (data["state"], data["duration_s"], data["metadata"], data["error"]) == ("succeeded", 12.5, {"order": 7}, None)
    assert (data["source"], data["transcript"]) == ("https://example.org/talk.wav", f"/v1/jobs/{'0' * 32}/transcript")
    assert (data["warnings"], data["left_out"]) == ([{"code": "poor", "message": "noisy"}], [])


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_an_end_without_a_transcript_is_an_event_too(state: JobState) -> None:
    failure = JobFailure(code="invalid_media", message="no audio")
    body = json.loads(event(an_ended_job(state, error=failure, started_at=None)))
    assert (body["type"], body["data"]["transcript"], body["data"]["started_at"]) == (f"job.{state}", None, None)
    assert body["data"]["error"] == {"code": "invalid_media", "message": "no audio"}


LARGE = {
    "a long prompt": (JobOptions(initial_prompt="語" * 4000, metadata={"text": "a" * 9000}), ["options"]),
    "metadata that just fits": (JobOptions(metadata={"text": "語" * 6000}), []),
    "metadata of many bytes": (JobOptions(metadata={"text": "語" * 15_000}), ["options", "metadata"]),
}


@pytest.mark.parametrize(("options", "left_out"), LARGE.values(), ids=LARGE)
def test_an_event_stays_small_and_says_what_it_left_out(options: JobOptions, left_out: list[str]) -> None:
    text = event(an_ended_job(options=options))
    data = json.loads(text)["data"]
    assert len(text.encode()) <= MOST_BYTES
    assert data["left_out"] == left_out
    assert not set(left_out) & set(data)


ANSWERS: dict[str, tuple[Callable[[Visit], None], DeliveryState, int, float]] = {
    "200": (lambda visit: visit.say(200, b"thanks"), DeliveryState.DELIVERED, 200, 0),
    "299": (lambda visit: visit.say(299), DeliveryState.DELIVERED, 299, 0),
    "gone": (lambda visit: visit.say(410), DeliveryState.STOPPED, 410, 0),
    "not found": (lambda visit: visit.say(404), DeliveryState.PENDING, 404, 0),
    "broken": (lambda visit: visit.say(500), DeliveryState.PENDING, 500, 0),
    "busy for a year of twenty digits": (
        lambda visit: visit.say(503, Retry_After=f"Fri, 31 Dec {10**20} 23:59:59 GMT"),
        DeliveryState.PENDING,
        503,
        0,
    ),
    "busy": (lambda visit: visit.say(503, Retry_After="120"), DeliveryState.PENDING, 503, 120),
    "moved": (redirect("/hook"), DeliveryState.PENDING, 302, 0),
    "moved for good, into the inside": (redirect("http://169.254.169.254/latest", 308), DeliveryState.PENDING, 308, 0),
}


@pytest.mark.parametrize(("answer", "state", "status", "after_s"), ANSWERS.values(), ids=ANSWERS)
def test_what_an_answer_means(
    server: SourceServer, answer: Callable[[Visit], None], state: DeliveryState, status: int, after_s: float
) -> None:
    server.answers["/hook"], server.answers["/other"] = lambda visit: visit.say(200), answer
    tried = sent(server.url("/other"))
    assert (tried.state, tried.answer.status, tried.after_s) == (state, status, after_s)
    assert (tried.answer.error is None) == (state == DeliveryState.DELIVERED)
    assert [asked.path for asked in server.asked] == ["/other"]


def test_the_body_of_an_answer_is_not_waited_for(server: SourceServer, released: threading.Event) -> None:
    def endless(visit: Visit) -> None:
        visit.head(200, Content_Length=str(10**12))
        while not released.wait(0.001):
            visit.wfile.write(bytes(64 * 1024))

    server.answers["/hook"] = endless
    began = time.monotonic()
    assert sent(server.url("/hook")).state == DeliveryState.DELIVERED
    assert time.monotonic() - began < 3
    assert server.was_left.wait(5)


def drip(visit: Visit, released: threading.Event) -> None:
    visit.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not released.wait(0.05):
        visit.wfile.write(b"X: y\r\n")


def keep_continuing(visit: Visit, released: threading.Event) -> None:
    while not released.wait(0.05):
        visit.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


HANGING: dict[str, Callable[[Visit, threading.Event], object]] = {
    "says nothing": lambda _visit, released: released.wait(20),
    "never ends its headers": drip,
    "only ever continues": keep_continuing,
}


@pytest.mark.parametrize("hang", HANGING.values(), ids=HANGING)
def test_a_receiver_that_hangs_is_left_when_its_time_is_over(
    server: SourceServer, released: threading.Event, hang: Callable[[Visit, threading.Event], object]
) -> None:
    server.answers["/hook"] = lambda visit: void(hang(visit, released))
    began = time.monotonic()
    tried = sent(server.url("/hook"), try_s=0.3)
    assert (tried.state, tried.answer.status, tried.answer.error) == (DeliveryState.PENDING, None, "no answer in time")
    assert time.monotonic() - began < 3


def test_a_receiver_that_never_shakes_hands_is_left_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        tried = sent(f"https://127.0.0.1:{silent.getsockname()[1]}/hook", try_s=0.3)
    assert (tried.state, tried.answer.error) == (DeliveryState.PENDING, "no answer in time")
    assert time.monotonic() - began < 3


def void(_result: object) -> None:
    """What a hanging answer comes to."""


NOT_HTTP = "the receiver hung up, or what it answers is not HTTP"
BROKEN: dict[str, tuple[Callable[[Visit], None], str]] = {
    "hangs up": (lambda _visit: None, NOT_HTTP),
    "speaks something else": (lambda visit: void(visit.wfile.write(b"SSH-2.0-secret\r\n")), NOT_HTTP),
    "headers without end": (lambda visit: void(visit.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10**6)), NOT_HTTP),
}


@pytest.mark.parametrize(("answer", "error"), BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_none_is_tried_again_and_not_repeated_in_the_log(
    server: SourceServer, answer: Callable[[Visit], None], error: str
) -> None:
    server.answers["/hook"] = answer
    tried = sent(server.url("/hook"))
    assert (tried.state, tried.answer.status, tried.answer.error) == (DeliveryState.PENDING, None, error)


@pytest.mark.parametrize("url", ["http://xn--a/hook", "http://xn--a.example.org/hook", "http://example.org:hook/"])
def test_a_url_that_cannot_be_reached_is_said_to_be_none(url: str) -> None:
    tried = sent(url)
    assert tried.state == DeliveryState.PENDING
    assert "not a URL that can be reached" in str(tried.answer.error)


def test_a_receiver_that_is_down_is_tried_again() -> None:
    tried = sent(f"http://127.0.0.1:{free_port()}/hook")
    assert tried.state == DeliveryState.PENDING
    assert "connection failed" in str(tried.answer.error)


def test_a_certificate_that_nobody_vouches_for_is_not_trusted() -> None:
    with SourceServer({"/hook": lambda visit: visit.say(200)}, is_tls=True) as server:
        tried = sent(server.url("/hook"))
        assert (tried.state, server.asked) == (DeliveryState.PENDING, [])
    assert "CERTIFICATE_VERIFY_FAILED" in str(tried.answer.error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "hooks.example.org"])
def test_a_private_address_is_not_sent_to_and_the_setting_that_allows_it_is_named(server: SourceServer, host: str) -> None:
    guard = Guard(resolve=lambda _host, _port: ["127.0.0.1"], variable="SPILLWAY_CALLBACK_ALLOW")
    tried = sent(server.url("/hook", host=host), guard=guard)
    assert (tried.state, server.asked) == (DeliveryState.PENDING, [])
    assert "SPILLWAY_CALLBACK_ALLOW can allow it" in str(tried.answer.error)


def test_a_name_that_turns_inside_between_two_tries_is_refused(server: SourceServer) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    sender = WebhookSender(Guard(("127.0.0.1/32",), resolve=lambda _host, _port: next(answers)), (SECRET,))
    delivery = owed(server.url("/hook", host="hooks.example.org"))
    assert [sender(delivery, lambda: None).state for _ in range(2)] == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    assert len(server.asked) == 1


def test_one_that_is_stopped_ends_at_once(server: SourceServer, released: threading.Event) -> None:
    class Enough(Exception):
        """What the dispatcher's stop raises."""

    reached = threading.Event()

    def hang(_visit: Visit) -> None:
        reached.set()
        released.wait(20)

    def check() -> None:
        if reached.is_set():
            raise Enough

    server.answers["/hook"] = hang
    with pytest.raises(Enough):
        WebhookSender(LOOPBACK, (SECRET,))(owed(server.url("/hook")), check)
