"""Calls to Modal: the one module that imports its client. Every call has an end, whatever Modal does."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import modal
from aiohttp import ClientError  # what Modal's client asks its storage by

from core.burst import DEPLOY, Bundle, Reply
from core.errors import OurError
from core.settings import Settings, variable

Answer = TypeVar("Answer")
ASK_TIMEOUT_S = 20.0  # a peer that takes connections and says nothing held the client for minutes (research: over 150 s)
SEND_TIMEOUT_S = 60.0
CLOSE_S = 2.0
SLOWEST_UPLOAD = 100_000.0  # bytes per second; slower and a burst is no help
LOGS = "Modal's dashboard shows its logs"
REPLY_NOT_GIVEN = "Get from url"  # so modal 1.6.4 begins what it says of a reply in its storage, which large ones go to
MOST_HUNG = 8  # calls whose time is up and that have not come back


class Why(StrEnum):
    """What a failed call says of the next one, and of its jobs."""

    AWAY = "modal_away"  # unreachable, overloaded, over its quota: later
    REFUSED = "modal_refused"  # until somebody deploys, or mends the token
    BROKE = "modal_call_lost"  # it ran, or may have: the jobs in it may be why


class CallFailed(OurError):
    """The message says what to do."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Place:
    """Where on Modal, and as whom."""

    app: str
    environment: str | None
    token_id: str | None
    token_secret: str | None

    @classmethod
    def of(cls, settings: Settings) -> "Place":
        return cls(settings.modal_app, settings.modal_environment, settings.modal_token_id, settings.modal_token_secret)


