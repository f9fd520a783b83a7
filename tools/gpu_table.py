"""docs/gpu.md's tables, from the memory budget itself: python -m tools.gpu_table"""

from core.errors import OurError
from worker.engine import budget
from worker.engine.budget import GIB, SHAPES, Card, Shape, Wish

MODELS = ("large-v2", "large-v3-turbo", "medium", "small", "base")
TENSOR_CORES, PASCAL = (7, 0), (6, 1)
CARDS = (
    *((size, TENSOR_CORES) for size in (4, 6, 8, 10, 12, 16, 24, 48, 80)),
    *((size, PASCAL) for size in (6, 8, 11)),
)  # fmt: skip
FREE = 0.95  # of a card without a screen


def memory() -> str:
    shapes = [shape for name in MODELS for shape in SHAPES if shape.name == name]
    rows = [[_name(gib, capability), *(_cell(gib, capability, shape) for shape in shapes)] for gib, capability in CARDS]
    return _markdown([["card", *MODELS], *rows])


def disk() -> str:
    return _markdown([["Whisper model", "model.bin"], *([shape.name, f"{shape.bytes / 1e9:.2f} GB"] for shape in SHAPES)])


def _name(gib: int, capability: budget.Capability) -> str:
    return f"{gib} GB" + (", GTX 10" if capability == PASCAL else "")


def _cell(gib: int, capability: budget.Capability, shape: Shape) -> str:
    try:
        plan = budget.on_gpu(Card(int(FREE * gib * GIB), capability), Wish(shape.name, shape.bytes))
    except OurError:
        return "does not fit"
    return f"{plan.compute_type}, {plan.asr_batch}, {budget.in_gib(plan.left_bytes)}"


def _markdown(rows: list[list[str]]) -> str:
    heading, *body = rows
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heading, ["---"] * len(heading), *body))


if __name__ == "__main__":
    print(memory(), disk(), sep="\n", end="")
