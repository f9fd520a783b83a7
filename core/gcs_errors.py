"""What Google Cloud Storage and its client say when something is wrong, as errors of ours that say what to do."""

import re

import requests
import urllib3
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.exceptions import GoogleCloudError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from core.errors import BucketDenied, StorageDenied, StorageUnavailable
from core.gs_address import Place

# Whatever the client lets through, retries included: its transport's errors come as they are.
FOREIGN = (
    api.GoogleAPIError,
    GoogleCloudError,
    auth.GoogleAuthError,
    DataCorruption,
    InvalidResponse,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)
ROLES = {
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.list": "roles/storage.objectViewer",
    "storage.objects.create": "roles/storage.objectCreator",
}
EVERY_ROLE = "roles/storage.objectUser"  # what the file store's own bucket needs
KEPT = re.compile(r"subject to bucket's retention policy|retentionPolicyNotMet|under active \S+ hold", re.IGNORECASE)
QUOTA = re.compile(r"rateLimitExceeded|quotaExceeded", re.IGNORECASE)
PROJECT = re.compile(r"userProject|UserProject|requester pays|accountDisabled|billing", re.IGNORECASE)
DAMAGED = re.compile(r"crc32c|md5|checksum", re.IGNORECASE)
PERMISSION = re.compile(r"storage\.[a-z]+\.[A-Za-z]+")
ACCOUNT = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
# Holds the object's name, which can be any of the words above, and an upload's own id: who has that may send in our place.
URL = re.compile(r"(https?://|(?<=url: )/)\S*")
SAID_CHARACTERS = 300  # of Google's own words


def translated(error: Exception, place: Place, account: str) -> Exception:
    """`account` is whom we are known as, as far as we know."""
    cause = getattr(error, "cause", None) or error  # what the last of several tries met
    said = _said(cause)[:SAID_CHARACTERS]
    if isinstance(cause, api.NotFound):
        return FileNotFoundError(f"there is no {place}")
    if isinstance(cause, api.PreconditionFailed):
        return FileExistsError(f"{place} is not what it was expected to be")
    if isinstance(cause, api.Forbidden | api.BadRequest):
        return _refusal(cause, place, account)
    if isinstance(cause, api.Unauthorized) or (isinstance(cause, auth.GoogleAuthError) and not _passes(cause)):
        return StorageDenied(f"Google does not take our credentials for {place}: {_remedy(cause)} ({said})")
    return StorageUnavailable(f"Google Cloud Storage cannot be reached, or did not do it, at {place}: {said}")


def no_bucket(place: Place) -> BucketDenied:
    return BucketDenied(f"there is no bucket {place.bucket}, or not under this name: create it, or correct the address")


def _refusal(error: api.GoogleAPICallError, place: Place, account: str) -> Exception:
    said = _said(error)
    if KEPT.search(said):  # first: it names the object, whatever that is called
        return BucketDenied(f"{place} cannot be deleted or replaced yet, a retention policy or a hold keeps it: use a bucket without one")
    if QUOTA.search(said):
        return StorageUnavailable(f"Google Cloud Storage's quota is used up for the moment, at {place}")
    if DAMAGED.search(said):
        return StorageUnavailable(f"{place} arrived damaged: its checksum is another")
    if PROJECT.search(said):
        return BucketDenied(
            f"the bucket of {place} belongs to a project that does not let us use it (requester pays, or billing is off):"
            " use a bucket of a project in good standing"
        )
    if isinstance(error, api.BadRequest):
        return BucketDenied(f"Google Cloud Storage refuses the request for {place}: {said[:SAID_CHARACTERS]}")
    named, permission = ACCOUNT.search(said), PERMISSION.search(said)
    who = named[0] if named else account
    role = ROLES.get(permission[0], EVERY_ROLE) if permission else EVERY_ROLE
    what = permission[0] if permission else "the permission"
    return BucketDenied(f"{who} lacks {what} for {place}: grant it {role} on bucket {place.bucket}")


def _said(error: Exception) -> str:
    return URL.sub("…", str(error))


def _passes(error: auth.GoogleAuthError) -> bool:
    return isinstance(error, auth.TransportError) or bool(error.retryable)


def _remedy(error: Exception) -> str:
    if isinstance(error, auth.DefaultCredentialsError):
        return "there are none on this machine; set SPILLWAY_GCS_CREDENTIALS_FILE, or run where a service account is attached"
    return "they have expired, or the key was deleted or disabled; make a new key, or log in again, and start anew"
