"""`python -m dispatcher.orphans [--delete]`: files that belong to no job, and files that a job has lost."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from core.errors import SpillwayError
from core.file_store import JOBS, UPLOADS, FileStore, Listed, is_product
from core.inventory import AT_ONCE, Expected, Inventory, Told
from core.redis_steps import connect
from core.settings import Settings
from core.storage import open_file_store

# A file is stored before its record is written, which a Redis that is away may delay; it is looked at long after.
SAFE_AGE_S = 24 * 3600.0
# A signed upload waits for the job that names it. It counts from its last byte, so that how long it took does not matter.
UPLOAD_AGE_S = 7 * 24 * 3600.0
MOST_JOBS = 100  # without a record, that crashes may have left behind between two looks


@dataclass(frozen=True)
class Orphan:
    file: Listed
    is_old: bool  # enough to be deleted


@dataclass(frozen=True)
class Found:
    orphans: list[Orphan] = field(default_factory=list)
    missing: list[Expected] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)  # jobs that have files and a record

    @property
    def looks_like_lost_records(self) -> bool:
        """Rather than lost files: an empty Redis, or an older copy of it, must not cost the transcripts too."""
        jobs = {_job_id(file) for file in self.old if _job_id(file)}
        return len(jobs) > len(self.recorded) and (len(jobs) > MOST_JOBS or not self.recorded)

    @property
    def old(self) -> list[Listed]:
        return [orphan.file for orphan in self.orphans if orphan.is_old]

    def told(self, looked_at: float) -> Told:
        return Told(looked_at, len(self.old), sum(file.bytes for file in self.old), len(self.missing))


def look(inventory: Inventory, files: FileStore, *, clock: Callable[[], float] = time.time) -> Found:
    """The records are always asked after the files, so that one stored just before its record is not taken for an orphan.

    Raises `StoreUnavailable`, `StorageUnavailable`.
    """
    found, results = Found(), set[str]()
    listed = files.listed(JOBS)
    while portion := list(islice(listed, AT_ONCE)):
        recorded = inventory.recorded({_job_id(file) for file in portion})
        found.recorded.update(recorded)
        found.orphans.extend(Orphan(file, file.stored_at < clock() - SAFE_AGE_S) for file in portion if _job_id(file) not in recorded)
        results |= {file.key for file in portion if not is_product(file.key)}
    found.orphans.extend(_abandoned_uploads(inventory, files, clock))
    found.missing.extend(_missing(inventory, files, results))
    return found


def delete(orphans: Sequence[Listed], inventory: Inventory, files: FileStore) -> int:
    """How many; those whose job has come back meanwhile, with a restored Redis say, stay."""
    deleted = 0
    for start in range(0, len(orphans), AT_ONCE):
        portion = orphans[start : start + AT_ONCE]
        recorded = inventory.recorded({_job_id(file) for file in portion})
        for file in portion:
            if _job_id(file) not in recorded:
                files.delete(file.key)
                deleted += 1
    return deleted


def _abandoned_uploads(inventory: Inventory, files: FileStore, clock: Callable[[], float]) -> Iterator[Orphan]:
    """A job that was fetched has a copy of its own."""
    uploads = list(files.listed(UPLOADS))
    awaited = {files.key_of(source) for source in inventory.sources()} if uploads else set()
    return (Orphan(file, file.stored_at < clock() - UPLOAD_AGE_S) for file in uploads if file.key not in awaited)


def _missing(inventory: Inventory, files: FileStore, listed: set[str]) -> Iterator[Expected]:
    """What came after the listing is there, and what has gone since is not wanted any more: both are looked at once more."""
    for expected in inventory.expected():
        if expected.key in listed:
            continue
        folder = f"{JOBS}/{expected.job_id}"
        if all(file.key != expected.key for file in files.listed(folder)) and inventory.still_expects(expected):
            yield expected


def _job_id(file: Listed) -> str:
    """Empty for what is no job's: an upload."""
    top, _, rest = file.key.partition("/")
    return rest.partition("/")[0] if top == JOBS else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dispatcher.orphans", description="Files without a job, and jobs without a file.")
    parser.add_argument("--delete", action="store_true", help="delete the files that are marked old; the dispatcher does so by itself")
    asked = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        files = open_file_store(settings)
        with connect(settings.redis_url) as redis:
            _say(Inventory(redis), files, deletes=asked.delete)
    except SpillwayError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _say(inventory: Inventory, files: FileStore, *, deletes: bool) -> None:
    """A line for each, its fields parted by tabs, then the sum."""
    found = look(inventory, files)
    for orphan in found.orphans:
        sys.stdout.write(f"{'old' if orphan.is_old else 'young'}\t{orphan.file.key}\t{orphan.file.bytes}\n")
    for expected in found.missing:
        sys.stdout.write(f"missing\t{expected.key}\n")
    told = found.told(0)
    deleted = f"; {delete(found.old, inventory, files)} deleted" if deletes else ""
    young = len(found.orphans) - told.files
    sys.stdout.write(
        f"{told.files} old files without a job ({told.bytes} bytes), {young} young ones that may yet get one,"
        f" {told.missing} files that jobs lack{deleted}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
