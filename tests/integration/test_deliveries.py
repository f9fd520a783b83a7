"""What a job owes to the outside when it has ended, through all processes."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from core.render import Format
from tests.conftest import wait_for
from tests.dispatcher.source_server import SourceServer
from tests.gcs_server import CloudServer
from tests.scripted import ScriptedStack

OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_dGhlIG5leHQgc2VjcmV0IG9mIHRoZSBib3g="


@pytest.fixture
def scripted(cloud: CloudServer, tmp_path: Path) -> Iterator[ScriptedStack]:  # noqa: ARG001 - the client of Google asks the environment
    settings = {"SPILLWAY_WEBHOOK_SECRET": f"{NEW},{OLD}", "SPILLWAY_CALLBACK_ALLOW": "127.0.0.1/32"}
    with ScriptedStack(tmp_path, settings) as running:
        yield running


def test_a_job_is_written_to_its_bucket_and_its_receiver_hears_of_it(scripted: ScriptedStack, cloud: CloudServer, bucket: str) -> None:
    with SourceServer({"/hook": lambda visit: visit.say(204)}) as receiver:
        job = scripted.submit(output=f"gs://{bucket}/talks", callback_url=receiver.url("/hook"))
        assert scripted.client.wait(job.id).state == "succeeded"

        def states() -> set[str]:
            shown = httpx.get(f"{scripted.stack.url}/v1/jobs/{job.id}/deliveries", trust_env=False).json()
            return {delivery["state"] for delivery in shown["deliveries"]}

        wait_for(lambda: states() == {"delivered"}, "both to be delivered")
    assert cloud.names(bucket) == sorted(f"talks/{job.id}.{form}" for form in Format)
    for form in Format:
        assert cloud.content(bucket, f"talks/{job.id}.{form}").decode() == scripted.client.transcript(job.id, format=form)
    (heard,) = receiver.asked
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(heard.content, heard.headers)["data"]["id"] == job.id
