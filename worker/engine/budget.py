"""One budget for a GPU's memory: Whisper's compute type and batch, diarization's batch, alignment models. Pure: no torch.

The figures below were published or measured, and they do not lie on one line. On an RTX 3070 Ti faster-whisper's README gives
large-v2 4525 MB in float16 and 2926 MB in int8, and 6090 and 4500 MB in batches of eight (beam 5, the maximum that the driver
saw): 1.3 GiB besides the weights, and 0.22 GiB for a window. On an H100 CTranslate2 4.4.0 took 4.2 and 2.3 GiB at load, about
12.6 GiB in batches of 16 and 28.3 GiB at most in batches of 64 (beam 5, 110 tokens a window): the same 1.3 GiB, but 0.38 to
0.53 GiB for a window, since its allocator keeps what it once had and a large card puts it under no pressure. The plan takes the
highest, 0.53 GiB. Whoever plans too much only loses a moment (when memory runs out the batch halves and stays so,
worker/engine/batching.py); whoever plans too little is slow for ever, so that SPILLWAY_ASR_BATCH_SIZE can say better.
"""

from dataclasses import dataclass, replace

from core.errors import OurError
from core.settings import Settings

MIB = 1024**2
GIB = 1024**3
Capability = tuple[int, int]

# What of the free memory is not planned: fragments, and others that need a little.
MARGIN = 0.05
LOADED_BYTES = int(1.3 * GIB)  # besides the weights: CUDA's context, kernels, cuBLAS' workspaces
TOKENS = 110  # in 30 s of speech: those of the measurement above
ENCODER_FRAMES = 1500  # of a window of 30 s
# What the encoder's work takes for each of its heads: the rest of large's 0.53 GiB, once the keys and values are taken off.
HEAD_BYTES = 11 * MIB
MOST_ASR_BATCH = 64  # the largest batch that was measured: on an H100 large-v2 at 431x real time, against 358x at 32
FLOAT16_BATCH = 4  # float16 is faster than int8_float16 (H100, every batch measured), unless it leaves room for less than this

# A window of 10 s: CAM++ took 2907 MB more for 32 of them than for one, WeSpeaker's ResNet34 410 MB for 8, segmentation-3.0
# 368 MB for 32, WhisperX's VAD 184 MB for 32 of its 5-s chunks (float32, the process' resident maximum on a CPU).
DIARIZATION_WINDOW_BYTES = 94_000_000
DIARIZATION_SHARE = 0.15
DIARIZATION_BATCHES = (4, 32)
ALIGNMENT_SHARE = 0.10
# Half of it is for weights. At least: wav2vec2 base (0.38 GB); at most: two that are large (1.26 GB each), and their batches.
ALIGNMENT_BYTES = (650 * MIB, 5_100_000_000)

CPU_ASR_BATCH = 16
CPU_SEGMENTATION_BATCH = 8
CPU_ALIGNMENT_BYTES = 3 * 1_300_000_000  # three wav2vec2 large in float32


@dataclass(frozen=True)
class Shape:
    """A Whisper's, from openai/whisper; `bytes` is its model.bin in float16 (the pinned revisions' of worker/model_catalog.py)."""

    name: str
    bytes: int
    decoder_layers: int
    width: int
    heads: int


SHAPES = (
    Shape("tiny", 75_538_270, 4, 384, 6),
    Shape("base", 145_217_532, 6, 512, 8),
    Shape("small", 483_546_902, 12, 768, 12),
    Shape("medium", 1_527_906_378, 24, 1024, 16),
    Shape("large-v3-turbo", 1_617_884_929, 4, 1280, 20),
    Shape("large-v2", 3_086_912_962, 32, 1280, 20),
    Shape("large-v3", 3_087_284_237, 32, 1280, 20),
)
LARGEST = SHAPES[-1]


@dataclass(frozen=True)
class Card:
    """`free_bytes` with nothing of ours loaded; `capability` is CUDA's compute capability."""

    free_bytes: int
    capability: Capability


@dataclass(frozen=True)
class Wish:
    """What is to run. A compute type other than `auto`, or a batch other than 0, is the user's word and is kept."""

    model: str
    model_bytes: int  # of model.bin, float16
    beam_size: int = 5
    compute_type: str = "auto"
    asr_batch: int = 0
    segmentation_batch: int = 0

    @classmethod
    def of(cls, settings: Settings, model_bytes: int) -> "Wish":
        return cls(
            settings.asr_model,
            model_bytes,
            settings.beam_size,
            settings.compute_type,
            settings.asr_batch_size,
            settings.segmentation_batch_size,
        )


@dataclass(frozen=True)
class Budget:
    compute_type: str
    asr_batch: int
    segmentation_batch: int
    alignment_bytes: int  # weights of the alignment models that stay loaded
    planned_bytes: int
    left_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.compute_type}, batch {self.asr_batch}, segmentation batch {self.segmentation_batch}, "
            f"{in_gib(self.alignment_bytes)} of alignment models, {in_gib(self.left_bytes)} left"
        )


def on_cpu(wish: Wish) -> Budget:
    """On a CPU larger batches of segmentation only leave the cache: the model alone, called on 26 windows of 10 s with two threads,
    took 11.1 s in one batch and 3.5 s in batches of 8."""
    segmentation_batch = min(wish.segmentation_batch or CPU_SEGMENTATION_BATCH, CPU_SEGMENTATION_BATCH)
    compute_type = "int8" if wish.compute_type == "auto" else wish.compute_type
    return Budget(compute_type, wish.asr_batch or CPU_ASR_BATCH, segmentation_batch, CPU_ALIGNMENT_BYTES, 0, 0)


