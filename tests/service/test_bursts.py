"""What clients read of bursts."""

from core.bursts import Burst, BurstOutlook, Bursts, Caps
from core.job_store import Runner
from tests.service.box import Box
from tests.service.scrape import scraped, value

MODAL = Runner("modal", "bridge")


def test_a_queue_without_bursts_says_that_they_are_off(box: Box) -> None:
    burst = box.http.get("/v1/queue").get_json()["burst"]
    assert (burst["enabled"], burst["paused"], burst["days"], burst["calls"]) == (False, False, [], 0)
    assert (burst["day_cap_usd"], burst["month_cap_usd"], burst["target_wait_s"]) == (1.0, 25.0, 900.0)


def test_the_queue_tells_what_bursts_cost_by_day_and_why_they_pause(box: Box) -> None:
    bursts = Bursts(box.redis, box.jobs)
    first, second = box.submitted(), box.submitted()
    for job_id in (first, second):
        burst = bursts.intend(job_id, [job_id], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.1, caps=Caps(1, 25))
        assert isinstance(burst, Burst)
    bursts.settle(first, cost_usd=0.03)
    bursts.tell(BurstOutlook(is_paused=True, reason="Modal refuses the token", why=("two jobs would wait too long",)), ttl_s=60)
    burst = box.http.get("/v1/queue").get_json()["burst"]
    assert burst["days"] == [{"day": bursts.today(), "spent_usd": 0.03, "reserved_usd": 0.1, "calls": 2, "jobs": 2}]
    assert burst["today"] == bursts.today()
    assert (burst["calls"], burst["jobs"], burst["paused"], burst["reason"]) == (1, 1, True, "Modal refuses the token")
    assert burst["why"] == ["two jobs would wait too long"]
    assert box.http.get(f"/v1/jobs/{second}").get_json()["runner"] == "modal"


def test_metrics_tell_what_bursts_cost_today_and_this_month(box: Box) -> None:
    bursts, job_id = Bursts(box.redis, box.jobs), box.submitted()
    today = bursts.today()
    before = f"{today[:7]}-{'02' if today.endswith('01') else '01'}"
    bursts.intend("b", [job_id], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.1, caps=Caps(1, 25))
    bursts.post(0.25)
    box.redis.hset(f"spillway:ledger:{today[:7]}", f"{before}:spent", 500_000)
    bursts.tell(BurstOutlook(is_paused=True, reason="away", why=()), ttl_s=60)
    families = scraped(box)
    assert [value(families, "spillway_burst_spent_usd", window=window) for window in ("day", "month")] == [0.25, 0.75]
    assert [value(families, "spillway_burst_reserved_usd", window=window) for window in ("day", "month")] == [0.1, 0.1]
    assert [value(families, f"spillway_burst_{name}") for name in ("calls", "jobs", "paused")] == [1, 1, 1]


def test_a_job_says_where_it_runs(box: Box) -> None:
    job_id = box.submitted()
    assert box.http.get(f"/v1/jobs/{job_id}").get_json()["runner"] is None
    box.claim()
    assert box.http.get(f"/v1/jobs/{job_id}").get_json()["runner"] == "local"
