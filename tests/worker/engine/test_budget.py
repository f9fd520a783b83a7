"""What the memory budget plans for cards and models, and that it never plans what is not there."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import OurError
from core.settings import Settings
from worker.engine.budget import (
    GIB,
    MOST_ASR_BATCH,
    SHAPES,
    Budget,
    Capability,
    Card,
    Wish,
    loaded_bytes,
    on_cpu,
    on_gpu,
    supports,
    window_bytes,
)

LARGE = next(shape for shape in SHAPES if shape.name == "large-v2")
TURING: Capability = (7, 5)
BETTER = ["int8_float16", "float16"]

cards = st.builds(Card, st.integers(0, 200 * GIB), st.sampled_from([(5, 3), (6, 0), (6, 1), (6, 2), (7, 0), (7, 5), (8, 6), (9, 0)]))
wishes = st.builds(
    lambda shape, beam_size: Wish(shape.name, shape.bytes, beam_size), st.sampled_from(SHAPES), st.integers(min_value=1, max_value=20)
)


def large(gib: float, capability: Capability = TURING, **wish: object) -> Budget:
    return on_gpu(Card(int(gib * GIB), capability), replace(Wish("large-v2", LARGE.bytes), **wish))  # type: ignore[arg-type]


def planned(card: Card, wish: Wish) -> Budget | None:
    try:
        return on_gpu(card, wish)
    except OurError:
        return None


@given(cards, wishes)
def test_no_more_is_planned_than_is_free_and_never_less_than_a_window(card: Card, wish: Wish) -> None:
    budget = planned(card, wish)
    if budget is None:
        return
    assert budget.planned_bytes <= card.free_bytes
    assert budget.planned_bytes + budget.left_bytes == card.free_bytes
    assert 1 <= budget.asr_batch <= MOST_ASR_BATCH
    assert 1 <= budget.segmentation_batch <= 32
    assert budget.alignment_bytes > 0
    assert supports(card.capability, budget.compute_type)


@given(cards, wishes, st.integers(0, 100 * GIB))
def test_more_memory_never_gives_less(card: Card, wish: Wish, more: int) -> None:
    """Nothing that fitted ceases to fit, float16 stays float16, and of one compute type no batch shrinks."""
    small, big = planned(card, wish), planned(replace(card, free_bytes=card.free_bytes + more), wish)
    if small is None:
        return
    assert big is not None
    assert big.segmentation_batch >= small.segmentation_batch
    assert big.alignment_bytes >= small.alignment_bytes
    if big.compute_type == small.compute_type:
        assert big.asr_batch >= small.asr_batch
    else:
        assert BETTER.index(big.compute_type) > BETTER.index(small.compute_type)


@given(cards, wishes)
def test_a_smaller_model_never_gets_less(card: Card, wish: Wish) -> None:
    base = next(shape for shape in SHAPES if shape.name == "base")
    if wish.model_bytes > base.bytes and planned(card, wish):
        assert planned(card, replace(wish, model="base", model_bytes=base.bytes))


@pytest.mark.parametrize(
    ("gib", "capability", "compute_type", "batch"),
    [
        (5.7, (6, 1), "int8_float32", 1),  # GTX 1060
        (5.7, TURING, "int8_float16", 2),
        (7.6, (6, 1), "int8_float32", 2),  # GTX 1080
        (7.6, (8, 6), "int8_float16", 4),
        (11.4, (8, 6), "float16", 7),
        (15.2, TURING, "float16", 12),
        (15.2, (6, 0), "float32", 3),  # P100
        (22.8, (8, 6), "float16", 23),
        (76.0, (9, 0), "float16", 64),
    ],
)
def test_large_v2_runs_on_every_common_card(gib: float, capability: Capability, compute_type: str, batch: int) -> None:
    budget = large(gib, capability)
    assert (budget.compute_type, budget.asr_batch) == (compute_type, batch)


def test_the_figures_agree_with_those_that_were_published_and_measured() -> None:
    """faster-whisper's README (MB as the driver counts them, 2**20) and the H100's, never below them."""
    mib = 1024**2
    float16, int8 = (loaded_bytes(LARGE.bytes, kind) for kind in ("float16", "int8_float16"))
    window = window_bytes(LARGE.bytes, "float16", 5)
    assert abs(float16 - 4.2 * GIB) < 0.05 * GIB
    assert float16 + window >= 4525 * mib
    assert int8 + window >= 2926 * mib
    assert float16 + 8 * window >= 6090 * mib
    assert int8 + 8 * window >= 4500 * mib
    assert abs(float16 + 16 * window - 12.6 * GIB) < 0.2 * GIB
    assert float16 + 64 * window >= 28.3 * GIB


def test_more_beams_take_more() -> None:
    assert window_bytes(LARGE.bytes, "float16", 1) < window_bytes(LARGE.bytes, "float16", 5) < window_bytes(LARGE.bytes, "float16", 20)


def test_what_the_user_has_set_is_kept() -> None:
    budget = large(22.8, compute_type="int8_float16", asr_batch=3, segmentation_batch=5)
    assert (budget.compute_type, budget.asr_batch, budget.segmentation_batch) == ("int8_float16", 3, 5)


def test_a_batch_larger_than_the_memory_is_the_users_word() -> None:
    assert large(11.4, asr_batch=200).asr_batch == 200


def test_a_batch_that_only_int8_has_room_for_gets_int8() -> None:
    assert large(11.4, asr_batch=9).compute_type == "int8_float16"


def test_a_model_that_does_not_fit_says_what_would() -> None:
    with pytest.raises(OurError, match=r"large-v2 does not fit .* set SPILLWAY_ASR_MODEL=large-v3-turbo, which fits"):
        large(3.8)


def test_where_nothing_fits_no_model_is_named() -> None:
    with pytest.raises(OurError, match="take another GPU"):
        large(0.5)


def test_a_segmentation_batch_that_takes_the_room_is_named() -> None:
    with pytest.raises(OurError, match="SPILLWAY_SEGMENTATION_BATCH_SIZE"):
        large(5.7, segmentation_batch=256)


def test_a_compute_type_that_the_gpu_cannot_do_is_refused() -> None:
    with pytest.raises(OurError, match=r"6\.1 cannot do float16: set SPILLWAY_COMPUTE_TYPE=auto"):
        large(7.6, (6, 1), compute_type="float16")


def test_the_settings_are_the_wish() -> None:
    settings = Settings(asr_model="small", beam_size=2, compute_type="int8", asr_batch_size=7, segmentation_batch_size=9)
    assert Wish.of(settings, 5) == Wish("small", 5, 2, "int8", 7, 9)


@pytest.mark.parametrize(
    ("settings", "plan"),
    [({}, ("int8", 16, 8)), ({"asr_batch_size": 2, "segmentation_batch_size": 4, "compute_type": "float32"}, ("float32", 2, 4))],
)
def test_on_a_cpu_it_is_int8_and_batches_that_stay_in_the_cache(settings: dict[str, object], plan: tuple[str, int, int]) -> None:
    budget = on_cpu(Wish.of(Settings.model_validate(settings), LARGE.bytes))
    assert (budget.compute_type, budget.asr_batch, budget.segmentation_batch) == plan
