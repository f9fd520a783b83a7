"""A deliverer with all that it works with, and jobs that have ended."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from core.file_store import result_key
from core.job import JobFailure, JobOptions, NewJob
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.local_file_store import LocalFileStore
from core.outbox import Delivery, DeliveryKind, DeliveryState, Outbox
from core.redis_steps import connect
from dispatcher.delivering import Deliverer, Limits
from dispatcher.guard import Guard
from dispatcher.sending import Send
from dispatcher.webhooks import WebhookSender
from tests.conftest import wait_for
from tests.service.box import TRANSCRIPT

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RUNNER = Runner("slot", "boot")


class DeliveryBox:
    """A dispatcher's deliverer with all that it works with, stepped by the test."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.redis = connect(redis_url, retries=0)
        self.jobs, self.folder = JobStore(self.redis), folder
        self.outbox, self.files = Outbox(self.redis, self.jobs), LocalFileStore(folder)
        self.senders: dict[DeliveryKind, Send] = {DeliveryKind.WEBHOOK: WebhookSender(Guard(("127.0.0.0/8",)), (SECRET,))}
        self.made = list[Deliverer]()

    def deliverer(self, owner: str = "me", *, lease_s: float = 60.0, most_at_once: int = 4, pause_s: float = 0.0) -> Deliverer:
        lease, limits = Lease(owner, lease_s, 3), Limits(most_at_once, lease_s / 4)
        self.made.append(Deliverer(self.outbox, self.senders, lease, limits=limits, pause_s=lambda _tries: pause_s))
        return self.made[-1]

    def ended(self, *targets: str, kind: str = "webhook", has_transcript: bool = True) -> str:
        """The id of a job that has ended and owes something to each target."""
        owed = tuple({"kind": kind, "target": target, "host": urlsplit(target).hostname} for target in targets)
        job = NewJob(id=uuid4().hex, filename="talk.wav", duration_s=2.0, input_key="i", options=JobOptions(), deliveries=owed)
        self.jobs.submit(job, max_queued=1000)
        running = self.jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
        assert running is not None
        if has_transcript:
            self.files.write(result_key(job.id, 1), TRANSCRIPT.model_dump_json().encode())
            self.jobs.succeed(running, result_key=result_key(job.id, 1))
        else:
            self.jobs.fail(running, JobFailure(code="invalid_media", message="broken"))
        return job.id

    def delivery(self, job_id: str) -> Delivery:
        return self.outbox.of_job(self.jobs.get(job_id))[0]

    def stepped(self, deliverer: Deliverer, is_so: Callable[[], object], what: str) -> None:
        def step() -> object:
            deliverer.step()
            return is_so()

        wait_for(step, what)

    def settled(self, deliverer: Deliverer, job_id: str) -> Delivery:
        self.stepped(deliverer, lambda: self.delivery(job_id).state != DeliveryState.PENDING, "the delivery to end")
        return self.delivery(job_id)

    def tried(self, deliverer: Deliverer, job_id: str, times: int = 1) -> Delivery:
        self.stepped(deliverer, lambda: len(self.delivery(job_id).attempts) >= times, f"{times} tries")
        return self.delivery(job_id)

    def close(self) -> None:
        for deliverer in self.made:
            deliverer.close()
        self.redis.close()
