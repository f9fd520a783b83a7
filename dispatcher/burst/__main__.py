"""Bursts by hand: `python -m dispatcher.burst plan | setup | check`."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from core.burst import Bundle, BundleJob, Outcome, Reply
from core.bursts import BurstOutlook
from core.errors import OurError, SpillwayError
from core.file_store import input_key
from core.job import JobOptions
from core.job_store import JobStore
from core.media import Ffmpeg
from core.process import begin
from core.redis_steps import connect
from core.settings import Settings, variable
from dispatcher.burst.calls import LOGS, CallFailed, Why
from dispatcher.burst.moment import caps_of
from dispatcher.burst.policy import decide
from dispatcher.burst.tariff import dearest_per_s, paid_per_s
from dispatcher.burst.view import Bundle as ToSend
from dispatcher.burst.view import Decision, Memory, View
from dispatcher.burst.wiring import Parts, build

SAMPLE = Path(__file__).parents[2] / "samples" / "dialogue.flac"
CHECK_S = 10.0
FILL_S = 3600.0
POLL_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dispatcher.burst", description="Bursts to Modal, by hand.")
    parser.add_argument(
        "command",
        choices=[*COMMANDS],
        help="plan: what would be burst now, what it may cost, and why; setup: brings the models to Modal;"
        " check: sends ten seconds, and prints cold start and cost",
    )
    given = parser.parse_args(arguments)
    settings = begin("burst")
    redis = connect(settings.redis_url)
    parts = build(settings, redis, JobStore(redis))
    try:
        return COMMANDS[given.command](settings, parts)
    except SpillwayError as error:
        print(f"burst {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    finally:
        parts.calls.close()
        redis.close()


def plan(settings: Settings, parts: Parts) -> int:
    parts.bridge.look()
    view = parts.moments.now(parts.bridge)
    # A burst begins when it was called for twice: what is printed is what the second look would do.
    _, memory = decide(view, Memory())
    decision, _ = decide(view, memory)
    print("\n".join(told(settings, view, decision, parts.bursts.outlook())))
    return 0


def told(settings: Settings, view: View, decision: Decision, outlook: BurstOutlook | None) -> list[str]:
    speed, cloud = view.local.real_time_factor, view.cloud
    switch = "on" if settings.burst else f"off ({variable('burst')}=true switches them on)"
    lines = [
        f"bursts are {switch}; target wait {settings.target_wait_s:.0f} s",
        f"queue: {len(view.pending)} jobs, {sum(job.audio_s for job in view.pending):.0f} s of audio{_of_those_that_stay(view)}",
        f"here: {len(view.local.gpus)} fit workers, " + ("speed not measured yet" if speed is None else f"{speed:.1f}x real time each"),
        f"Modal: cold start {cloud.cold_start_s:.0f} s, {cloud.real_time_factor:.1f}x real time, {len(cloud.calls)} calls under way",
        f"money: ${view.budget.today_dollars:.2f} left today, ${view.budget.month_dollars:.2f} this month",
        *((f"the dispatcher waits with the next try: {outlook.reason}",) if outlook and outlook.is_paused else ()),
        *map(_of_bundle, decision.bundles),
        *(f"take back: {each.call_id}: {each.why}" for each in decision.take_back),
        *decision.why,
    ]
    return lines if decision.bundles or decision.take_back else [*lines, "nothing would be burst now"]


def _of_those_that_stay(view: View) -> str:
    count = sum(job.is_local_only or job.is_suspect for job in view.pending)
    return f"; {count} of them never leave: local_only, tried before, or too long for one call" if count else ""


def _of_bundle(bundle: ToSend) -> str:
    return f"burst: {len(bundle.job_ids)} jobs, {bundle.audio_s:.0f} s of audio, up to ${bundle.reserve_dollars:.4f}: {bundle.why}"


def setup(settings: Settings, parts: Parts) -> int:
    print("bringing the models to Modal; the first time takes as long as their download", flush=True)
    filled = parts.calls.fill_volume(FILL_S)
    for line in filled.get("said", ()):
        print(line)
    if filled.get("error"):
        print(f"burst setup: {filled['error']}{_as_a_secret(settings, filled['error'])}", file=sys.stderr)
        return 1
    print("the models are on Modal; next: python -m dispatcher.burst check")
    return 0


def _as_a_secret(settings: Settings, error: str) -> str:
    if settings.modal_hf_secret or variable("hf_token") not in error:
        return ""
    return f" (on Modal by a Secret that {variable('modal_hf_secret')} names; then deploy again)"


def check(settings: Settings, parts: Parts) -> int:
    parts.gauges.read()
    if (refusal := _too_dear(settings, parts)) is not None:
        print(f"burst check: {refusal}", file=sys.stderr)
        return 1
    with _sample(settings, parts) as sample:
        return _sent(settings, parts, *sample)


def _sent(settings: Settings, parts: Parts, bundle: Bundle, recordings: Mapping[str, bytes]) -> int:
    begun = time.monotonic()
    try:
        call_id = parts.calls.spawn(bundle, recordings)
    except CallFailed as failure:
        if failure.why == Why.BROKE:  # nobody knows whether it runs
            parts.bursts.post(_may_cost_usd(settings, parts))
        raise
    reply: Reply | None = None
    try:
        print(f"sent {CHECK_S:.0f} s of audio as {call_id}; waiting", flush=True)
        reply = _reply(parts, call_id, settings.modal_startup_timeout_s + parts.gauges.deadline_s(CHECK_S))
    finally:  # whatever ends the waiting, an interrupt from the keyboard too: the time is paid for
        if reply is None:
            _give_up(settings, parts, call_id, time.monotonic() - begun)
    return _judge(settings, parts, reply, time.monotonic() - begun) if reply else 1


def _give_up(settings: Settings, parts: Parts, call_id: str, seconds: float) -> None:
    parts.bursts.post(_dearest(settings) * seconds)
    print(f"burst check: no reply after {seconds:.0f} s; the call is cancelled. {LOGS}", file=sys.stderr)
    with suppress(CallFailed):  # it ends by its own deadline
        parts.calls.cancel(call_id)


def _too_dear(settings: Settings, parts: Parts) -> str | None:
    may_cost_usd = _may_cost_usd(settings, parts)
    caps, (of_day_usd, of_month_usd) = caps_of(settings), parts.bursts.committed_usd()
    if of_day_usd + may_cost_usd <= caps.day_usd and of_month_usd + may_cost_usd <= caps.month_usd:
        return None
    gone = f"${of_day_usd:.2f} of the day and ${of_month_usd:.2f} of the month are gone"
    of = f"{variable('burst_day_usd')}={caps.day_usd:.2f} and {variable('burst_month_usd')}={caps.month_usd:.2f}"
    return f"it may cost ${may_cost_usd:.2f}, beyond a cap: {gone}, of {of}"


def _may_cost_usd(settings: Settings, parts: Parts) -> float:
    return _dearest(settings) * (parts.gauges.cold_start_s + parts.gauges.deadline_s(CHECK_S) + settings.modal_scaledown_s)


def _cost_usd(settings: Settings, reply: Reply, *, cold_s: float, waited_s: float) -> float:
    per_s, held_s = _dearest(settings), waited_s  # as far as is known of a container that says nothing of itself
    if reply.container is not None:
        per_s, held_s = paid_per_s(reply.container.device, settings.modal_gpus), cold_s + reply.seconds
    return per_s * (held_s + settings.modal_scaledown_s)


def _dearest(settings: Settings) -> float:
    return dearest_per_s(settings.modal_gpus)


@contextmanager
def _sample(settings: Settings, parts: Parts) -> Iterator[tuple[Bundle, Mapping[str, bytes]]]:
    """The bundle, and the recordings beside it. They go the way of every job's: by the bucket, if there is one, which a container must
    reach with rights of its own, and where nothing of it is left."""
    job_id, recording, files = uuid4().hex, Ffmpeg(settings.ffmpeg).flac(SAMPLE, end_s=CHECK_S), parts.cargo.files
    job = BundleJob(
        id=job_id, attempt=1, options=JobOptions(), duration_s=CHECK_S,
        input_key=input_key(job_id) if parts.cargo.bucket else "", input_sha256=sha256(recording).hexdigest(),
    )  # fmt: skip
    bundle = Bundle(file_store=parts.cargo.bucket, deadline_s=parts.gauges.deadline_s(CHECK_S), jobs=(job,))
    if not parts.cargo.bucket:
        yield bundle, {job_id: recording}
        return
    files.write(job.input_key, recording)
    try:
        yield bundle, {}
    finally:
        try:
            files.delete_job(job_id)
        except OurError as error:
            print(f"burst check: the sample stays in the bucket until it is swept as an orphan: {error}", file=sys.stderr)


def _reply(parts: Parts, call_id: str, most_s: float) -> Reply | None:
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        try:
            if (reply := parts.calls.poll(call_id)) is not None:
                return reply
        except CallFailed as failure:
            if failure.why != Why.AWAY:
                raise
        time.sleep(POLL_S)
    return None


def _judge(settings: Settings, parts: Parts, reply: Reply, seconds: float) -> int:
    about, is_done = reply.container, any(receipt.outcome == Outcome.SUCCEEDED for receipt in reply.receipts)
    cold_s = parts.gauges.cold_start_s_of(about, seconds - reply.seconds) if about and about.bundles_before == 0 else 0.0
    parts.bursts.post(cost_usd := _cost_usd(settings, reply, cold_s=cold_s, waited_s=seconds))
    if about is None or not is_done:
        said = next((receipt.error.message for receipt in reply.receipts if receipt.error), "nothing of the sample")
        print(f"burst check: {reply.refusal.message if reply.refusal else f'the container says: {said}'}", file=sys.stderr)
        return 1
    if cold_s:
        parts.bursts.measure(cold_start_s=cold_s)
    if fault := parts.gauges.stack_fault(reply):
        print(f"burst check: {fault}", file=sys.stderr)
        return 1
    warm = "" if cold_s else " (it was warm: for a cold start check again when it has scaled down)"
    print(f"{about.device}: cold start {cold_s:.1f} s{warm}, {CHECK_S:.0f} s of audio in {reply.seconds:.1f} s, ${cost_usd:.4f}")
    return 0


COMMANDS: Mapping[str, Callable[[Settings, Parts], int]] = {"plan": plan, "setup": setup, "check": check}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whoever is stopped ends the call that he made
    sys.exit(main())
