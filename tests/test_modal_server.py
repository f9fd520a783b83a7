"""The server that stands in for Modal, asked by Modal's own client: what our bridge will meet, each with the client's own exception."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import modal
import pytest
from grpclib import Status

from core.job import Priority
from tests.conftest import wait_for
from tests.modal_server import Call, Conduct, ModalServer, crashed, raised, raised_unknown, timed_out, worker_lost
from tests.modal_wire import Fault


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModalServer]:
    with ModalServer() as running:
        monkeypatch.setenv("MODAL_SERVER_URL", running.url)
        yield running


@pytest.fixture
def client(server: ModalServer) -> Iterator[modal.Client]:  # noqa: ARG001 - the client asks the environment
    opened = modal.Client.from_credentials("ak-test", "as-test")
    yield opened
    opened.close()


def spawn(client: modal.Client, *args: Any) -> Any:
    return modal.Cls.from_name("spillway", "Transcriber", client=client)().run.spawn(*args)


def test_a_call_gives_what_the_function_does(server: ModalServer, client: modal.Client) -> None:
    server.remote = lambda call: {"said": call.args[0]["word"], "by": call.function}
    call = spawn(client, {"word": "hello"})
    assert call.get(timeout=5) == {"said": "hello", "by": "Transcriber.run"}
    assert modal.FunctionCall.from_id(call.object_id, client=client).get(timeout=5)["said"] == "hello"


def test_a_function_of_the_app_is_found_by_its_name(server: ModalServer, client: modal.Client) -> None:
    server.remote = lambda call: {"by": call.function}
    assert modal.Function.from_name("spillway", "fill", client=client).spawn().get(timeout=5) == {"by": "fill"}


@pytest.mark.parametrize("bytes_sent", [7_000, 9_000, 3 * 1024**2])
def test_what_is_too_large_for_a_message_goes_and_comes_as_a_blob(server: ModalServer, client: modal.Client, bytes_sent: int) -> None:
    server.remote = lambda call: call.args[0]["a"]
    audio = bytes(range(256)) * (bytes_sent // 256)
    assert spawn(client, {"a": audio}).get(timeout=20) == audio
    assert ("BlobCreate" in server.heard) is (bytes_sent > 8 * 1024)
    assert ("BlobGet" in server.heard) is (bytes_sent > 2 * 1024**2)


def test_a_call_that_is_not_done_is_a_builtin_timeout(server: ModalServer, client: modal.Client) -> None:
    server.conducts = [Conduct(ends=threading.Event())]
    call = spawn(client, {})
    with pytest.raises(TimeoutError) as pending:
        call.get(timeout=0)
    assert not isinstance(pending.value, modal.exception.Error)


@pytest.mark.parametrize(
    ("ending", "meets"),
    [
        (timed_out(), modal.exception.FunctionTimeoutError),
        (worker_lost(), modal.exception.InternalFailure),
        (crashed(), modal.exception.RemoteError),
        (raised(ValueError("no")), ValueError),
        (raised_unknown(), modal.exception.ExecutionError),
    ],
    ids=["function timeout", "worker lost", "crash", "exception", "unknown exception"],
)
def test_a_call_that_ends_badly_raises_what_modal_raises(
    server: ModalServer, client: modal.Client, ending: Any, meets: type[Exception]
) -> None:
    server.conducts = [Conduct(ending=ending)]
    with pytest.raises(meets):
        spawn(client, {}).get(timeout=5)


def test_an_expired_result_says_so(server: ModalServer, client: modal.Client) -> None:
    call = spawn(client, {})
    server.calls[call.object_id].is_expired = True
    with pytest.raises(modal.exception.OutputExpiredError):
        call.get(timeout=0)


def test_an_app_that_is_not_deployed_is_not_found(server: ModalServer, client: modal.Client) -> None:
    server.is_deployed = False
    with pytest.raises(modal.exception.NotFoundError):
        spawn(client, {})


def test_a_wrong_token_is_refused(server: ModalServer) -> None:
    with modal.Client.from_credentials("ak-test", "as-other") as other, pytest.raises(modal.exception.AuthError):
        spawn(other, {})
    assert server.calls == {}


def test_a_used_up_quota_refuses_the_spawn(server: ModalServer, client: modal.Client) -> None:
    server.faults = [Fault("FunctionMap", Status.RESOURCE_EXHAUSTED, "workspace budget reached")]
    with pytest.raises(modal.exception.ResourceExhaustedError):
        spawn(client, {})
    assert server.calls == {}


def test_a_short_absence_is_bridged_by_the_client(server: ModalServer, client: modal.Client) -> None:
    server.faults = [Fault("FunctionMap", Status.UNAVAILABLE, "back soon", times=2)]
    assert spawn(client, "x").get(timeout=5) == ("x",)


def test_a_spawn_whose_reply_is_lost_is_done_once(server: ModalServer, client: modal.Client) -> None:
    server.faults = [Fault("FunctionMap", Status.UNAVAILABLE, "the reply was lost", loses_reply=True)]
    assert spawn(client, "x").get(timeout=5) == ("x",)
    assert len(server.calls) == 1


def test_an_absence_that_lasts_is_an_error(server: ModalServer, client: modal.Client) -> None:
    server.faults = [Fault("FunctionMap", Status.UNAVAILABLE, "gone", times=100)]
    with pytest.raises(modal.exception.ServiceError):
        spawn(client, {})


def test_a_silent_peer_answers_nothing(server: ModalServer, client: modal.Client) -> None:
    server.faults = [Fault("FunctionMap", is_silent=True)]
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # that the client is closed at last
            spawn(client, {})
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    wait_for(lambda: "FunctionMap" in server.heard, "the spawn")
    assert not answered.wait(0.5)


def test_a_cancelled_call_ends_and_the_function_hears_of_it(server: ModalServer, client: modal.Client) -> None:
    heard = threading.Event()

    def remote(call: Call) -> None:
        assert call.is_cancelled.wait(5)
        heard.set()

    server.remote = remote
    call = spawn(client, {})
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=5)
    assert heard.wait(5)
    assert server.calls[call.object_id].terminates_containers


def test_a_preempted_call_is_run_twice_under_one_id(server: ModalServer, client: modal.Client) -> None:
    server.conducts = [Conduct(runs=2)]
    server.remote = lambda call: f"{call.id} run {call.runs}"
    call = spawn(client, {})
    assert call.get(timeout=5) == f"{call.object_id} run 2"


def test_a_call_that_never_started_can_be_taken_back(server: ModalServer, client: modal.Client) -> None:
    server.conducts = [Conduct(starts=threading.Event())]
    call = spawn(client, {})
    call.cancel()
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=5)
    assert server.calls[call.object_id].runs == 0


def test_an_object_of_ours_does_not_pass_for_a_plain_value(server: ModalServer, client: modal.Client) -> None:
    with pytest.raises(modal.exception.Error):
        spawn(client, Priority.HIGH)
    assert server.calls == {}
