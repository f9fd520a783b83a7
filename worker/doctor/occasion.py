"""When the doctor is asked: not everything can be known, or is worth the wait, at every time."""

from enum import StrEnum


class Occasion(StrEnum):
    BUILD = "while the image is built"  # no GPU, no Redis, no volumes
    START = "at the start of a worker"  # quick: sizes instead of digests
    BURST = "at the start of a container on Modal"  # as of a worker, with neither Redis nor a file store of its own
    BY_HAND = "by hand"