class ModalCalls:
    """Safe to be called from several threads. Every method raises `CallFailed`."""

    def __init__(self, place: Place, *, ask_timeout_s: float = ASK_TIMEOUT_S, send_timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._place, self._ask_timeout_s, self._send_timeout_s = place, ask_timeout_s, send_timeout_s
        self._hung: list[threading.Thread] = []
        self._connected: modal.Client | None = None

    def spawn(self, bundle: Bundle, recordings: Mapping[str, bytes]) -> str:
        """The call's id. A failure says that nothing was started, save `Why.BROKE`: then nobody knows."""
        timeout_s = self._send_timeout_s + sum(map(len, recordings.values())) / SLOWEST_UPLOAD
        method = self._before_it_is_sent()
        try:
            return self._bounded(lambda: _sent(method, bundle, recordings), timeout_s)
        except TimeoutError:
            raise CallFailed(Why.BROKE, f"Modal did not take the call within {timeout_s:.0f} s") from None

    def _before_it_is_sent(self) -> Any:
        """The method to be called. Looked up by itself, so that whatever fails here is known to have begun nothing."""
        try:
            return self._asked(self._found)
        except CallFailed as failure:
            raise CallFailed(Why.REFUSED if failure.why == Why.REFUSED else Why.AWAY, str(failure)) from failure

    def poll(self, call_id: str) -> Reply | None:
        """None while it waits or runs: the container never raises what the client would take for that."""

        def ask() -> Reply | None:
            try:
                return Reply.read(self._call(call_id).get(timeout=0))
            except TimeoutError:
                return None
            except known.ExecutionError as error:
                if not str(error).startswith(REPLY_NOT_GIVEN):
                    raise
                raise CallFailed(Why.AWAY, "Modal's storage does not give the reply") from error

        return self._asked(ask)

    def cancel(self, call_id: str) -> None:
        """Its container goes too: a job that hangs there ends with it."""
        self._asked(lambda: self._call(call_id).cancel(terminate_containers=True))

    def limit(self, containers: int) -> None:
        """Until the next deployment there are no more of them at once; those that run go on."""
        self._asked(lambda: self._method.autoscaler.update(max_containers=containers))

    def waiting_calls(self) -> int:
        """Calls that no container has begun."""
        return int(self._asked(lambda: self._method.get_current_stats().backlog))

    def fill_volume(self, timeout_s: float) -> dict[str, Any]:
        """Has the models brought to Modal: what was said, line by line, and an error or None."""
        fill = modal.Function.from_name(self._place.app, "fill", environment_name=self._place.environment, client=self._client)
        try:
            return self._bounded(lambda: dict(fill.remote()), timeout_s)
        except TimeoutError:
            raise CallFailed(
                Why.BROKE, f"the models did not come within {timeout_s:.0f} s: run it again, it goes on where it was"
            ) from None

    def close(self) -> None:
        """Lets go of what the client holds, if Modal was ever asked."""
        if self._connected is not None:
            with suppress(CallFailed, TimeoutError):
                self._bounded(self._connected.close, CLOSE_S)

    @property
    def _client(self) -> modal.Client:
        """Connects at its first use; a process that forks afterwards would have to make its own. Without a lock, which an attempt that
        hangs for a minute would hold: two threads may connect, and one connection be forgotten."""
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _connect(self) -> modal.Client:
        if not (self._place.token_id and self._place.token_secret):
            names = f"{variable('modal_token_id')} and {variable('modal_token_secret')}"
            raise CallFailed(Why.REFUSED, f"there is no token for Modal: set {names} (modal.com, Settings, API tokens)")
        return modal.Client.from_credentials(self._place.token_id, self._place.token_secret)

    @property
    def _method(self) -> Any:
        found = modal.Cls.from_name(self._place.app, "Transcriber", environment_name=self._place.environment, client=self._client)
        return found().run

    def _found(self) -> Any:
        method = self._method
        method.hydrate()
        return method

    def _call(self, call_id: str) -> Any:
        return modal.FunctionCall.from_id(call_id, client=self._client)

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return self._bounded(ask, self._ask_timeout_s)
        except TimeoutError:
            raise CallFailed(Why.AWAY, f"Modal did not answer within {self._ask_timeout_s:.0f} s") from None

    def _bounded(self, call: Callable[[], Answer], timeout_s: float) -> Answer:
        """Raises `TimeoutError` when its time is up; its thread is left behind, as nothing ends a call that hangs inside the client."""
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= MOST_HUNG:
            self._hang_up()
            raise CallFailed(Why.AWAY, f"{len(self._hung)} calls to Modal hang: it is connected to anew")
        answer: Future[Answer] = Future()
        thread = threading.Thread(target=_answer, args=(call, answer), name="modal", daemon=True)
        thread.start()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            self._hung.append(thread)
            raise

    def _hang_up(self) -> None:
        """Ends what hangs on the connection, which may never be answered, with whatever else is asked on it."""
        hung, self._connected = self._connected, None
        if hung is not None:
            threading.Thread(target=hung.close, name="modal-hang-up", daemon=True).start()


def _sent(method: Any, bundle: Bundle, recordings: Mapping[str, bytes]) -> str:
    try:
        return str(method.spawn(bundle.plain(), dict(recordings)).object_id)
    except known.ExecutionError as error:  # of the storage that recordings go to before the call is made
        raise CallFailed(Why.AWAY, "Modal's storage does not take the recordings") from error
    except known.ClientClosed as error:
        raise CallFailed(Why.BROKE, "the connection to Modal was given up while the call was sent") from error


def _answer(call: Callable[[], Answer], answer: "Future[Answer]") -> None:
    try:
        answer.set_result(call())
    except TimeoutError:
        answer.set_exception(CallFailed(Why.AWAY, "Modal's client gave up waiting"))
    except Exception as error:
        answer.set_exception(_failure(error))


def _failure(error: Exception) -> CallFailed:
    """A message of ours: what an exception of theirs carries may come from the container."""
    if isinstance(error, CallFailed):
        return error
    for kinds, why, message in MEANINGS:
        if isinstance(error, kinds):
            return CallFailed(why, message)
    return CallFailed(Why.BROKE, f"the call on Modal broke ({type(error).__name__}): {LOGS}")


known = modal.exception
MEANINGS: tuple[tuple[tuple[type[Exception], ...], Why, str], ...] = (
    ((known.NotFoundError,), Why.REFUSED, f"the app is not deployed on Modal, or an older one is: `{DEPLOY}`"),
    ((known.AuthError, known.PermissionDeniedError), Why.REFUSED, "Modal refuses the token: make a new one (modal.com, Settings)"),
    (
        (known.VersionError, known.InvalidError, known.RequestSizeError),
        Why.REFUSED,
        f"Modal refuses the call as it is made: update Spillway if there is a newer release, then `{DEPLOY}`",
    ),
    ((known.ResourceExhaustedError,), Why.AWAY, "Modal's quota or budget is used up: see modal.com, Settings, Usage"),
    ((known.FunctionTimeoutError,), Why.BROKE, f"the call took longer than {variable('modal_timeout_s')}"),
    ((known.OutputExpiredError,), Why.BROKE, "Modal does not know the call any more"),
    ((known.InternalFailure, known.RemoteError, known.ExecutionError), Why.BROKE, f"the container on Modal was lost, or broke: {LOGS}"),
    ((known.Error, OSError, ClientError), Why.AWAY, "Modal is not to be reached, or not well"),
)  # fmt: skip
