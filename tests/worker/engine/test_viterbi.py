import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.viterbi import Emission, Spans, align


def emission(frames: int, characters: int, seed: int) -> Emission:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(frames, 6), scale=2).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Emission(log_probs[:, rng.integers(0, 6, characters)], log_probs[:, 3], log_probs[:, 0])


def score(one: Emission, entries: list[int], until: int) -> float:
    """Log-probability of entering the characters at these frames and being blank at all others before `until`."""
    before = float(one.first[: entries[0]].sum())
    entering = sum(float(one.tokens[frame, character]) for character, frame in enumerate(entries))
    blanks = sum(float(one.blank[frame]) for frame in range(entries[0], until) if frame not in entries)
    return before + entering + blanks


def every_path(frames: int, characters: int) -> list[tuple[list[int], int]]:
    def entries(first: int, count: int) -> list[list[int]]:
        if count == 0:
            return [[]]
        return [[frame, *rest] for frame in range(first, frames) for rest in entries(frame + 1, count - 1)]

    # Later than this is not allowed for the first character: the path must end with the audio at the latest.
    allowed = [path for path in entries(0, characters) if path[0] <= frames - characters]
    return [(path, until) for path in allowed for until in range(path[-1] + 1, frames + 1)]


def test_the_path_is_the_best_of_all_paths() -> None:
    for seed in range(20):
        one = emission(frames=7, characters=3, seed=seed)
        best = max(score(one, path, until) for path, until in every_path(7, 3))
        (found,) = align([one])
        assert found is not None
        assert np.isclose(score(one, list(found.starts), int(found.ends[-1])), best, atol=1e-4)


def same(one: Spans | None, other: Spans | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("starts", "ends", "scores"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30), st.integers(0, 10_000)), min_size=1, max_size=6))
def test_a_batch_gives_what_each_alone_gives(shapes: list[tuple[int, int, int]]) -> None:
    emissions = [emission(*shape) for shape in shapes]
    alone = [align([one])[0] for one in emissions]
    assert all(same(one, other) for one, other in zip(align(emissions), alone, strict=True))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10_000))
def test_characters_follow_one_another_without_a_gap(frames: int, characters: int, seed: int) -> None:
    (spans,) = align([emission(frames, characters, seed)])
    if characters > frames:
        assert spans is None
        return
    assert spans is not None
    assert np.array_equal(spans.starts[1:], spans.ends[:-1])
    assert (spans.starts < spans.ends).all()
    assert spans.starts[0] >= 0
    assert spans.ends[-1] <= frames
    assert ((spans.scores >= 0) & (spans.scores <= 1)).all()


def test_a_text_longer_than_its_audio_has_no_alignment_and_spoils_none_of_its_batch() -> None:
    first, second, third = align([emission(5, 2, 0), emission(5, 6, 1), emission(9, 4, 2)])
    assert first is not None
    assert second is None
    assert third is not None


def test_as_many_characters_as_frames_take_one_frame_each() -> None:
    (spans,) = align([emission(4, 4, 0)])
    assert spans is not None
    assert list(spans.starts) == [0, 1, 2, 3]
    assert list(spans.ends) == [1, 2, 3, 4]


def test_no_characters_no_alignment() -> None:
    assert align([emission(4, 0, 0)]) == [None]


def test_nothing_gives_nothing() -> None:
    assert align([]) == []
