"""Times as they are shown: RFC 3339, UTC."""

from datetime import UTC, datetime


def rfc3339(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
