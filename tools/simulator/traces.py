"""Arrivals of seven kinds of day, made from seeds."""

from dataclasses import replace
from random import Random

from tools.simulator.scene import Arrival, LocalBox, Modal, Trace

HOUR_S = 3600.0
BOX = LocalBox()
TUNED_ON = (1, 2, 3)  # seeds that were looked at while the policy was made
HELD_OUT = (11, 12, 13)  # seeds that are reported, and that no choice was made by


def steady(seed: int) -> Trace:
    """Ten hours of 5 % more meetings than the box gets through."""
    return Trace("steady", _at_load(Random(seed), [(10.0, 1.05)]), seed=seed)


def monday_morning(seed: int) -> Trace:
    return Trace("Monday morning", _at_load(Random(seed), [(1.0, 0.3), (1.25, 1.8), (2.75, 0.5)]), seed=seed)


def podcasts(seed: int) -> Trace:
    """500 episodes within two minutes."""
    draw = Random(seed)
    episodes = tuple(Arrival(120 * i / 500, _length_s(draw, 40 * 60, 0.4, 5 * 60)) for i in range(500))
    return Trace("500 podcasts", episodes, seed=seed)


def tiny_clips(seed: int) -> Trace:
    """Voice messages: a thin stream over five hours, and two floods of ten minutes."""
    draw = Random(seed)
    times = [draw.uniform(0, 5 * HOUR_S) for _ in range(600)]
    times += [start_s + draw.uniform(0, 600) for start_s in (HOUR_S, 3 * HOUR_S) for _ in range(1500)]
    return Trace("tiny clips", tuple(Arrival(at_s, _length_s(draw, 15, 0.6, 2, 120)) for at_s in sorted(times)), seed=seed)


def outage(seed: int) -> Trace:
    """The same Monday, and Modal away for half an hour of its peak."""
    return replace(monday_morning(seed), name="cloud outage", modal=Modal(outages=((1.25 * HOUR_S, 1.75 * HOUR_S),)))


def dead_gpu(seed: int) -> Trace:
    """Six hours of two GPUs with work for 1.7, of which one is dead for an hour and a half."""
    box = replace(BOX, gpus=2, away=((2.0 * HOUR_S, 3.5 * HOUR_S),))
    return Trace("dead GPU", _at_load(Random(seed), [(6.0, 1.7)]), box=box, seed=seed)


def three_gpus(seed: int) -> Trace:
    """A box of three, and a morning of 1.4 times what they get through."""
    return Trace("three GPUs", _at_load(Random(seed), [(1.0, 1.5), (1.25, 4.2), (2.0, 1.8)]), box=replace(BOX, gpus=3), seed=seed)


ALL = (steady, monday_morning, podcasts, tiny_clips, outage, dead_gpu, three_gpus)


def _at_load(draw: Random, phases: list[tuple[float, float]]) -> tuple[Arrival, ...]:
    """Meetings at random, phase by phase: hours, and audio that comes in as a share of what one GPU gets through."""
    arrivals, start_s = list[Arrival](), 0.0
    for hours, load in phases:
        arrivals += _phase(draw, start_s, hours * HOUR_S, load)
        start_s += hours * HOUR_S
    return tuple(arrivals)


def _phase(draw: Random, start_s: float, seconds: float, load: float) -> list[Arrival]:
    audio_s, lengths = load * BOX.real_time_factor * seconds, list[float]()
    while sum(lengths) < audio_s:
        lengths.append(_length_s(draw, 15 * 60.0, 0.7, 60, HOUR_S))
    lengths[-1] -= sum(lengths) - audio_s  # the load is meant exactly
    return [
        Arrival(start_s + at_s, length_s) for at_s, length_s in zip(sorted(draw.uniform(0, seconds) for _ in lengths), lengths, strict=True)
    ]


def _length_s(draw: Random, median_s: float, spread: float, least_s: float, most_s: float = 3 * HOUR_S) -> float:
    return min(most_s, max(least_s, draw.lognormvariate(0, spread) * median_s))
