"""What clients and monitoring read of bursts: whether they go on, why, and what they cost."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from pydantic import BaseModel, Field

from core.bursts import Burst, BurstOutlook, Bursts, DayOfLedger
from core.settings import Settings


class LedgerDay(BaseModel):
    day: str = Field(description="UTC.")
    spent_usd: float = Field(description="By this box's own ledger: Modal's bill may differ.")
    reserved_usd: float = Field(description="That calls under way may still cost.")
    calls: int
    jobs: int


class BurstView(BaseModel):
    enabled: bool
    paused: bool = Field(description="After a failure of Modal's; tried again by itself.")
    reason: str = Field(description="Of the last failure, with what to do; empty once a call succeeded.")
    why: list[str] = Field(description="What the last decision rests on.")
    calls: int = Field(description="Under way.")
    jobs: int = Field(description="In those calls.")
    target_wait_s: float
    day_cap_usd: float
    month_cap_usd: float
    today: str = Field(description="As the days are named, by Redis' clock.")
    days: list[LedgerDay] = Field(description="Of this month, those with a call.")


class BurstAccounts:
    """Raises `StoreUnavailable`."""

    def __init__(self, bursts: Bursts, settings: Settings) -> None:
        self._bursts, self._settings = bursts, settings

    def view(self) -> BurstView:
        outlook = self._bursts.outlook() or BurstOutlook(is_paused=False, reason="", why=())
        calls = self._bursts.under_way()
        return BurstView(
            enabled=self._settings.burst,
            paused=outlook.is_paused,
            reason=outlook.reason,
            why=list(outlook.why),
            calls=len(calls),
            jobs=_jobs(calls),
            target_wait_s=self._settings.target_wait_s,
            day_cap_usd=self._settings.burst_day_usd,
            month_cap_usd=self._settings.burst_month_usd,
            today=self._bursts.today(),
            days=[LedgerDay(**day.__dict__) for day in self._days()],
        )

    def metrics(self) -> Iterator[Metric]:
        calls, days, outlook = self._bursts.under_way(), self._days(), self._bursts.outlook()
        today = [day for day in days if day.day == self._bursts.today()]
        yield GaugeMetricFamily("spillway_burst_calls", "Calls to Modal under way.", len(calls))
        yield GaugeMetricFamily("spillway_burst_jobs", "Jobs in calls to Modal that are under way.", _jobs(calls))
        yield GaugeMetricFamily(
            "spillway_burst_paused", "Whether bursts pause after a failure of Modal's.", bool(outlook and outlook.is_paused)
        )  # fmt: skip
        spent = GaugeMetricFamily("spillway_burst_spent_usd", "What bursts have cost by our own ledger, in dollars.", labels=["window"])
        reserved = GaugeMetricFamily("spillway_burst_reserved_usd", "What calls under way may still cost, in dollars.", labels=["window"])
        for window, of in (("day", today), ("month", days)):
            spent.add_metric([window], sum(day.spent_usd for day in of))
            reserved.add_metric([window], sum(day.reserved_usd for day in of))
        yield from (spent, reserved)

    def _days(self) -> tuple[DayOfLedger, ...]:
        return self._bursts.ledger(self._bursts.today()[:7])


def _jobs(calls: tuple[Burst, ...]) -> int:
    return sum(len(call.jobs) for call in calls)
