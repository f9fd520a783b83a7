"""The wake-ups: Celery messages that say "there is work". They name no job; losing one costs a sweep, one too many nothing."""

from typing import Any

from celery import Celery
from celery.exceptions import OperationalError as CeleryOperationalError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from core.crash_points import passed
from core.redis_steps import RedisClient, redis_away

QUEUE = "spillway-wakeups"
TASK = "spillway.work"
SETTINGS: dict[str, Any] = {
    "task_default_queue": QUEUE,
    # The record is the truth, so a message is done with as soon as it is received, and nobody asks for its result.
    "task_acks_late": False,
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    # A message that waits in a busy worker helps nobody: each is taken only by a thread that is free.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # With Redis the default would kill running jobs when the connection breaks, then leave them to the visibility timeout.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # The service must not hang on a broker that is away: the sweeper wakes in its place.
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
    "broker_transport_options": {
        "visibility_timeout": 7 * 86400,  # far: redelivery is not how lost work comes back here
        "health_check_interval": 10,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    },
    "worker_hijack_root_logger": False,
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
}


def celery_app(redis_url: str) -> Celery:
    """The application that the service and the dispatcher publish with and the worker consumes with."""
    app = Celery("spillway", broker=redis_url, set_as_current=False)
    app.conf.update(SETTINGS)
    return app


def wake(app: Celery, times: int = 1) -> bool:
    """Whether the wake-ups were sent; a broker that is away is no error, since the sweeper sends them later."""
    try:
        for _ in range(times):
            app.send_task(TASK, queue=QUEUE)
            passed("wake-up", "sent")
    except (OperationalError, CeleryOperationalError, RedisError, OSError):
        return False
    return True


def waiting(redis: RedisClient) -> int:
    """Wake-ups that no worker has received yet."""
    with redis_away():
        return int(redis.llen(QUEUE))
