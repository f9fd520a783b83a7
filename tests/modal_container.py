"""A container on Modal, as a process: runs the method of a modal_deploy.py for real, for calls that come over a socket.

`python -P tests/modal_container.py SOCKET`, with a deployment's files on PYTHONPATH and its variables in the environment. Modal's own
part is what is replaced here: which call it is, and the word that no more are wanted.
"""

import sys
from multiprocessing.connection import Client
from typing import Any

import modal
import modal.experimental


def main(socket: str) -> None:
    modal.is_local = lambda: False
    wants_more = [True]

    def take_no_more() -> None:
        """Modal's own is a call over the network: it may come through and fail all the same."""
        wants_more.append(False)
        raise modal.exception.ServiceError("no answer")

    modal.experimental.stop_fetching_inputs = take_no_more
    call_id = [""]
    modal.current_function_call_id = lambda: call_id[0]
    with Client(socket) as box:
        import modal_deploy

        transcriber: Any = modal_deploy.Transcriber()
        while True:
            try:
                call_id[0], args = box.recv()
            except EOFError:
                return
            box.send((transcriber.run.local(*args), wants_more[-1]))


if __name__ == "__main__":
    main(sys.argv[1])
