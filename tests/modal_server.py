"""Modal on loopback, as far as a deployed app needs it: lookup, spawn, outputs, cancel. What a call does is the test's to say.

The real client talks to it: MODAL_SERVER_URL is `url`, and the token is ak-test, as-test. `tests.modal_deployment` adds what the real
`modal deploy` needs, `tests.modal_container` runs the method of modal_deploy.py for real.
"""

import asyncio
import io
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_wire import Wire

APP, ENVIRONMENT = "spillway", "main"
CLASSES, FUNCTIONS = {"Transcriber": ("run",)}, ("fill",)
MOST_INLINE_BYTES = 2 * 1024**2
Result = api_pb2.GenericResult


@dataclass
class Conduct:
    """How a call goes. `ending` in place of what the function gives, once it has begun."""

    starts: threading.Event = field(default_factory=lambda: _set())  # it waits in Modal's queue until then
    runs: int = 1  # 2: preempted at the end of the first, and run again
    ends: threading.Event = field(default_factory=lambda: _set())  # nothing comes back before
    ending: Result | None = None


@dataclass
class Call:
    """One spawn, as the function sees it and as the test does."""

    id: str
    function: str  # `Transcriber.run`, `fill`
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    conduct: Conduct
    runs: int = 0  # begun
    result: Result | None = None
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    terminates_containers: bool = False
    is_expired: bool = False

    def end(self, result: Result) -> None:
        self.result = self.result or result


Remote = Callable[[Call], Any]


class ModalServer(Wire):
    def __init__(self, remote: Remote = lambda call: call.args) -> None:
        """`remote` is what runs remotely, in a thread of its own."""
        super().__init__()
        self.remote = remote
        self.is_deployed = True
        self.conducts: list[Conduct] = []  # of the next calls, in order; then all goes well
        self.calls: dict[str, Call] = {}
        self.limits: list[int] = []  # of containers, as they were set
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="remote")

    def __exit__(self, *raised: object) -> None:
        for call in self.calls.values():
            for event in (call.conduct.starts, call.conduct.ends, call.is_cancelled):
                event.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        super().__exit__(*raised)

    def FunctionGet(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        name = request.object_tag.removesuffix(".*")
        if not self.is_deployed or request.app_name != APP or name not in (*CLASSES, *FUNCTIONS):
            raise GRPCError(Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{ENVIRONMENT}'")
        about = _about_class(name) if name in CLASSES else _about(name)
        data = api_pb2.FunctionData(ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0)])
        return api_pb2.FunctionGetResponse(function_id=f"fu-{name}", handle_metadata=about, function=data)

    def ClassGet(self, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        if not self.is_deployed:
            raise GRPCError(Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{ENVIRONMENT}'")
        about = api_pb2.ClassHandleMetadata(
            class_function_id=f"fu-{request.object_tag}", class_function_metadata=_about_class(request.object_tag)
        )
        return api_pb2.ClassGetResponse(class_id=f"cs-{request.object_tag}", handle_metadata=about)

    def FunctionMap(self, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        (item,) = request.pipelined_inputs
        name = request.function_id.removeprefix("fu-") + (f".{item.input.method_name}" if item.input.method_name else "")
        args, kwargs = self._arguments(item.input)
        conduct = self.conducts.pop(0) if self.conducts else Conduct()
        call = Call(f"fc-{len(self.calls) + 1}", name, args, kwargs, conduct)
        self.calls[call.id] = call
        self._threads.submit(self._run, call)
        accepted = api_pb2.FunctionPutInputsResponseItem(idx=0, input_id=f"in-{call.id}", input_jwt=call.id)
        return api_pb2.FunctionMapResponse(function_call_id=call.id, function_call_jwt=call.id, pipelined_inputs=[accepted])

    async def FunctionGetOutputs(self, request: api_pb2.FunctionGetOutputsRequest) -> api_pb2.FunctionGetOutputsResponse:
        call, until = self.calls.get(request.function_call_id), time.monotonic() + request.timeout
        if call is None or call.is_expired:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        while call.result is None and time.monotonic() < until:
            await asyncio.sleep(0.01)
        if call.result is None:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        item = api_pb2.FunctionGetOutputsItem(result=call.result, idx=0, data_format=api_pb2.DATA_FORMAT_PICKLE)
        return api_pb2.FunctionGetOutputsResponse(outputs=[item], idxs=[0])

    def FunctionGetCurrentStats(self, _: api_pb2.FunctionGetCurrentStatsRequest) -> api_pb2.FunctionStats:
        waiting = [call for call in self.calls.values() if not call.runs and not call.is_cancelled.is_set()]
        return api_pb2.FunctionStats(backlog=len(waiting), num_total_tasks=len(self.calls) - len(waiting))

    def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        assert request.function_id == "fu-Transcriber"
        self.limits.append(request.settings.max_containers)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=request.settings)

    def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest) -> None:
        call = self.calls[request.function_call_id]
        call.terminates_containers = request.terminate_containers
        call.is_cancelled.set()
        call.end(Result(status=Result.GENERIC_STATUS_TERMINATED, exception="Input was cancelled by user"))

    def _arguments(self, given: api_pb2.FunctionInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert given.data_format == api_pb2.DATA_FORMAT_PICKLE
        found = _Plain(io.BytesIO(self.blobs[given.args_blob_id] if given.args_blob_id else given.args)).load()
        return found[0], found[1]

    def _run(self, call: Call) -> None:
        call.conduct.starts.wait()
        while call.runs < call.conduct.runs and not call.is_cancelled.is_set():
            call.runs += 1
            result = call.conduct.ending or self._outcome(call)
        call.conduct.ends.wait()
        if call.runs:
            call.end(result)

    def _outcome(self, call: Call) -> Result:
        try:
            given = pickle.dumps(self.remote(call))
        except BaseException as error:
            return raised(error)
        if len(given) > MOST_INLINE_BYTES:
            return Result(status=Result.GENERIC_STATUS_SUCCESS, data_blob_id=self.keep_blob(given))
        return Result(status=Result.GENERIC_STATUS_SUCCESS, data=given)


class _Plain(pickle.Unpickler):
    """The container's side of the contract: nothing of the caller's needs to be there."""

    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"the call carries {module}.{name}, which is no plain value")


def timed_out() -> Result:
    return Result(status=Result.GENERIC_STATUS_TIMEOUT, exception="Task's current input hit its timeout of 3600s")


def worker_lost() -> Result:
    return Result(status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception="Worker died")


def crashed() -> Result:
    return Result(status=Result.GENERIC_STATUS_FAILURE, exception="Container exited with code 139")


def raised(error: BaseException) -> Result:
    return Result(status=Result.GENERIC_STATUS_FAILURE, exception=repr(error), data=pickle.dumps(error))


def raised_unknown() -> Result:
    """An exception of a class that only the container has."""
    return Result(status=Result.GENERIC_STATUS_FAILURE, exception="Strange()", traceback="…", data=b"cnowhere_to_be_found\nStrange\n.")


def _about(name: str, **more: Any) -> api_pb2.FunctionHandleMetadata:
    kind = api_pb2.Function.FUNCTION_TYPE_FUNCTION
    return api_pb2.FunctionHandleMetadata(function_name=name, function_type=kind, definition_id=f"de-{name}", **more)


def _about_class(name: str) -> api_pb2.FunctionHandleMetadata:
    methods = {method: _about(f"{name}.{method}", is_method=True, use_method_name=method) for method in CLASSES[name]}
    return _about(f"{name}.*", method_handle_metadata=methods)


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event
