"""What one API key may have of the service, and what it hears when it wants more."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from core.api_keys import ApiKey, KeyLimits, Scope, new_key
from core.errors import ServiceBusy, TooManyOpen
from service.places import Places
from tests.conftest import RedisServer
from tests.service.box import Box

OpenBox = Callable[..., Box]
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


@pytest.fixture
def open_box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[OpenBox]:
    """A box with settings of the test's own."""
    with ExitStack() as opened:

        def make(**settings: Any) -> Box:
            box = Box(redis_url, tmp_path, ffmpeg, **{"access": "keys", **settings})
            opened.callback(box.close)
            return box

        yield make


def bearer(key: ApiKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.text}"}


def made(box: Box, scope: Scope = Scope.SUBMIT, **limits: int) -> dict[str, str]:
    return bearer(box.keys.create("somebody", scope, KeyLimits(**limits)))


def statuses(box: Box, headers: dict[str, str], count: int, path: str = "/v1/queue") -> list[int]:
    return [box.http.get(path, headers=headers).status_code for _ in range(count)]


def code(response: TestResponse) -> tuple[int, str]:
    return response.status_code, response.get_json()["code"]


@pytest.mark.parametrize(
    ("scope", "right", "is_taken"),
    [
        (Scope.SUBMIT, None, False),
        (Scope.SUBMIT, True, True),
        (Scope.SUBMIT, False, False),
        (Scope.ADMIN, None, True),
        (Scope.ADMIN, False, False),
    ],
)
def test_only_a_key_with_the_right_sends_jobs_that_go_before_everybodys(
    guarded: Box, scope: Scope, right: bool | None, is_taken: bool
) -> None:
    headers = bearer(guarded.keys.create("somebody", scope, KeyLimits(high_priority=right)))
    response = guarded.submit(headers=headers, priority="high")
    assert response.status_code == (202 if is_taken else 403)
    if not is_taken:
        assert response.get_json()["code"] == "forbidden"
        assert "priority: this API key may not send jobs of priority high" in response.get_json()["detail"]
        assert guarded.stored_files() == []
    for priority in ("normal", "low"):
        assert guarded.submit(headers=headers, priority=priority).status_code == 202


def test_in_open_access_everybody_may_send_what_goes_first(box: Box) -> None:
    assert box.submit(priority="high").status_code == 202


@pytest.mark.parametrize("scope", Scope)
def test_a_key_that_asks_too_often_is_told_to_wait(open_box: OpenBox, scope: Scope) -> None:
    box = open_box(requests_per_minute=3)
    alice, bob = made(box, scope), made(box)
    assert statuses(box, alice, 3) == [200] * 3
    refused = box.http.get("/v1/jobs", headers=alice)
    assert code(refused) == (429, "rate_limited")
    assert refused.content_type == "application/problem+json"
    assert "3 requests a minute" in refused.get_json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert statuses(box, bob, 1) == [200]


def test_a_key_may_have_a_rate_of_its_own(open_box: OpenBox) -> None:
    box = open_box(requests_per_minute=2)
    slow, fast, free = made(box, requests_per_minute=1), made(box, requests_per_minute=4), made(box, requests_per_minute=0)
    assert statuses(box, slow, 2) == [200, 429]
    assert statuses(box, fast, 5) == [200] * 4 + [429]
    assert statuses(box, free, 10) == [200] * 10


def test_however_many_ask_together_the_rate_gets_through(open_box: OpenBox) -> None:
    box = open_box(requests_per_minute=10)
    alice, app = made(box), box.http.application
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: app.test_client().get("/v1/queue", headers=alice).status_code, range(40)))
    assert (answers.count(200), answers.count(429)) == (10, 30)


def test_probes_and_documentation_have_no_limit(open_box: OpenBox) -> None:
    box = open_box(requests_per_minute=1)
    alice = made(box)
    assert statuses(box, alice, 2) == [200, 429]
    for path in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert statuses(box, alice, 3, path) == [200] * 3


