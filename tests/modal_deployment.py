"""What the real `modal deploy` asks of Modal, and what it would have built: image, files, functions, secrets, volumes."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.conftest import ROOT
from tests.modal_server import ENVIRONMENT, ModalServer

SERVICE_FILES = ("Dockerfile", "modal_deploy.py", "core", "worker", "requirements")  # what the service's image holds of a checkout
BUILDER_VERSION = "2025.06"


@dataclass
class Deployment:
    """As the command sent it; files by their path in the container or in the build's context."""

    app_name: str = ""
    images: list[api_pb2.Image] = field(default_factory=list)
    mounts: dict[str, dict[str, bytes]] = field(default_factory=dict)  # mount id → path → content
    functions: dict[str, api_pb2.FunctionCreateRequest] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)  # secret id → what was sent with it
    volumes: list[str] = field(default_factory=list)
    is_published: bool = False

    def options(self, name: str) -> Any:
        """Of a function by its name: what all of its GPUs share."""
        request = self.functions[name]
        return request.function_data if request.HasField("function_data") else request.function

    def candidates(self, name: str) -> list[api_pb2.Function]:
        """One for each GPU, the preferred first."""
        request = self.functions[name]
        return [ranked.function for ranked in request.function_data.ranked_functions] or [request.function]


class DeployableServer(ModalServer):
    """Takes a deployment too. `named_secrets` are the account's, by name with their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.deployment = Deployment()
        self.named_secrets: dict[str, set[str]] = {}
        self.contents: dict[str, bytes] = {}

    def EnvironmentGetOrCreate(self, request: api_pb2.EnvironmentGetOrCreateRequest) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER_VERSION, webhook_suffix="")
        about = api_pb2.EnvironmentMetadata(name=request.deployment_name or ENVIRONMENT, settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=about)

    def AppGetByDeploymentName(self, _: api_pb2.AppGetByDeploymentNameRequest) -> api_pb2.AppGetByDeploymentNameResponse:
        return api_pb2.AppGetByDeploymentNameResponse()

    def AppCreate(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        self.deployment.app_name = request.description
        return api_pb2.AppCreateResponse(app_id="ap-1", app_page_url="http://127.0.0.1/app")

    def AppHeartbeat(self, _: api_pb2.AppHeartbeatRequest) -> None: ...

    def AppClientDisconnect(self, _: api_pb2.AppClientDisconnectRequest) -> None: ...

    def SecretGetOrCreate(self, request: api_pb2.SecretGetOrCreateRequest) -> api_pb2.SecretGetOrCreateResponse:
        name = request.deployment_name
        if name and (name not in self.named_secrets or not set(request.required_keys) <= self.named_secrets[name]):
            raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found in environment '{ENVIRONMENT}'")
        secret_id = f"st-{name}" if name else f"st-{len(self.deployment.secrets) + 1}"
        self.deployment.secrets[secret_id] = dict(request.env_dict)
        about = api_pb2.SecretMetadata(name=name, keys=sorted(self.named_secrets.get(name, ())))
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=about)

    def VolumeGetOrCreate(self, request: api_pb2.VolumeGetOrCreateRequest) -> api_pb2.VolumeGetOrCreateResponse:
        self.deployment.volumes.append(request.deployment_name)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=f"vo-{request.deployment_name}")

    def FunctionPrecreate(self, request: api_pb2.FunctionPrecreateRequest) -> api_pb2.FunctionPrecreateResponse:
        about = api_pb2.FunctionHandleMetadata(function_name=request.function_name, function_type=request.function_type)
        return api_pb2.FunctionPrecreateResponse(function_id=f"fu-{request.function_name}", handle_metadata=about)

    def MountGetOrCreate(self, request: api_pb2.MountGetOrCreateRequest) -> api_pb2.MountGetOrCreateResponse:
        if request.deployment_name:  # Modal's own
            return api_pb2.MountGetOrCreateResponse(mount_id=f"mo-{request.deployment_name}")
        mount_id = f"mo-{len(self.deployment.mounts) + 1}"
        self.deployment.mounts[mount_id] = {file.filename: self.contents[file.sha256_hex] for file in request.files}
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id)

    def MountBatchedCheckExistence(self, request: api_pb2.MountBatchedCheckExistenceRequest) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [digest for digest in request.sha256_hex_hashes if digest not in self.contents]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    def MountPutFile(self, request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
        sent = request.WhichOneof("data_oneof")
        if sent:
            self.contents[request.sha256_hex] = self.blobs[request.data_blob_id] if sent == "data_blob_id" else request.data
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.contents)

    def ImageGetOrCreate(self, request: api_pb2.ImageGetOrCreateRequest) -> api_pb2.ImageGetOrCreateResponse:
        self.deployment.images.append(request.image)
        return api_pb2.ImageGetOrCreateResponse(image_id=f"im-{len(self.deployment.images)}")

    def ImageJoinStreaming(self, _: api_pb2.ImageJoinStreamingRequest) -> api_pb2.ImageJoinStreamingResponse:
        """Built at once: what a Dockerfile's lines do is not looked at."""
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        about = api_pb2.ImageMetadata(image_builder_version=BUILDER_VERSION, python_version_info="3.11.18")
        return api_pb2.ImageJoinStreamingResponse(result=done, metadata=about, eof=True)

    def FunctionCreate(self, request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionCreateResponse:
        alone = api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)
        single = api_pb2.FunctionData(function_name=request.function.function_name, ranked_functions=[alone])
        data = request.function_data if request.HasField("function_data") else single
        self.deployment.functions[data.function_name] = request
        about = api_pb2.FunctionHandleMetadata(function_name=data.function_name, function_type=data.function_type, definition_id="de-1")
        return api_pb2.FunctionCreateResponse(
            function_id=request.existing_function_id or f"fu-{data.function_name}", handle_metadata=about, function_data=data
        )

    def ClassCreate(self, _: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        return api_pb2.ClassCreateResponse(class_id="cs-1", handle_metadata=api_pb2.ClassHandleMetadata())

    def AppPublish(self, _: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        self.deployment.is_published = True
        return api_pb2.AppPublishResponse(url="http://127.0.0.1/app", deployed_at=1.0)


def checkout_of(folder: Path) -> Path:
    """What `modal deploy` finds in the dispatcher's container; no torch, though this environment has it."""
    folder.mkdir()
    for source in (ROOT / name for name in SERVICE_FILES):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    (folder / "torch.py").write_text('raise ImportError("the image of the service has none")')
    return folder


def deploy(server: DeployableServer, folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """The command as an operator gives it, in a terminal wide enough that no message is broken."""
    ours = {"MODAL_SERVER_URL": server.url, "MODAL_TOKEN_ID": "ak-test", "MODAL_TOKEN_SECRET": "as-test", "COLUMNS": "400"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder), **ours, **settings}
    command = [sys.executable, "-m", "modal", "deploy", "modal_deploy.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def deployed(server: DeployableServer, folder: Path, **settings: str) -> Deployment:
    done = deploy(server, folder, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.deployment.is_published
    return server.deployment
