"""A Redis that answers, and does not let us in or do as we ask."""

import pytest

from core.errors import StoreUnavailable
from core.job_store import JobStore
from core.redis_steps import connect
from tests.conftest import RedisServer
from tests.core.jobs import new_job


def test_a_redis_whose_password_was_changed_says_what_to_look_at(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as admin, connect(redis_server.url, retries=0) as later:
        admin.config_set("requirepass", "another")
        store = JobStore(later)
        assert store.fault() == "Redis refuses our password"
        with pytest.raises(StoreUnavailable, match="see that SPILLWAY_REDIS_URL has it"):
            store.get("x")


def test_a_redis_that_denies_us_a_command_is_waited_for(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as redis:
        redis.acl_setuser("default", enabled=True, reset=False, commands=["-evalsha"])
        with pytest.raises(StoreUnavailable, match="no permissions to run the 'evalsha' command"):
            JobStore(redis).submit(new_job(), max_queued=1)
