"""Addresses in Google Cloud Storage: `gs://bucket/name`."""

import re
from dataclasses import dataclass
from typing import Self

from core.errors import InvalidRequest

ADDRESS = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^\x00-\x1f\x7f]*)?"
LONGEST_NAME = 1024  # bytes of UTF-8, Google's own limit


@dataclass(frozen=True)
class Place:
    """An object, or what begins the names of many."""

    bucket: str
    name: str

    @classmethod
    def parse(cls, address: str, *, field: str | None = None) -> Self:
        """Raises `InvalidRequest`."""
        bucket, _, name = address.removeprefix("gs://").partition("/")
        name = name.rstrip("/")
        if not re.fullmatch(ADDRESS, address) or len(name.encode()) > LONGEST_NAME or name in (".", ".."):
            raise InvalidRequest("not an address in Google Cloud Storage: write gs://bucket/name", field=field)
        return cls(bucket, name)

    def under(self, name: str) -> "Place":
        return Place(self.bucket, f"{self.name}/{name}" if self.name else name)

    def is_within(self, folder: "Place") -> bool:
        """Also when it is the folder itself."""
        return self.bucket == folder.bucket and (not folder.name or f"{self.name}/".startswith(f"{folder.name}/"))

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}"
