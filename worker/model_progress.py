"""How far a pull is: a bar on a terminal, a line for every tenth elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from worker.model_download import Report, megabytes

SHORT_BYTES = 10_000_000  # below it a download is over before a line about it helps


@contextmanager
def progress(console: Console, say: Callable[[str], None]) -> Iterator[Report]:
    if not console.is_terminal:
        yield _tenths(say)
        return
    # 20 columns of bar leave an 80-column terminal room for name, bytes, total and speed on one line
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(label: str, done: int, total: int | None) -> None:
        if label not in tasks:
            tasks[label] = bars.add_task(label, total=total)
        bars.update(tasks[label], completed=done, total=total)

    return report


def _tenths(say: Callable[[str], None]) -> Report:
    said: dict[str, int] = {}

    def report(label: str, done: int, total: int | None) -> None:
        tenth = done * 10 // total if total else 0
        if total and tenth > said.get(label, 0) and (tenth == 10 or total > SHORT_BYTES):
            said[label] = tenth
            say(f"{label}: {megabytes(done)} of {megabytes(total)}")

    return report
