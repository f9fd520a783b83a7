from tests.gcs_server import cloud_session  # noqa: F401 - a fixture
