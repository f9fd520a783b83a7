"""When the doctor is asked: not everything can be known, or is worth the wait, at every time."""

from enum import StrEnum


class Occasion(StrEnum):
    BUILD = "while the image is built"  # no GPU, no Redis, no volumes
    START = "at the start of a worker"  # quick: sizes instead of digests
    BY_HAND = "by hand"
