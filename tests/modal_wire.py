"""gRPC and blobs on loopback, for a Modal of our own: `modal_proto` as pip's modal ships it, one plain method for each call."""

import asyncio
import hashlib
import threading
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Server, Stream
from modal_proto import api_grpc, api_pb2

from tests.conftest import free_port


class _Anything:
    def __getattr__(self, name: str) -> None:
        return None


# The calls of the protocol by their paths, with the types of request and reply.
PROTOCOL: dict[str, Handler] = api_grpc.ModalClientBase.__mapping__(_Anything())  # type: ignore[arg-type]


@dataclass
class Fault:
    """What happens to the next `times` calls of `rpc`, instead of an answer or before it; also of `put_blob` and `get_blob`."""

    rpc: str
    status: Status | None = None
    message: str = ""
    times: int = 1
    loses_reply: bool = False  # it is done, and the caller hears `status` all the same
    is_silent: bool = False  # nothing comes until the server is closed


class Wire:
    """A server whose methods, named as the calls of Modal's protocol, take a request and give a reply."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.heard: list[str] = []  # names of the calls, in order
        self.blobs: dict[str, bytes] = {}
        self.tokens = {"ak-test": "as-test"}
        self._repeats: dict[str, Any] = {}  # replies by idempotency key, as Modal's own keep them
        self._ports = free_port(), free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modal", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __mapping__(self) -> dict[str, Handler]:
        """grpclib's own way of asking what is served; whatever has no method here is unimplemented."""
        served = {path: (handler, path.rpartition("/")[2]) for path, handler in PROTOCOL.items()}
        return {
            path: Handler(self._serving(name, getattr(self, name)), handler.cardinality, handler.request_type, handler.reply_type)
            for path, (handler, name) in served.items()
            if hasattr(self, name)
        }

    def BlobCreate(self, request: api_pb2.BlobCreateRequest) -> api_pb2.BlobCreateResponse:
        blob_id = f"bl-{b64decode(request.content_sha256_base64).hex()}"
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id, blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[self._blob_url(blob_id)])
        )

    def BlobGet(self, request: api_pb2.BlobGetRequest) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=self._blob_url(request.blob_id))

    def keep_blob(self, content: bytes) -> str:
        blob_id = f"bl-{uuid4().hex}"
        self.blobs[blob_id] = content
        return blob_id

    def _serving(self, name: str, method: Callable[[Any], Any]) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
        async def serve(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            headers = dict(stream.metadata or {})
            self.heard.append(name)
            fault = self._fault(name)
            if fault and fault.is_silent:
                await asyncio.Event().wait()
            if self.tokens.get(str(headers.get("x-modal-token-id"))) != headers.get("x-modal-token-secret"):
                raise GRPCError(Status.UNAUTHENTICATED, "Token ID not found")
            if fault and fault.status and not fault.loses_reply:
                raise GRPCError(fault.status, fault.message)
            reply = await self._reply(method, request, str(headers.get("x-idempotency-key", "")))
            if fault and fault.status:
                raise GRPCError(fault.status, fault.message)
            await stream.send_message(reply)

        return serve

    async def _reply(self, method: Callable[[Any], Any], request: Any, key: str) -> Any:
        """A call that is repeated under its key is done once."""
        if key and key in self._repeats:
            return self._repeats[key]
        found = method(request)
        reply = (await found if asyncio.iscoroutine(found) else found) or Empty()
        if key:
            self._repeats[key] = reply
        return reply

    def _fault(self, name: str) -> Fault | None:
        found = next((fault for fault in self.faults if fault.rpc == name and fault.times > 0), None)
        if found:
            found.times -= 1
        return found

    def _blob_url(self, blob_id: str) -> str:
        return f"http://127.0.0.1:{self._ports[1]}/{blob_id}"

    async def _start(self) -> None:
        self._server = Server([self])
        await self._server.start("127.0.0.1", self._ports[0])
        blobs = web.Application(client_max_size=100 * 1024**2)
        blobs.router.add_put("/{blob}", self._put_blob)
        blobs.router.add_get("/{blob}", self._get_blob)
        self._blob_runner = web.AppRunner(blobs)
        await self._blob_runner.setup()
        await web.TCPSite(self._blob_runner, "127.0.0.1", self._ports[1]).start()

    async def _put_blob(self, request: web.Request) -> web.Response:
        content = await request.read()
        if self._fault("put_blob"):
            return web.Response(status=500)
        self.blobs[request.match_info["blob"]] = content
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    async def _get_blob(self, request: web.Request) -> web.Response:
        if fault := self._fault("get_blob"):
            assert request.transport is not None
            if fault.loses_reply:
                request.transport.abort()
            return web.Response(status=500)
        return web.Response(body=self.blobs[request.match_info["blob"]])

    async def _stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        await self._blob_runner.cleanup()

    def _wait(self, step: Any) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=20)
