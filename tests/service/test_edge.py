"""How a connection ends whose client still sends."""

import socket
import threading
from contextlib import suppress

import pytest

from service import edge
from tests.conftest import wait_for


@pytest.mark.parametrize("linger_s", [0.0, 0.2])
def test_a_client_whose_bytes_fill_the_buffers_hears_of_the_end_and_reads_the_answer(
    monkeypatch: pytest.MonkeyPatch, linger_s: float
) -> None:
    monkeypatch.setattr(edge, "LINGER_S", linger_s)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as client:
        connection, _ = listening.accept()

        def flood() -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    client.sendall(bytes(1024**2))
            ended.set()

        flooding = threading.Thread(target=flood, daemon=True)
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flooding.start()
            wait_for(lambda: connection.recv(1, socket.MSG_PEEK), "bytes to come")
            connection.sendall(b"the answer")
            edge.hang_up(connection)
            wait_for(ended.is_set, "the client to hear of it, while the connection is not closed")
            assert client.recv(100) == b"the answer"
        flooding.join()


def test_a_client_that_has_not_ended_reads_the_answer_and_is_reset_when_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "LINGER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as client:
        connection, _ = listening.accept()
        with connection:
            client.sendall(b"some of a request")
            connection.sendall(b"the answer")
            edge.hang_up(connection)
        assert client.recv(100) == b"the answer"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"and more")
