"""What is said of Google's refusals: the right reason, and no address that opens something."""

from collections.abc import Callable
from io import BytesIO

import pytest

from core.errors import BucketDenied, ObjectRefused, SpillwayError
from core.gcs import PIECE_BYTES, CloudStorage, Patience
from core.gs_address import Place
from tests.core.test_gcs import refusal
from tests.gcs_server import EMAIL, CloudServer, Fault

SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=1.5)


@pytest.fixture
def storage(connect_storage: Callable[..., CloudStorage]) -> CloudStorage:
    return connect_storage(patience=SHORT)


@pytest.mark.parametrize("status", [400, 410, 308])
def test_no_message_holds_the_address_of_an_upload(storage: CloudStorage, cloud: CloudServer, bucket: str, status: int) -> None:
    cloud.faults = [Fault("PUT .*upload_id=", 99, refusal(status, "no more"))]
    with pytest.raises(SpillwayError, match=f"{status} PUT") as caught:
        storage.upload(Place(bucket, "talk.wav"), BytesIO(bytes(PIECE_BYTES + 1)), replaces=False)
    assert "upload_id" not in str(caught.value)


@pytest.mark.parametrize("name", ["billing/md5.wav", "quotaExceeded/checksum.wav"])
def test_the_name_of_an_object_is_not_taken_for_googles_word(storage: CloudStorage, cloud: CloudServer, bucket: str, name: str) -> None:
    cloud.faults = [Fault("/o/", 99, refusal(403, f"{EMAIL} does not have storage.objects.get access to the object."))]
    with pytest.raises(BucketDenied, match=r"lacks storage\.objects\.get"):
        storage.look_up(Place(bucket, name))


def test_an_object_whose_key_google_does_not_have_is_refused(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "locked.wav", b"content")
    cloud.faults = [Fault("/o/", 99, alters=lambda told: told.replace(b'"crc32c"', b'"none"').replace(b'"md5Hash"', b'"none"'))]
    with pytest.raises(ObjectRefused, match="encrypted with a key that its sender keeps"):
        storage.look_up(Place(bucket, "locked.wav"))


@pytest.mark.parametrize(
    "said",
    [
        "Object 'a/billing.wav' is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until",
        "Object 'a/billing.wav' is under active Temporary hold and cannot be deleted, overwritten or archived until hold is removed.",
    ],
)
def test_what_a_bucket_has_to_keep_is_no_missing_permission(storage: CloudStorage, cloud: CloudServer, bucket: str, said: str) -> None:
    cloud.faults = [Fault("DELETE ", 99, refusal(403, said, "retentionPolicyNotMet"))]
    with pytest.raises(BucketDenied, match="a retention policy or a hold keeps it"):
        storage.delete(Place(bucket, "billing.wav"))
