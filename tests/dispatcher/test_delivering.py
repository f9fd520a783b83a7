"""From an ended job to a receiver that has heard of it: real Redis, real connections, and processes that are killed."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from core.errors import StoreUnavailable
from core.leased import Lease
from core.outbox import Delivery, DeliveryKind, DeliveryState
from dispatcher.delivering import LONGEST_ASKED_S, LONGEST_PAUSE_S, PATIENCE_S, pause_after
from dispatcher.sending import Tried, failed
from tests.conftest import RedisServer, free_port, wait_for
from tests.dispatcher.delivery_box import SECRET, DeliveryBox
from tests.dispatcher.process import running_dispatcher
from tests.dispatcher.source_server import Asked, SourceServer, Visit


@pytest.fixture
def box(redis_url: str, tmp_path: Path) -> Iterator[DeliveryBox]:
    made = DeliveryBox(redis_url, tmp_path / "files")
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/hook": lambda visit: visit.say(204)}) as running:
        yield running


class Hang:
    """An answer that waits for the test."""

    def __init__(self) -> None:
        self.is_reached, self.released = threading.Event(), threading.Event()

    def __call__(self, visit: Visit) -> None:
        self.is_reached.set()
        self.released.wait(30)
        visit.say(200)


@pytest.fixture
def hang(server: SourceServer) -> Iterator[Hang]:
    built = Hang()
    server.answers["/slow"] = built
    yield built
    built.released.set()


def verified(asked: Asked) -> dict[str, Any]:
    """What a receiver with the standard's own library takes it for."""
    body = Webhook(SECRET).verify(asked.content, asked.headers)
    assert isinstance(body, dict)
    return body


def test_a_receiver_hears_that_a_job_has_ended(box: DeliveryBox, server: SourceServer) -> None:
    job_id = box.ended(server.url("/hook"))
    delivery = box.settled(box.deliverer(), job_id)
    assert (delivery.state, [attempt.status for attempt in delivery.attempts]) == (DeliveryState.DELIVERED, [204])
    (asked,) = server.asked
    assert (verified(asked)["type"], verified(asked)["data"]["id"]) == ("job.succeeded", job_id)


def test_a_receiver_that_breaks_at_first_hears_the_same_event_until_it_takes_it(box: DeliveryBox, server: SourceServer) -> None:
    answers = iter([500, 302, 503, 200])
    server.answers["/hook"] = lambda visit: visit.say(next(answers), Location="/elsewhere", Retry_After="0")
    job_id = box.ended(server.url("/hook"), has_transcript=False)
    delivery = box.settled(box.deliverer(), job_id)
    assert [attempt.status for attempt in delivery.attempts] == [500, 302, 503, 200]
    assert {asked.headers["webhook-id"] for asked in server.asked} == {f"{job_id}:1"}
    assert len({asked.content for asked in server.asked}) == 1
    assert verified(server.asked[-1])["type"] == "job.failed"
    assert [asked.path for asked in server.asked] == ["/hook"] * 4


def test_a_receiver_that_is_down_hears_of_it_when_it_is_up_again(box: DeliveryBox) -> None:
    port = free_port()
    job_id, deliverer = box.ended(f"http://127.0.0.1:{port}/hook"), box.deliverer()
    assert "connection failed" in str(box.tried(deliverer, job_id).attempts[0].error)
    with SourceServer({"/hook": lambda visit: visit.say(200)}, port=port) as server:
        assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED
        assert len(server.asked) == 1


def test_a_receiver_that_is_gone_is_asked_once(box: DeliveryBox, server: SourceServer) -> None:
    server.answers["/hook"] = lambda visit: visit.say(410)
    delivery = box.settled(box.deliverer(), box.ended(server.url("/hook")))
    assert (delivery.state, len(server.asked)) == (DeliveryState.STOPPED, 1)