def test_open_access_has_no_limits_between_keys_since_it_has_none(open_box: OpenBox) -> None:
    box = open_box(access="open", requests_per_minute=1, max_jobs_per_key=1)
    assert [box.submit().status_code for _ in range(3)] == [202] * 3


def test_refusals_are_counted_by_route(open_box: OpenBox) -> None:
    box = open_box(requests_per_minute=1)
    alice = made(box)
    for _ in range(3):  # counted once they are sent to the end
        box.http.get("/v1/queue", headers=alice).close()
    told = box.http.get("/metrics", headers=made(box, Scope.ADMIN)).get_data(as_text=True)
    assert 'spillway_http_requests_total{method="GET",route="/v1/queue",status="429"} 2.0' in told


def test_whoever_tries_wrong_keys_is_told_to_stop_and_good_keys_from_there_are_let_in(open_box: OpenBox) -> None:
    box = open_box(wrong_keys_per_minute=3)
    good = made(box)
    wrong = [bearer(new_key()) for _ in range(5)]
    answers = [box.http.get("/v1/queue", headers=headers) for headers in wrong]
    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
    assert code(answers[-1]) == (429, "rate_limited")
    assert "from this address with a wrong API key" in answers[-1].get_json()["detail"]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
    assert statuses(box, good, 5) == [200] * 5
    assert box.http.get("/v1/queue", headers=wrong[0], environ_overrides=ELSEWHERE).status_code == 401


def test_a_revoked_key_counts_as_a_wrong_one(open_box: OpenBox) -> None:
    box = open_box(wrong_keys_per_minute=1)
    key = box.keys.create("alice", Scope.SUBMIT)
    box.keys.revoke(key.id)
    assert statuses(box, bearer(key), 2) == [401, 429]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer hunter2"}], ids=["no key", "what cannot be one"])
def test_what_is_no_key_at_all_is_refused_without_asking_redis(
    redis_server: RedisServer, tmp_path: Path, ffmpeg: str, headers: dict[str, str]
) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg, access="keys", wrong_keys_per_minute=1)
    redis_server.stop()
    assert statuses(box, headers, 3) == [401] * 3
    box.close()


