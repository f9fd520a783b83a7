"""The whole job store under whatever comes in whatever order: clients, runners, dispatchers, a bridge to Modal, zombies, lost replies."""

from functools import partial

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from core.redis_steps import RedisClient
from tests.core.rules_of_bursts import BurstRules
from tests.core.rules_of_dispatchers import DispatcherRules
from tests.core.rules_of_retention import RetentionRules


class Everybody(BurstRules, DispatcherRules, RetentionRules):
    """Each rule does one step in Redis and in the model; then the two must say the same of every job."""


def test_any_interleaving_of_steps_keeps_every_promise_of_the_store(quick_redis: RedisClient) -> None:
    calm = settings(stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(partial(Everybody, quick_redis), settings=calm)  # type: ignore[arg-type]
