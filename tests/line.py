"""A line to a server on loopback that a test can go silent on: what is sent is taken, and nothing ever comes, as behind a dead router."""

import socket
import threading
from contextlib import suppress
from typing import Any


class Line:
    """A context. Connections that were there when the line went silent stay silent for good; new ones, once it speaks again, are well."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._server.getsockname()[1])
        self._life = 0  # of connections; those of an earlier one hear nothing any more
        self._is_silent = False
        self._ends: list[socket.socket] = []

    def __enter__(self) -> "Line":
        threading.Thread(target=self._accept, name="line", daemon=True).start()
        return self

    def __exit__(self, *raised: Any) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def go_silent(self) -> None:
        self._is_silent, self._life = True, self._life + 1

    def speak(self) -> None:
        self._is_silent = False

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self._join(self._server.accept()[0])

    def _join(self, near: socket.socket) -> None:
        self._ends.append(near)
        life = self._life
        try:
            far = socket.create_connection(self._to)
        except OSError:  # nobody is there: neither are we
            near.close()
            return
        self._ends.append(far)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink, -1 if self._is_silent else life), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, life: int) -> None:
        with suppress(OSError):
            while data := source.recv(64 * 1024):
                if life == self._life:
                    sink.sendall(data)
        if life == self._life:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
