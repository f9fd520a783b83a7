"""A service account's key, as Google hands it out in a JSON file."""

import json

from cryptography.exceptions import UnsupportedAlgorithm
from google.oauth2.service_account import Credentials


def credentials_of(key: str) -> Credentials:
    """Able to sign: a key may be read, and be of another kind than Google takes. Raises `ValueError`, which tells nothing of the key."""
    try:
        credentials: Credentials = Credentials.from_service_account_info(json.loads(key))
        credentials.sign_bytes(b"")
    except (AttributeError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no service account's key that can sign") from error
    return credentials
