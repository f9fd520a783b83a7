"""Who may call, and whose jobs they see: every route with a key, without one, and with another's."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from core.api_keys import ApiKey, Scope, new_key
from core.job import ANONYMOUS
from service import events
from tests.conftest import RedisServer
from tests.service.box import Box, commit
from tests.service.test_events import frames

DOCS = {"/openapi.json", "/docs", "/docs/swagger", "/docs/swagger/<path:filename>", "/docs/oauth2-redirect.html"}
PUBLIC = {"/", "/healthz", "/readyz"} | DOCS
ADMINS = {"/metrics"}
OF_A_JOB = {
    ("GET", "/v1/jobs/<job_id>"), ("DELETE", "/v1/jobs/<job_id>"), ("POST", "/v1/jobs/<job_id>/cancel"),
    ("GET", "/v1/jobs/<job_id>/transcript"), ("GET", "/v1/jobs/<job_id>/events"),
    ("GET", "/v1/jobs/<job_id>/deliveries"),
    ("GET", "/v1/jobs/<job_id>/transcript/url"),
}  # fmt: skip


class Client:
    """A holder of a key, or of none."""

    def __init__(self, box: Box, key: ApiKey | None) -> None:
        self.box, self.key = box, key

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key.text}"} if self.key else {}

    def ask(self, method: str, path: str) -> TestResponse:
        return self.box.http.open(path, method=method, headers=self.headers)

    def get(self, path: str) -> TestResponse:
        return self.ask("GET", path)

    def submit(self, idempotency_key: str = "") -> str:
        response = self.box.submit(key=idempotency_key, headers=self.headers)
        assert response.status_code == 202, response.get_data()
        return str(response.get_json()["id"])

    def listed(self, query: str = "") -> list[str]:
        return [job["id"] for job in self.get(f"/v1/jobs{query}").get_json()["jobs"]]


@pytest.fixture
def alice(guarded: Box) -> Client:
    return Client(guarded, guarded.keys.create("alice", Scope.SUBMIT))


@pytest.fixture
def bob(guarded: Box) -> Client:
    return Client(guarded, guarded.keys.create("bob", Scope.SUBMIT))


@pytest.fixture
def admin(guarded: Box) -> Client:
    return Client(guarded, guarded.keys.create("root", Scope.ADMIN))


def routes(box: Box) -> Iterator[tuple[str, str]]:
    app: Flask = box.http.application
    for rule in app.url_map.iter_rules():
        yield from ((method, rule.rule) for method in sorted(rule.methods or ()))


def path_of(rule: str, job_id: str = "0" * 32) -> str:
    return rule.replace("<job_id>", job_id).replace("<path:filename>", "js/swagger-ui-bundle.js")


def test_every_route_needs_a_key_or_is_on_the_list(guarded: Box) -> None:
    stranger = Client(guarded, None)
    for method, rule in routes(guarded):
        with stranger.ask(method, path_of(rule)) as response:
            assert (response.status_code == 401) == (rule not in PUBLIC), (method, rule)


def test_every_route_takes_any_key_or_is_an_admins(guarded: Box, alice: Client, admin: Client) -> None:
    for method, rule in routes(guarded):
        if method == "OPTIONS":
            continue
        with alice.ask(method, path_of(rule)) as submitters, admin.ask(method, path_of(rule)) as admins:
            assert (submitters.status_code == 403) == (rule in ADMINS), (method, rule)
            assert admins.status_code not in (401, 403), (method, rule)


def test_what_is_not_there_tells_a_stranger_nothing(guarded: Box, alice: Client) -> None:
    assert Client(guarded, None).get("/nowhere").status_code == 401
    assert Client(guarded, None).ask("PUT", "/v1/jobs").status_code == 401
    assert alice.get("/nowhere").status_code == 404


def test_a_refusal_says_how_to_get_in(guarded: Box, alice: Client) -> None:
    stranger = guarded.http.get("/v1/jobs")
    problem = stranger.get_json()
    assert (stranger.status_code, problem["code"], stranger.headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
    assert "Authorization: Bearer <key>" in problem["detail"]
    assert "python -m service.keys create NAME" in problem["detail"]
    forbidden = alice.get("/metrics")
    assert (forbidden.status_code, forbidden.get_json()["code"]) == (403, "forbidden")
    assert "`python -m service.keys create NAME --scope admin`" in forbidden.get_json()["detail"]
    assert "WWW-Authenticate" not in forbidden.headers


def test_the_guarded_routes_of_a_job_are_those_that_are_tested_below(guarded: Box) -> None:
    assert {(method, rule) for method, rule in routes(guarded) if "<job_id>" in rule} - OF_A_JOB == {
        (method, rule) for _, rule in OF_A_JOB for method in ("HEAD", "OPTIONS") if (method, rule) in set(routes(guarded))
    }


@pytest.mark.parametrize(("method", "rule"), sorted(OF_A_JOB))
def test_anothers_job_is_not_there(alice: Client, bob: Client, admin: Client, method: str, rule: str) -> None:
    job_id = alice.submit()
    commit(alice.box.jobs, alice.box.files, alice.box.claim())
    nowhere, anothers = bob.ask(method, path_of(rule)), bob.ask(method, path_of(rule, job_id))
    assert anothers.status_code == 404
    assert anothers.get_json() | {"detail": ""} == nowhere.get_json() | {"detail": ""}
    assert anothers.get_json()["detail"] == nowhere.get_json()["detail"].replace("0" * 32, job_id)
    assert alice.get(f"/v1/jobs/{job_id}/transcript").status_code == 200
    with admin.ask(method, path_of(rule, job_id)) as admins:
        assert admins.is_streamed or admins.status_code in (200, 204)


def test_another_cannot_cancel_a_job_that_waits(alice: Client, bob: Client) -> None:
    job_id = alice.submit()
    assert bob.ask("POST", f"/v1/jobs/{job_id}/cancel").status_code == 404
    assert alice.get(f"/v1/jobs/{job_id}").get_json()["state"] == "queued"
    assert alice.ask("POST", f"/v1/jobs/{job_id}/cancel").get_json()["state"] == "cancelled"


def test_each_lists_its_own_and_an_admin_all(alice: Client, bob: Client, admin: Client) -> None:
    hers, his = [alice.submit() for _ in range(3)], [bob.submit()]
    alice.ask("POST", f"/v1/jobs/{hers[1]}/cancel")
    assert (sorted(alice.listed()), bob.listed()) == (sorted(hers), his)
    assert (alice.listed("?state=cancelled"), bob.listed("?state=cancelled")) == ([hers[1]], [])
    assert sorted(admin.listed()) == sorted(hers + his)


def test_a_cursor_leads_through_ones_own_jobs_only(alice: Client, bob: Client) -> None:
    hers = []
    for _ in range(3):
        hers.append(alice.submit())
        bob.submit()
    page = alice.get("/v1/jobs?limit=2").get_json()
    assert len(page["jobs"]) == 2
    assert sorted([job["id"] for job in page["jobs"]] + alice.listed(f"?cursor={page['next']}")) == sorted(hers)
    refused = bob.get(f"/v1/jobs?cursor={page['next']}")
    assert (refused.status_code, refused.get_json()["field"]) == (422, "cursor")


def test_an_idempotency_key_is_ones_own(alice: Client, bob: Client) -> None:
    assert alice.submit("k") == alice.submit("k") != bob.submit("k")


def test_claims_are_fair_between_the_keys_that_sent_the_jobs(alice: Client, bob: Client) -> None:
    for _ in range(4):
        alice.submit()
    his = bob.submit()
    claimed = [alice.box.claim() for _ in range(2)]
    assert his in [job.id for job in claimed]
    assert {job.key_id for job in claimed} == {client.key.id for client in (alice, bob) if client.key}


def test_a_revoked_key_is_refused_from_the_next_call_on(alice: Client) -> None:
    assert alice.get("/v1/jobs").status_code == 200
    assert alice.key
    alice.box.keys.revoke(alice.key.id)
    assert alice.get("/v1/jobs").status_code == 401


def test_a_revoked_keys_stream_ends(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_AGAIN_S", 0.05)
    with alice.box.http.get(f"/v1/jobs/{alice.submit()}/events", headers=alice.headers, buffered=False) as response:
        stream = frames(response)
        assert "event: job" in next(stream)
        assert alice.key
        alice.box.keys.revoke(alice.key.id)
        ended = threading.Thread(target=lambda: list(stream))
        ended.start()
        ended.join(timeout=10)
        assert not ended.is_alive()


def test_a_key_is_a_guard_by_itself_whatever_the_host_and_the_page(alice: Client) -> None:
    headers = {**alice.headers, "Host": "spillway.example", "Origin": "https://evil.example"}
    response = alice.box.http.get("/v1/jobs", headers=headers)
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


def test_the_log_says_whose_call_it_was_and_shows_no_key(alice: Client) -> None:
    assert alice.key
    with capture_logs() as logs:
        alice.get("/v1/queue").close()
    (line,) = [line for line in logs if line["event"] == "request"]
    assert line["key_id"] == alice.key.id
    assert alice.key.secret not in str(logs)


def test_a_refused_upload_is_not_read(guarded: Box) -> None:
    class Unread:
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

    body = {"CONTENT_LENGTH": "1000", "wsgi.input": Unread()}
    response = guarded.http.post("/v1/jobs", content_type="multipart/form-data; boundary=b", environ_overrides=body)
    assert response.status_code == 401


def test_without_redis_no_key_is_good_but_probes_answer(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg, access="keys")
    client = Client(box, box.keys.create("alice", Scope.ADMIN))
    redis_server.stop()
    assert (client.get("/v1/jobs").status_code, client.get("/v1/jobs").get_json()["code"]) == (503, "store_unavailable")
    assert Client(box, None).get("/healthz").status_code == 200
    readiness = Client(box, None).get("/readyz").get_json()
    assert (readiness["ready"], readiness["reasons"], readiness["models"]["state"]) == (False, ["Redis does not answer"], "unknown")
    box.close()


def test_the_documentation_asks_for_a_key_where_one_is_needed(guarded: Box, box: Box) -> None:
    described = guarded.http.get("/openapi.json").get_json()
    assert described["security"] == [{"api_key": []}]
    assert described["components"]["securitySchemes"]["api_key"] == {"type": "http", "scheme": "bearer"}
    assert [path for path, item in described["paths"].items() if item.get("get", {}).get("security") == []] == ["/healthz", "/readyz"]
    assert "security" not in box.http.get("/openapi.json").get_json()


def test_in_open_access_everybody_is_the_same_caller_and_sees_all(box: Box) -> None:
    job_id = box.submitted()
    assert box.jobs.get(job_id).key_id == ANONYMOUS
    assert box.http.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"}).get_json()["jobs"][0]["id"] == job_id
    assert box.http.get("/metrics").status_code == 200


KEY = new_key().text
ODDITIES = {
    "nothing": [""],
    "the scheme alone": ["Bearer"],
    "the scheme and blanks": ["Bearer   "],
    "the key alone": [KEY],
    "another scheme": [f"Basic {KEY}"],
    "an unknown key": [f"Bearer {KEY}"],
    "two headers": [f"Bearer {KEY}", f"Bearer {KEY}"],
    "two keys in one": [f"Bearer {KEY}, Bearer {KEY}"],
    "something behind it": [f"Bearer {KEY} x"],
    "Latin-1": ["Bearer spillway_ééééééééééééé"],
    "UTF-8 read as Latin-1": ["Bearer " + "٠١٢".encode().decode("latin-1")],
    "control characters": ["Bearer \x00\x01\x7f"],
    "10 kB": ["Bearer " + "a" * 10_000],
    "10 kB of key": [f"Bearer {KEY}" + "a" * 10_000],
    "a tab": [f"Bearer\t{KEY}"],
}


@pytest.mark.parametrize("values", ODDITIES.values(), ids=ODDITIES.keys())
def test_an_odd_header_is_a_refusal_like_any_other(guarded: Box, values: list[str]) -> None:
    # As gunicorn hands over headers that came more than once.
    response = guarded.http.get("/v1/jobs", environ_overrides={"HTTP_AUTHORIZATION": ",".join(values)})
    assert (response.status_code, response.get_json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
def test_the_scheme_is_read_as_the_standard_has_it(alice: Client, form: str) -> None:
    assert alice.key
    headers = {"Authorization": form.format(alice.key.text)}
    assert alice.box.http.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["[", "a b", "", "[::1", "evil.example:99999999", "\xff"])
def test_an_odd_host_is_no_fault_of_ours(alice: Client, host: str) -> None:
    response = alice.box.http.get("/v1/jobs", headers=alice.headers, environ_overrides={"HTTP_HOST": host})
    assert response.status_code < 500