def test_redis_going_away_between_key_and_rate_is_a_503(open_box: OpenBox, redis_server: RedisServer) -> None:
    box = open_box()
    alice = made(box)
    nowhere = Box(redis_server.url, box.folder, "", access="keys")
    redis_server.stop()
    nowhere.keys.verify = box.keys.verify  # type: ignore[method-assign]
    response = nowhere.http.get("/v1/queue", headers=alice)
    assert code(response) == (503, "store_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    nowhere.close()


def test_a_key_with_all_its_jobs_is_told_to_wait_and_leaves_no_upload_behind(open_box: OpenBox) -> None:
    box = open_box(max_jobs_per_key=2)
    alice, bob = made(box), made(box)
    first = box.submit(headers=alice, key="k")
    assert [first.status_code, box.submit(headers=alice).status_code] == [202, 202]
    files = box.stored_files()
    for key in ("", "another"):
        refused = box.submit(headers=alice, key=key)
        assert code(refused) == (429, "too_many_jobs")
        assert int(refused.headers["Retry-After"]) >= 1
        assert box.stored_files() == files
    assert box.submit(headers=alice, key="k").get_json()["id"] == first.get_json()["id"]
    assert box.submit(headers=bob).status_code == 202
    box.http.post(f"/v1/jobs/{first.get_json()['id']}/cancel", headers=alice)
    assert box.submit(headers=alice).status_code == 202


def test_a_key_with_all_its_jobs_is_told_so_before_its_upload(open_box: OpenBox) -> None:
    class Unread:
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

    box = open_box(max_jobs_per_key=1)
    alice = made(box)
    assert box.submit(headers=alice).status_code == 202
    body = {"CONTENT_LENGTH": "1000", "wsgi.input": Unread()}
    refused = box.http.post("/v1/jobs", headers=alice, content_type="multipart/form-data; boundary=b", environ_overrides=body)
    assert code(refused) == (429, "too_many_jobs")


def test_an_admins_jobs_are_limited_by_its_key_alone(open_box: OpenBox) -> None:
    box = open_box(max_jobs_per_key=1)
    free, bound = made(box, Scope.ADMIN), made(box, Scope.ADMIN, max_jobs=2)
    assert [box.submit(headers=free).status_code for _ in range(3)] == [202] * 3
    assert [box.submit(headers=bound).status_code for _ in range(3)] == [202, 202, 429]


def test_a_key_may_have_a_number_of_jobs_of_its_own(open_box: OpenBox) -> None:
    box = open_box(max_jobs_per_key=1)
    many, any_number = made(box, max_jobs=2), made(box, max_jobs=0)
    assert [box.submit(headers=many).status_code for _ in range(3)] == [202, 202, 429]
    assert [box.submit(headers=any_number).status_code for _ in range(3)] == [202] * 3


def test_a_full_queue_is_still_a_503(open_box: OpenBox) -> None:
    box = open_box(max_queued_jobs=1)
    alice = made(box)
    assert box.submit(headers=alice).status_code == 202
    assert code(box.submit(headers=alice)) == (503, "queue_full")


def test_one_key_cannot_hold_all_places_for_uploads(guarded: Box) -> None:
    alice, bob = guarded.keys.create("alice", Scope.ADMIN), guarded.keys.create("bob", Scope.SUBMIT)
    with held(guarded.uploads, alice.id, 2):  # of four
        refused = guarded.submit(headers=bearer(alice))
        assert code(refused) == (429, "too_many_open")
        assert int(refused.headers["Retry-After"]) >= 1
        assert "for one API key, too many uploads" in refused.get_json()["detail"]
        assert guarded.submit(headers=bearer(bob)).status_code == 202
    assert guarded.submit(headers=bearer(alice)).status_code == 202


def test_one_key_cannot_hold_all_event_streams(guarded: Box) -> None:
    alice, bob = made(guarded), made(guarded)

    def watch(headers: dict[str, str]) -> TestResponse:
        job_id = guarded.submit(headers=headers).get_json()["id"]
        return guarded.http.get(f"/v1/jobs/{job_id}/events", headers=headers, buffered=False)

    with watch(alice) as hers, watch(alice) as refused, watch(bob) as his:
        assert (hers.status_code, his.status_code) == (200, 200)
        assert code(refused) == (429, "too_many_open")
        assert "poll GET /v1/jobs/{id}" in refused.get_json()["detail"]
        assert code(guarded.http.get("/v1/jobs/none/events", headers=bob)) == (404, "job_not_found")
    with watch(alice) as again:
        assert again.status_code == 200


@contextmanager
def held(places: Places, key_id: str, count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(places.one(key_id, ""))
        yield


@pytest.mark.parametrize(("count", "most_of_key"), [(1, 1), (2, 1), (3, 1), (4, 2), (61, 30)])
def test_a_key_holds_half_of_the_places_and_at_least_one(count: int, most_of_key: int) -> None:
    places = Places(count, shared=True)
    for _ in range(2):  # what was taken is given back
        with held(places, "a", most_of_key), pytest.raises(TooManyOpen if count > 1 else ServiceBusy), places.one("a", ""):
            pass


def test_places_that_all_are_taken_are_a_busy_service_to_everybody() -> None:
    places = Places(4, shared=True)
    with held(places, "a", 2), held(places, "b", 2):
        for key_id in ("a", "c"):
            with pytest.raises(ServiceBusy), places.one(key_id, ""):
                pass


def test_however_many_want_places_together_the_share_gets_them() -> None:
    places, key_ids = Places(10, shared=True), ["a", "b"] * 20

    def try_to_stay(key_id: str) -> bool:
        try:
            stack.enter_context(places.one(key_id, ""))
        except (ServiceBusy, TooManyOpen):
            return False
        return True

    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        stayed = [key_id for key_id, has_one in zip(key_ids, threads.map(try_to_stay, key_ids), strict=True) if has_one]
    assert (stayed.count("a"), stayed.count("b")) == (5, 5)