def on_gpu(card: Card, wish: Wish) -> Budget:
    """Raises OurError, saying what would do instead, if not a single window fits or the GPU cannot do the wished compute type."""
    *preferred, last = candidates(card.capability, wish.compute_type)
    for compute_type in preferred:
        plan = _plan(card, wish, compute_type)
        if plan.planned_bytes <= _plannable(card) and plan.asr_batch >= (wish.asr_batch or FLOAT16_BATCH):
            return plan
    if _room(card, wish, last) < window_bytes(wish.model_bytes, last, wish.beam_size):
        raise OurError(_too_large(card, wish, last))
    return _plan(card, wish, last)


def supports(capability: Capability, compute_type: str) -> bool:
    """What CTranslate2 takes when asked for it by name (its src/types.cc, src/cuda/utils.cc); it refuses the rest."""
    if compute_type in ("auto", "default", "float32"):
        return True
    if compute_type == "int16":
        return False  # a CPU's
    float16 = capability >= (7, 0)
    bfloat16 = capability >= (8, 0)
    int8 = capability >= (7, 0) or capability == (6, 1)
    kind = compute_type.removeprefix("int8_")
    return (int8 if compute_type.startswith("int8") else True) and {"float16": float16, "bfloat16": bfloat16}.get(kind, True)


def window_bytes(model_bytes: int, compute_type: str, beam_size: int) -> int:
    """One window of 30 s in a batch: the decoder's keys and values over the encoder's frames, and over the words so far once for
    each beam, and the encoder's work."""
    shape = next((shape for shape in SHAPES if model_bytes <= 1.01 * shape.bytes), LARGEST)
    value_bytes = 4 if compute_type in ("float32", "int8", "int8_float32", "int16") else 2
    keys_and_values = 2 * shape.decoder_layers * shape.width * value_bytes
    return keys_and_values * (ENCODER_FRAMES + TOKENS * beam_size) + shape.heads * HEAD_BYTES * value_bytes // 2


def loaded_bytes(model_bytes: int, compute_type: str) -> int:
    weights = model_bytes // 2 if compute_type.startswith("int8") else model_bytes * (2 if compute_type == "float32" else 1)
    return weights + LOADED_BYTES


def candidates(capability: Capability, wished: str) -> list[str]:
    """In order of preference."""
    if wished == "auto":
        if supports(capability, "float16"):
            return ["float16", "int8_float16"]
        return ["int8_float32" if supports(capability, "int8_float32") else "float32"]
    if not supports(capability, wished):
        generation = ".".join(map(str, capability))
        raise OurError(f"a GPU of compute capability {generation} cannot do {wished}: set SPILLWAY_COMPUTE_TYPE=auto")
    return [wished]


def _plan(card: Card, wish: Wish, compute_type: str) -> Budget:
    """A batch of 0 means that not one window fits."""
    window = window_bytes(wish.model_bytes, compute_type, wish.beam_size)
    room = _room(card, wish, compute_type)
    batch = wish.asr_batch or min(MOST_ASR_BATCH, max(0, room // window))
    planned = _plannable(card) - room + batch * window
    return Budget(
        compute_type=compute_type,
        asr_batch=batch,
        segmentation_batch=wish.segmentation_batch or _diarization_bytes(card, wish) // DIARIZATION_WINDOW_BYTES,
        alignment_bytes=_alignment_bytes(card) // 2,
        planned_bytes=planned,
        left_bytes=max(0, card.free_bytes - planned),
    )


def _plannable(card: Card) -> int:
    return int(card.free_bytes * (1 - MARGIN))


def _room(card: Card, wish: Wish, compute_type: str) -> int:
    """For batches of windows; negative when not even the models fit."""
    fixed = loaded_bytes(wish.model_bytes, compute_type) + _diarization_bytes(card, wish) + _alignment_bytes(card)
    return _plannable(card) - fixed


def _diarization_bytes(card: Card, wish: Wish) -> int:
    if wish.segmentation_batch:
        return wish.segmentation_batch * DIARIZATION_WINDOW_BYTES
    least, most = (batch * DIARIZATION_WINDOW_BYTES for batch in DIARIZATION_BATCHES)
    return min(max(int(card.free_bytes * DIARIZATION_SHARE), least), most)


def _alignment_bytes(card: Card) -> int:
    least, most = ALIGNMENT_BYTES
    return min(max(int(card.free_bytes * ALIGNMENT_SHARE), least), most)


def _too_large(card: Card, wish: Wish, compute_type: str) -> str:
    needed = loaded_bytes(wish.model_bytes, compute_type) + _diarization_bytes(card, wish) + _alignment_bytes(card)
    needed += window_bytes(wish.model_bytes, compute_type, wish.beam_size)
    smaller = [shape.name for shape in SHAPES if shape.bytes < wish.model_bytes and _fits(card, wish, shape)]
    remedy = f"set SPILLWAY_ASR_MODEL={smaller[-1]}, which fits" if smaller else "take another GPU: no smaller model fits either"
    if wish.segmentation_batch:
        remedy = f"lower SPILLWAY_SEGMENTATION_BATCH_SIZE, or {remedy}"
    return (
        f"{wish.model} does not fit the GPU's memory (about {in_gib(int(needed / (1 - MARGIN)))} in {compute_type} are needed, "
        f"{in_gib(card.free_bytes)} are free): end what else uses the GPU (`nvidia-smi` lists it), or {remedy}"
    )


def _fits(card: Card, wish: Wish, shape: Shape) -> bool:
    kind = candidates(card.capability, wish.compute_type)[-1]
    return _room(card, replace(wish, model_bytes=shape.bytes), kind) >= window_bytes(shape.bytes, kind, wish.beam_size)


def in_gib(count: int) -> str:
    """As a card's size is meant: 24 GB on its box are 24.0 GiB."""
    return f"{count / GIB:.1f} GiB"