def test_a_receiver_that_never_takes_it_is_given_up_after_a_day(
    box: DeliveryBox, server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/hook"] = lambda visit: visit.say(500)
    job_id, deliverer = box.ended(server.url("/hook")), box.deliverer()
    box.tried(deliverer, job_id, 2)
    monkeypatch.setattr("dispatcher.delivering.PATIENCE_S", 0.0)  # the day is over
    delivery = box.settled(deliverer, job_id)
    assert (delivery.state, delivery.next_try_at) == (DeliveryState.FAILED, None)
    assert {attempt.status for attempt in delivery.attempts} == {500}


@pytest.mark.parametrize(("asked_s", "heeded_s"), [("30", 30.0), ("999999999", LONGEST_ASKED_S)])
def test_a_receiver_may_ask_for_a_pause_within_bounds(box: DeliveryBox, server: SourceServer, asked_s: str, heeded_s: float) -> None:
    server.answers["/hook"] = lambda visit: visit.say(429, Retry_After=asked_s)
    delivery = box.tried(box.deliverer(pause_s=5), box.ended(server.url("/hook")))
    assert delivery.next_try_at == pytest.approx(time.time() + heeded_s, abs=3)


def test_the_pauses_grow_by_chance_up_to_four_hours() -> None:
    for tries in range(20):
        pauses = {pause_after(tries) for _ in range(50)}
        middle = min(5 * 3.0**tries, LONGEST_PAUSE_S)
        assert len(pauses) > 40
        assert all(0.75 * middle <= pause <= 1.25 * middle for pause in pauses)


@given(st.randoms(use_true_random=False))
def test_a_day_holds_some_dozen_tries_ever_further_apart_until_the_longest_pause(chance: random.Random) -> None:
    with pytest.MonkeyPatch.context() as planted:
        planted.setattr("dispatcher.delivering.random", chance)
        pauses = [pause_after(tries) for tries in range(40)]
    times = [0.0, *(at for at in accumulate(pauses) if at < PATIENCE_S), PATIENCE_S]
    assert 13 <= len(times) <= 18
    assert times == sorted(times)
    growing = [pause for pause in pauses if pause < 0.75 * LONGEST_PAUSE_S]
    assert all(later > earlier for earlier, later in pairwise(growing))
    assert max(pauses) <= 1.25 * LONGEST_PAUSE_S


def test_one_slow_host_holds_up_no_other(box: DeliveryBox, server: SourceServer, hang: Hang) -> None:
    slow = [box.ended(server.url("/slow")) for _ in range(5)]
    quick = [box.ended(server.url("/hook", host="127.0.0.2")) for _ in range(5)]
    deliverer = box.deliverer(most_at_once=3)
    with SourceServer({"/hook": lambda visit: visit.say(200)}, port=server.port, address="127.0.0.2"):
        for job_id in quick:
            assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED
    wait_for(lambda: len(server.asked) >= 2, "two to be sent to the slow one")
    assert len(server.asked) == 2
    hang.released.set()
    for job_id in slow:
        assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED


def test_a_step_waits_for_no_receiver(box: DeliveryBox, server: SourceServer, hang: Hang) -> None:
    box.ended(server.url("/slow"))
    deliverer = box.deliverer()
    for _ in range(5):
        began = time.monotonic()
        deliverer.step()
        assert time.monotonic() - began < 1
    assert hang.is_reached.wait(5)


def test_a_job_that_is_deleted_meanwhile_owes_nothing_any_more(box: DeliveryBox, server: SourceServer, hang: Hang) -> None:
    job_id, deliverer = box.ended(server.url("/slow")), box.deliverer()
    deliverer.step()
    assert hang.is_reached.wait(5)
    box.jobs.delete(job_id)
    began = time.monotonic()
    box.stepped(deliverer, lambda: not deliverer._flights, "the delivery to be left")
    assert time.monotonic() - began < 4, "not when the receiver's time is over"
    assert box.redis.keys("spillway:delivery:*") == []


def test_what_breaks_on_our_side_is_tried_again_and_tells_no_details(box: DeliveryBox, server: SourceServer) -> None:
    def broken(_delivery: Delivery, _check: Callable[[], None]) -> Tried:
        raise RuntimeError("secret detail")

    well = box.senders[DeliveryKind.WEBHOOK]
    box.senders[DeliveryKind.WEBHOOK] = broken
    job_id, deliverer = box.ended(server.url("/hook")), box.deliverer()
    assert "secret" not in str(box.tried(deliverer, job_id).attempts[0].error)
    box.senders[DeliveryKind.WEBHOOK] = well
    assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED


def test_a_kind_that_is_not_set_up_waits_until_it_is(box: DeliveryBox, server: SourceServer) -> None:
    well = box.senders.pop(DeliveryKind.WEBHOOK)
    job_id, deliverer = box.ended(server.url("/hook")), box.deliverer()
    assert "not set up to deliver by webhook" in str(box.tried(deliverer, job_id).attempts[0].error)
    box.senders[DeliveryKind.WEBHOOK] = well
    assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED


def test_the_log_names_the_host_and_neither_path_nor_query_nor_secret(box: DeliveryBox, server: SourceServer) -> None:
    server.answers["/secret-path"] = lambda visit: visit.say(200)
    with capture_logs() as logs:
        box.settled(box.deliverer(), box.ended(server.url("/secret-path?token=secret-token")))
    (line,) = [line for line in logs if line["event"] == "delivery tried"]
    assert (line["host"], line["status"], line["now"]) == ("127.0.0.1", 200, DeliveryState.DELIVERED)
    assert "secret" not in str(logs)
    assert SECRET not in str(logs)


def test_a_deliverer_that_stops_hands_its_delivery_back_at_once(box: DeliveryBox, server: SourceServer, hang: Hang) -> None:
    first, job_id = box.deliverer("first"), box.ended(server.url("/slow"))
    first.step()
    assert hang.is_reached.wait(5)
    began = time.monotonic()
    first.close()
    assert time.monotonic() - began < 3
    hang.released.set()
    delivery = box.settled(box.deliverer("second"), job_id)
    assert (delivery.state, delivery.token, len(delivery.attempts)) == (DeliveryState.DELIVERED, 2, 1)


def test_a_delivery_that_does_not_let_go_in_time_is_handed_back_all_the_same(box: DeliveryBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.flights.STOP_S", 0.05)
    is_reached, released = threading.Event(), threading.Event()

    def deaf(_delivery: Delivery, _check: Callable[[], None]) -> Tried:
        is_reached.set()
        released.wait(20)
        return failed("too late")

    box.senders[DeliveryKind.WEBHOOK] = deaf
    first, job_id = box.deliverer("first"), box.ended("https://example.org/hook")
    first.step()
    assert is_reached.wait(5)
    first.close()
    taken = box.outbox.claim(Lease("second", 60, 3))
    released.set()
    assert taken is not None
    assert taken.job.id == job_id


def test_what_was_delivered_while_redis_was_away_is_not_delivered_again(redis_server: RedisServer, tmp_path: Path) -> None:
    box, hang = DeliveryBox(redis_server.url, tmp_path / "files"), Hang()
    with SourceServer({"/slow": hang}) as server:
        deliverer, job_id = box.deliverer(), box.ended(server.url("/slow"))
        deliverer.step()
        assert hang.is_reached.wait(5)
        redis_server.stop()
        hang.released.set()
        wait_for(lambda: all(flight.is_over.is_set() for flight in deliverer._flights), "the try to end")
        with pytest.raises(StoreUnavailable):
            deliverer.step()
        redis_server.start()
        assert box.settled(deliverer, job_id).state == DeliveryState.DELIVERED
        assert len(server.asked) == 1
        box.close()


WEBHOOKS = {"SPILLWAY_WEBHOOK_SECRET": SECRET, "SPILLWAY_CALLBACK_ALLOW": "127.0.0.1/32"}


def test_a_dispatcher_killed_in_the_middle_of_a_delivery_delivers_again_under_the_same_id(
    box: DeliveryBox, server: SourceServer, hang: Hang, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.ended(server.url("/slow?token=secret-token"))
    with running_dispatcher(redis_url, box.folder, ffmpeg, **WEBHOOKS) as first:
        assert hang.is_reached.wait(30)
        first.kill()
    box.redis.delete("spillway:leader")  # its term ends 10 s later, which is not what is looked at here
    hang.released.set()
    with running_dispatcher(redis_url, box.folder, ffmpeg, **WEBHOOKS):
        wait_for(lambda: box.delivery(job_id).state == DeliveryState.DELIVERED, "the delivery to end")
    assert [asked.headers["webhook-id"] for asked in server.asked] == [f"{job_id}:1"] * 2
    assert verified(server.asked[0]) == verified(server.asked[1])
    assert len(box.delivery(job_id).attempts) == 1
    log = box.folder.with_suffix(".log").read_text()
    assert "delivery tried" in log
    assert "secret-token" not in log
    assert SECRET.removeprefix("whsec_") not in log


def test_a_dispatcher_that_is_told_to_stop_hands_its_delivery_back(
    box: DeliveryBox, server: SourceServer, hang: Hang, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.ended(server.url("/slow"))
    with running_dispatcher(redis_url, box.folder, ffmpeg, **WEBHOOKS) as process:
        assert hang.is_reached.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    taken = box.outbox.claim(Lease("next", 60, 3))
    assert taken is not None
    assert (taken.job.id, taken.attempts) == (job_id, ())
