"""Looks now and then for what no job accounts for, tells of it, and deletes it once it is old."""

import threading
from time import monotonic, time

from core.errors import StorageUnavailable, StoreUnavailable
from core.file_store import FileStore
from core.inventory import Inventory
from core.log import logger
from dispatcher.orphans import delete, look

log = logger("dispatcher.tidying")
EVERY_S = 6 * 3600.0  # a list of all files: a bucket is asked once for each thousand of them
ASK_EVERY_S = 60.0  # whether it is time: another leader may have looked
MOST_NAMED = 20  # in the log; the command names all
REMEDY = "restore redis, or, if the jobs are not wanted any more: python -m dispatcher.orphans --delete"


class Tidier:
    """`step` begins a look in a thread of its own and waits for nothing; one that breaks off is made anew."""

    def __init__(self, inventory: Inventory, files: FileStore, *, every_s: float = EVERY_S) -> None:
        self._inventory, self._files, self._every_s = inventory, files, every_s
        self._thread: threading.Thread | None = None
        self._ask_at = 0.0

    def step(self) -> None:
        """Raises `StoreUnavailable`."""
        if (self._thread and self._thread.is_alive()) or monotonic() < self._ask_at:
            return
        self._ask_at = monotonic() + min(ASK_EVERY_S, self._every_s)
        told = self._inventory.told()
        if told is None or time() - told.looked_at >= self._every_s:
            self._thread = threading.Thread(target=self._tidy, name="tidying", daemon=True)
            self._thread.start()

    def _tidy(self) -> None:
        began = monotonic()
        try:
            self._files.tidy()
            self._inventory.prune_workers()
            found = look(self._inventory, self._files)
            deleted = 0 if found.looks_like_lost_records else delete(found.old, self._inventory, self._files)
            self._inventory.tell(found.told(time()))
        except (StorageUnavailable, StoreUnavailable) as error:
            log.warning("orphans not looked for: tried again later", reason=str(error))
            return
        told = found.told(0)
        write = log.warning if told.files or told.missing else log.info
        write(
            "looked for orphans", files=told.files, bytes=told.bytes, deleted=deleted, missing=told.missing,
            young=len(found.orphans) - told.files, seconds=round(monotonic() - began, 2), see="python -m dispatcher.orphans",
        )  # fmt: skip
        if found.looks_like_lost_records:
            log.error("most files belong to no job: redis has lost its records, and no file is deleted", remedy=REMEDY)
        for expected in found.missing[:MOST_NAMED]:
            log.warning("file missing", job_id=expected.job_id, key=expected.key)
