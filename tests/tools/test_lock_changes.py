from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tools.lock_changes import Move, moves, read_folder, rehashed, show
from tools.locks import read_pins

A, B = "a" * 64, "b" * 64
HEADER = "# made by a tool\n--only-binary :all:\n\n"
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a folder of locks: `written("before", dev="httpx==1 …")`."""

    def write(folder: str, **locks: str) -> Path:
        (tmp_path / folder).mkdir()
        for name, text in locks.items():
            (tmp_path / folder / f"{name}.txt").write_text(HEADER + text)
        return tmp_path / folder

    return write


def pin(package: str, version: str, *digests: str) -> str:
    return f"{package}=={version} \\\n" + " \\\n".join(f"    --hash=sha256:{digest}" for digest in digests) + "\n    # via something\n"


def shown(before: Path, after: Path) -> str:
    output = StringIO()
    show(read_folder(before), read_folder(after), Console(file=output, width=100))
    return output.getvalue()


def test_a_lock_is_read_by_package_version_and_hashes() -> None:
    pins = read_pins(HEADER + pin("Pyannote.Audio", "3.1.1", A, B) + pin("httpx[http2]", "0.28.1", A) + "# torch\n")
    assert {package: (pin.version, len(pin.hashes)) for package, pin in pins.items()} == {
        "pyannote-audio": ("3.1.1", 2),
        "httpx": ("0.28.1", 1),
    }


def test_a_move_is_told_once_with_every_lock_it_touches(written: Written) -> None:
    before = written("before", dev=pin("httpx", "1", A) + pin("gone", "1", A), service=pin("httpx", "1", A))
    after = written("after", dev=pin("httpx", "2", B) + pin("come", "3", A), service=pin("httpx", "2", B))
    assert moves(read_folder(before), read_folder(after)) == {
        Move("come", None, "3"): ["dev.txt"],
        Move("gone", "1", None): ["dev.txt"],
        Move("httpx", "1", "2"): ["dev.txt", "service.txt"],
    }


def test_a_package_whose_files_alone_changed_has_not_moved(written: Written) -> None:
    before, after = written("before", dev=pin("httpx", "1", A)), written("after", dev=pin("httpx", "1", A, B))
    assert moves(read_folder(before), read_folder(after)) == {}
    assert rehashed(read_folder(before), read_folder(after)) == {"dev.txt": ["httpx"]}
    assert "dev.txt: the hashes alone changed of httpx" in shown(before, after)


def test_what_moved_is_shown_with_from_and_to(written: Written) -> None:
    table = shown(written("before", dev=pin("httpx", "0.27.0", A)), written("after", dev=pin("httpx", "0.28.1", B)))
    row = next(line for line in table.splitlines() if "httpx" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["httpx", "0.27.0", "0.28.1", "dev.txt"]


def test_a_refresh_that_moved_nothing_says_so(written: Written) -> None:
    same = pin("httpx", "1", A)
    assert shown(written("before", dev=same), written("after", dev=same)).startswith("nothing moved")
