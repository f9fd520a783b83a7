"""What lies in the model folder: the lock beside the models, digests of the files, and one downloader at a time.

`models.lock.json` says what was pulled and is held to; `.digests.json` remembers digests of unchanged files
(same size, time and inode), so that a start does not read gigabytes again, and may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from core.errors import ModelMissing
from worker.model_catalog import HubSource, Model, Pin

LOCK_FILE = "models.lock.json"
DIGESTS_FILE = ".digests.json"


@dataclass(frozen=True)
class Record:
    source: str
    revision: str | None
    files: Mapping[str, Pin]


def read_lock(model_dir: Path) -> dict[str, Record]:
    path = model_dir / LOCK_FILE
    try:
        return {name: _record(entry) for name, entry in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMissing(f"{path} cannot be read ({error}): restore it, or delete it and pull again") from error


def write_record(model_dir: Path, name: str, record: Record) -> None:
    records = read_lock(model_dir) | {name: record}
    _replace(model_dir / LOCK_FILE, {known: asdict(records[known]) for known in sorted(records)})


def recorded(model: Model, model_dir: Path) -> Record | None:
    """The lock's record; none if the catalog pins another revision by now."""
    record = read_lock(model_dir).get(model.name)
    pinned = model.source.revision if isinstance(model.source, HubSource) else None
    # A user's revision may be a branch or a short hash; only a whole commit can contradict the record.
    return None if record and pinned and len(pinned) == 40 and record.revision != pinned else record


def expected_files(model: Model, model_dir: Path) -> Mapping[str, Pin | None]:
    """What must be there; a file without a pin (never pulled by us, filled by hand) may be anything."""
    if model.is_pinned:
        return model.files
    record = read_lock(model_dir).get(model.name)
    return record.files if record else dict.fromkeys(model.required)


def check(model: Model, model_dir: Path, *, quick: bool) -> None:
    """Raises `ModelMissing` naming the first file that is missing or not what it must be; `quick` looks at sizes only."""
    if found := fault(model, model_dir, quick=quick):
        raise ModelMissing(f"{found}: run `{pull_command(model, model_dir)}`")


def fault(model: Model, model_dir: Path, *, quick: bool) -> str:
    """What is wrong with the first file that is missing or not what it must be; empty if none is."""
    for name, pin in expected_files(model, model_dir).items():
        path = model_dir / model.name / name
        if not path.is_file():
            return f"{path} is missing"
        if pin and (path.stat().st_size != pin.bytes or not (quick or digest(path, model_dir) == pin.sha256)):
            return f"{path} is not the file that was recorded (damaged or replaced)"
    return ""


def pull_command(model: Model, model_dir: Path) -> str:
    return f"python -m worker.model_files pull {model.short_name} --model-dir {model_dir}"


def digest(path: Path, model_dir: Path) -> str:
    """sha256 of a file, remembered while the file stays the same."""
    known = _remembered(model_dir).get(str(path.relative_to(model_dir)), {})
    if known.get("stamp") == _stamp(path):
        return str(known["sha256"])
    found = sha256(path)
    remember(path, found, model_dir)
    return found


def remember(path: Path, found: str, model_dir: Path) -> None:
    entry = {str(path.relative_to(model_dir)): {"stamp": _stamp(path), "sha256": found}}
    with contextlib.suppress(OSError):  # a read-only folder only costs reading again
        _replace(model_dir / DIGESTS_FILE, _remembered(model_dir) | entry)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def sole_downloader(model_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder against other downloaders, in this and in other processes; waits for them and says so."""
    with (model_dir / ".pull.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another pull is filling {model_dir}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _record(entry: Mapping[str, Any]) -> Record:
    return Record(entry["source"], entry["revision"], {name: Pin(**pin) for name, pin in entry["files"].items()})


def _remembered(model_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((model_dir / DIGESTS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.new")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
