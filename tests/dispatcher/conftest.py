"""A bucket on loopback, for sources in it and for files in it."""

from tests.gcs_server import bucket, cloud, cloud_session, connect_storage  # noqa: F401 - fixtures
