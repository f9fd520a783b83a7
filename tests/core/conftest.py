from collections.abc import Iterator

import pytest

from core.job_store import JobStore
from core.redis_steps import RedisClient, connect
from tests.gcs_server import bucket, cloud, cloud_session, connect_storage, key, private_key  # noqa: F401 - fixtures


@pytest.fixture
def redis(redis_url: str) -> Iterator[RedisClient]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def store(redis: RedisClient) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def quick_redis(redis: RedisClient) -> Iterator[RedisClient]:
    """Without an fsync for every write, for tests that write very often and lose nothing."""
    redis.config_set("appendfsync", "no")
    yield redis
    redis.config_set("appendfsync", "always")
