"""Servers on loopback, a bucket among them, and what fetches from them."""

from tests.dispatcher.fetch_box import box, dam, server  # noqa: F401 - fixtures
from tests.dispatcher.http_landing import landing, web  # noqa: F401 - fixtures
from tests.gcs_server import bucket, cloud, cloud_session, connect_storage  # noqa: F401 - fixtures
