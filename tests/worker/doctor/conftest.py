"""A bucket on loopback, for the doctor's line about it."""

from tests.gcs_server import bucket, cloud, cloud_session  # noqa: F401 - fixtures
