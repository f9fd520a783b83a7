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
    # Celery's own name would be shared with whatever else uses this Redis.
    "task_default_queue": QUEUE,
    # The record is the truth: a message is done with as soon as it is received. Late, it would come again while its job runs.
    "task_acks_late": False,
    # Nobody asks what became of a message, so nothing is written about it.
    "task_ignore_result": True,
    "result_backend": None,
    # Pickle would run whatever somebody puts into Redis.
    "task_serializer": "json",
    "accept_content": ["json"],
    # A message that waits in a busy worker helps nobody: each is taken only by a thread that is free.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # With Redis the default would kill running jobs when the connection breaks; the leases outlive that.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # A Redis that is away is waited for, at the start and later, for as long as it takes: no worker needs a hand then.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # One that answers but refuses (MISCONF, a full memory, a replica) is as good as away, and waited for alike; by default Celery
    # may end the worker of such an answer.
    "broker_channel_error_retry": True,
    # Once more, over a connection that a restart of Redis has broken; then the sweeper wakes in its place.
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
    "broker_transport_options": {
        # Redelivery is not how lost work comes back here: no message is noted down until it is done with, which would cost four
        # writes to the disk, and none comes again after a visibility timeout, which is far for the case that one ever counts.
        "ack_emulation": False,
        "visibility_timeout": 7 * 86400,
        # The least that a publisher's thread waits for a Redis that is frozen; the consumer's own wait is not bounded by it.
        "socket_timeout": 2,
        "socket_connect_timeout": 2,
        # Between two machines a line may be cut without a word. A consumer asks for a message for 1 s at a time; where no answer
        # comes for so much longer it connects anew. The kernel's keepalive, after two hours, is the others' last resort.
        "health_check_interval": 1,
        "socket_keepalive": True,
    },
    # Ours goes out as JSON with the job's id.
    "worker_hijack_root_logger": False,
    # Two more channels through Redis that nobody listens to.
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
