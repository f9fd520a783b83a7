"""V4 signatures of Google Cloud Storage, checked as its documentation describes them and not by the client that makes them."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256


def is_signed(method: str, target: str, headers: dict[str, str], public_key: Any) -> bool:
    """Whether the address, the method and the headers that it signs are what the key signed, and its time is not over."""
    address = urlsplit(target)
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    signature = bytes.fromhex(query.pop("X-Goog-Signature"))
    given = {name.lower(): value.strip() for name, value in headers.items()}
    names = query["X-Goog-SignedHeaders"].split(";")
    if any(name not in given for name in names) or _is_over(query):
        return False
    pairs = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    lines = [method, address.path, pairs, *(f"{name}:{given[name]}" for name in names), "", ";".join(names), "UNSIGNED-PAYLOAD"]
    scope = query["X-Goog-Credential"].split("/", 1)[1]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    try:
        public_key.verify(signature, "\n".join(("GOOG4-RSA-SHA256", query["X-Goog-Date"], scope, digest)).encode(), PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _is_over(query: dict[str, str]) -> bool:
    begun = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return datetime.now(UTC) > begun + timedelta(seconds=int(query["X-Goog-Expires"]))
