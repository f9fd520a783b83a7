"""gunicorn's threads, kept from clients that would hold on to them."""

from contextlib import suppress
from socket import SHUT_RD
from time import monotonic
from typing import Any

from gunicorn.workers.gthread import DEFAULT_WORKER_DATA_TIMEOUT, ThreadWorker

from service.edge import hang_up

HEAD_S = DEFAULT_WORKER_DATA_TIMEOUT  # gunicorn waits as long for the first byte, but for ever for the rest of a request's head


class Worker(ThreadWorker):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heads: dict[Any, float] = {}  # connections whose request's head is being read, and until when it may be

    def handle(self, conn: Any) -> Any:
        """Hangs up in the thread that served the connection.

        gunicorn 27 does so on its main thread (gthread.finish_request → util.close_graceful), where a client that keeps its end open
        for as long as it can stops all others: four of them for 7.8 s.
        """
        self._heads[conn] = monotonic() + HEAD_S
        try:
            is_kept = super().handle(conn)
        finally:
            self._heads.pop(conn, None)
        if not is_kept:
            hang_up(conn.sock)
        return is_kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        self._heads.pop(conn, None)
        return super().handle_request(req, conn)

    def notify(self) -> None:
        """Comes once a second, on the main thread. To the one that reads, the client then seems to have gone."""
        super().notify()
        for conn, until in list(self._heads.items()):
            if monotonic() > until:
                with suppress(OSError):
                    conn.sock.shutdown(SHUT_RD)
