"""The whole of Spillway, whose processes die where they are told, and one client that does not take silence for an answer."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from redis import Redis

from core.retention import Kept
from tests.conftest import wait_for
from tests.dispatcher.source_server import SourceServer, Visit, file
from tests.gcs_server import CloudServer
from tests.scripted import ScriptedStack
from tests.worker.box import wav
from tools.crash_at import killable
from tools.crash_orders import Blow, CrashOrders, Moment, Strike

RECORDING = wav(1.0)
LEASE_S = 1.5
PATIENCE_S = 30.0
POLL_S = 0.1  # every look costs the processes that it waits for
SETTINGS = {
    "SPILLWAY_LEASE_S": str(LEASE_S),
    "SPILLWAY_HEARTBEAT_S": "0.5",
    "SPILLWAY_SWEEP_PERIOD_S": "0.1",
    "SPILLWAY_STOP_GRACE_S": "0",
    "SPILLWAY_MAX_LOSSES": "20",  # two slow cores may cost a lease now and then
    "SPILLWAY_FETCH_ALLOW": "127.0.0.1/32",
    "SPILLWAY_CALLBACK_ALLOW": "127.0.0.1/32",
    "SPILLWAY_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
PREFIX = "spillway"
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Bucket:
    cloud: CloudServer
    name: str


class CrashStack(ScriptedStack):
    """A context: inside it `orders` says who dies where, and `outside` is the web that sources and webhooks are on."""

    def __init__(self, folder: Path, bucket: Bucket, *, is_store: bool) -> None:
        """Its files are in the bucket if `is_store`; outputs are written beside them."""
        self.orders = CrashOrders(folder / "orders")
        self._files, self._bucket, self._is_store = folder / "files", bucket, is_store
        place = {"SPILLWAY_FILE_STORE": f"gs://{bucket.name}/{PREFIX}"} if is_store else {}
        super().__init__(folder, SETTINGS | place, launched=lambda program: killable(program, self.orders))

    def __enter__(self) -> "CrashStack":
        self.released = threading.Event()  # lets go of what hangs outside
        self.outside = SourceServer(
            {
                "/talk.wav": file(RECORDING),
                "/noise": lambda visit: visit.say(200, b"no recording"),
                "/missing": lambda visit: visit.say(404),
                "/unhurried.wav": _unhurried(file(RECORDING)),
                "/endless.wav": self._hang,
                "/hook": lambda visit: visit.say(204),
                "/unhurried-hook": _unhurried(lambda visit: visit.say(204)),
            }
        )
        self.outside.__enter__()
        super().__enter__()
        self.http = httpx.Client(base_url=self.stack.url, trust_env=False, timeout=10.0)
        self.redis = Redis.from_url(self.stack.redis_url, decode_responses=True)
        return self

    def __exit__(self, *raised: Any) -> None:
        self.released.set()
        self.http.close()
        self.redis.close()
        super().__exit__(*raised)
        self.outside.__exit__(None, None, None)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Its answer, however often the service dies before it gives one."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.http.request(method, path, **request)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def send(self, recording: bytes = RECORDING, *, key: str | None = None, **options: Any) -> dict[str, Any]:
        """A job whose submit was repeated under one Idempotency-Key until it was acknowledged."""
        key = key or uuid4().hex
        form = {"metadata": json.dumps({"key": key, "script": options.pop("script", {})}), **options}
        return self._accepted(key, files={"file": ("talk.wav", recording)}, data=form)

    def name(self, path: str, **options: Any) -> dict[str, Any]:
        """The same with a source, whose query is the key."""
        key = uuid4().hex
        source = self.outside.url(f"{path}?{key}")
        return self._accepted(key, json={"source": source, "metadata": {"key": key, "script": {}}, **options})

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/v1/jobs/{job_id}").json())

    def ended(self, job_id: str) -> dict[str, Any]:
        self.reaches(job_id, *ENDED)
        return self.job(job_id)

    def reaches(self, job_id: str, *states: str) -> None:
        what = f"job {job_id} to be {' or '.join(states)}"
        wait_for(lambda: self.job(job_id)["state"] in states, what, timeout_s=PATIENCE_S, every_s=POLL_S)

    def jobs_of(self, key: str) -> list[str]:
        page = self.ask("GET", "/v1/jobs", params={"limit": 50}).json()
        return [job["id"] for job in page["jobs"] if job["metadata"].get("key") == key]

    def text(self, job_id: str) -> str:
        return self.ask("GET", f"/v1/jobs/{job_id}/transcript", params={"format": "txt"}).text

    def was_asked(self, job_id: str) -> bool:
        """Whether the server of its source was."""
        return any(asked.path.endswith(self.job(job_id)["metadata"]["key"]) for asked in list(self.outside.asked))

    def hooks(self, job_id: str) -> list[tuple[str, str]]:
        """What the receiver heard of a job: event id and type."""
        heard = [(asked.headers.get("webhook-id", ""), asked.content) for asked in list(self.outside.asked) if "hook" in asked.path]
        events = [(event_id, json.loads(content)) for event_id, content in heard]
        return [(event_id, event["type"]) for event_id, event in events if event["data"]["id"] == job_id]

    def journal_of(self, job_id: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []
        return [line for line in lines if line["job"] == job_id]

    def struck(self, moment: Moment) -> Strike:
        """Once it has been."""
        wait_for(lambda: self._strikes(moment), f"somebody to pass {moment}", timeout_s=PATIENCE_S)
        return self._strikes(moment)[-1]

    def freeze(self, moment: Moment) -> Callable[[Callable[[], object]], None]:
        """Orders it; what comes back acts once a process has frozen there, and lets it go on."""
        before = len(self._strikes(moment))
        self.orders.order(moment, Blow.FREEZE)

        def while_frozen(act: Callable[[], object]) -> None:
            wait_for(lambda: len(self._strikes(moment)) > before, f"somebody to freeze at {moment}", timeout_s=PATIENCE_S)
            try:
                act()
            finally:
                os.kill(self._strikes(moment)[-1].pid, signal.SIGCONT)

        return while_frozen

    def terminate(self, process: str) -> None:
        """The life itself, not what begins the next."""
        os.kill(self.pid(process), signal.SIGTERM)

    def pid(self, process: str) -> int:
        """Of the life that is lived now."""
        children = Path(f"/proc/{self.stack.pid(process)}/task/{self.stack.pid(process)}/children")
        wait_for(lambda: children.read_text(), f"the next life of the {process}")
        return int(children.read_text().split()[0])

    def unrest(self) -> dict[str, Any]:
        """What Redis holds that it must not hold once every job has ended."""
        found: dict[str, Any] = {}
        for place in ("leases", "fetching", "outbox", "undelivered", *(f"pending:{each}" for each in ("high", "normal", "low"))):
            found[place] = self.redis.zcard(f"spillway:{place}")
        for pattern in ("lane:*", "lanes:*", "slot:*", "unfinished:*"):
            found[pattern] = len(list(self.redis.scan_iter(f"spillway:{pattern}")))
        found |= {str(name): int(ms) for name, ms in self.redis.hgetall("spillway:totals").items()}
        return {name: value for name, value in found.items() if value}

    def comes_to_rest(self) -> None:
        try:
            wait_for(lambda: not self.unrest(), "the queue to be empty", timeout_s=PATIENCE_S, every_s=POLL_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.unrest()}") from None

    def orphans(self) -> set[str]:
        """Jobs of which the file store holds something, and which there is no record of."""
        ids = {key.split("/")[1] for key in self.stored() if key.startswith("jobs/")}
        return {job_id for job_id in ids if not self.redis.exists(f"spillway:job:{job_id}")}

    def stored(self) -> set[str]:
        """Keys of what is in the file store."""
        if self._is_store:
            return {name.removeprefix(f"{PREFIX}/") for name in self._bucket.cloud.names(self._bucket.name)}
        found = os.walk(self._files / "jobs")  # which lets folders go meanwhile
        return {os.path.relpath(Path(path, name), self._files) for path, folders, names in found for name in (*folders, *names)}

    def stored_of(self, job_id: str) -> set[str]:
        """What there is of a job: `input`, `products`, `transcript`."""
        return {key.split("/")[2].partition("-")[0] for key in self.stored() if key.startswith(f"jobs/{job_id}/")}

    def leave(self, key: str) -> None:
        """A file in a job's folder that no record names."""
        if self._is_store:
            self._bucket.cloud.put(self._bucket.name, f"{PREFIX}/{key}", b"left")
        else:
            (self._files / key).write_bytes(b"left")

    @property
    def outputs(self) -> str:
        return f"gs://{self._bucket.name}/outputs"

    def written_outside(self, job_id: str) -> dict[str, str]:
        """Format → what was written in it."""
        prefix = f"outputs/{job_id}."
        names = [name for name in self._bucket.cloud.names(self._bucket.name) if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._bucket.cloud.content(self._bucket.name, name).decode() for name in names}

    def runs_out(self, kept: Kept, job_id: str) -> None:
        """As if its lifetime had passed: nobody sleeps here."""
        assert self.redis.zadd(f"spillway:kept:{kept}", {job_id: 1.0}, xx=True, ch=True) == 1

    def is_kept(self, kept: Kept, job_id: str) -> bool:
        return self.redis.zscore(f"spillway:kept:{kept}", job_id) is not None

    def half_files(self) -> int:
        """Left by processes that died while they wrote them: the next that starts a day later takes them away."""
        return len(list(self._files.glob("partial/*")))

    def counted(self, *names: str) -> int:
        return sum(int(value or 0) for value in self.redis.hmget("spillway:counters", names))

    def forget_all(self) -> set[str]:
        """Deletes every job, as a client would; what is still known of any in Redis."""
        while page := self.ask("GET", "/v1/jobs").json()["jobs"]:
            for job in page:
                self.ask("DELETE", f"/v1/jobs/{job['id']}")
        return {
            key
            for key in map(str, self.redis.scan_iter("spillway:*"))
            if re.match(r"spillway:(job|delivery|jobs|outbox|undelivered)\b", key)
        }

    def _accepted(self, key: str, **request: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/jobs", headers={"Idempotency-Key": key}, **request)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def _hang(self, visit: Visit) -> None:
        self.released.wait(PATIENCE_S)
        visit.say(404)

    def _strikes(self, moment: Moment) -> list[Strike]:
        return [strike for strike in self.orders.strikes() if strike.moment == moment]


def attempt_of(text: str) -> int:
    """Whose transcript it is."""
    found = re.search(r"attempt (\d+)", text)
    assert found is not None, text
    return int(found[1])


def _unhurried(answer: Callable[[Visit], None]) -> Callable[[Visit], None]:
    """Takes longer than a beat."""

    def slowly(visit: Visit) -> None:
        time.sleep(1.0)
        answer(visit)

    return slowly
