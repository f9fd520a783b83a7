"""Fills the model folder: what is there and right stays, what is missing comes whole or not at all."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import httpx

from core.errors import ModelMissing
from core.log import logger
from worker.model_catalog import ALIGNMENT, Model
from worker.model_download import Downloader, Report, Transfer, megabytes
from worker.model_lock import Record, check, recorded, remember, sole_downloader, write_record
from worker.model_sources import Plan, Supply, bring, plan
from worker.package_index import package_indexes

TIMEOUT_S = 60.0
log = logger("worker.models")
Say = Callable[[str], None]
Expect = Callable[[Sequence[Transfer]], None]


def pull(models: Sequence[Model], model_dir: Path, supply: Supply, say: Say, *, expect: Expect = lambda _: None) -> None:
    """If everything is there, no request is made and nothing is written.

    What is pulled is held to the digests of the catalog and of the lock. One pull at a time fills a folder; a cut one is
    taken up by the next. `expect` hears of every transfer before the first byte. Raises `ModelMissing`, `DiskFull`.
    """
    missing = [model for model in models if not is_complete(model, model_dir)]
    for model in models:
        if model not in missing:
            say(f"{model.short_name}: up to date")
    if not missing:
        return
    with _writing(model_dir):
        supply.downloader.folder.mkdir(parents=True, exist_ok=True)
        with sole_downloader(model_dir, say):
            supply.downloader.folder.mkdir(exist_ok=True)  # a pull that was waited for has taken it away
            _bring(_still_missing(missing, model_dir, say), model_dir, supply, say=say, expect=expect)


def _bring(models: Iterable[Model], model_dir: Path, supply: Supply, *, say: Say, expect: Expect) -> None:
    plans = [plan(model, supply, recorded(model, model_dir)) for model in models]
    transfers = {transfer.name: transfer for one in plans for transfer in one.transfers}  # models may share a wheel
    expect(tuple(transfers.values()))
    needed = sum(one.bytes - one.there_bytes for one in transfers.values()) + sum(one.unpacked_bytes for one in plans)
    with supply.downloader.room_for(needed, " and ".join(one.model.name for one in plans)):
        for one in plans:
            _install(one, model_dir, say)
    shutil.rmtree(supply.downloader.folder, ignore_errors=True)


def pull_alignment(language: str, *, model_dir: Path, hf_token: str | None) -> None:
    """Brings a language's forced alignment model, if one is known. Raises `ModelMissing`, `DiskFull`."""
    model = ALIGNMENT.get(language)
    if model is None:
        return
    with supply_for(model_dir, hf_token, lambda *_: None) as supply:
        pull([model], model_dir, supply, lambda line: log.info("pull", said=line))


def is_complete(model: Model, model_dir: Path) -> bool:
    """Every file is there and has the digest it must have."""
    if not (model.is_pinned or recorded(model, model_dir)):
        return False
    try:
        check(model, model_dir)
    except ModelMissing:
        return False
    return True


@contextlib.contextmanager
def supply_for(model_dir: Path, hf_token: str | None, report: Report) -> Iterator[Supply]:
    """The network as this machine is set up for it: pip's indexes, the hub's token, proxies and certificates."""
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client:
        downloader = Downloader(model_dir / ".partial", client, report=report)
        yield Supply(downloader, tuple(package_indexes(os.environ)), hf_token)


def _still_missing(models: Sequence[Model], model_dir: Path, say: Say) -> Iterator[Model]:
    for model in models:
        if is_complete(model, model_dir):
            say(f"{model.short_name}: the other pull brought it")
        else:
            yield model


def _install(plan: Plan, model_dir: Path, say: Say) -> None:
    model, started = plan.model, time.monotonic()
    staging = model_dir / f".staging-{model.name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        record = bring(plan, staging)
        _settle(staging, record)
        write_record(model_dir, model.name, record)
        _swap(staging, model_dir / model.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for name, pin in record.files.items():
        remember(model_dir / model.name / name, pin.sha256, model_dir)
    say(f"{model.short_name}: {megabytes(sum(pin.bytes for pin in record.files.values()))} in {time.monotonic() - started:.1f} s")


def _settle(folder: Path, record: Record) -> None:
    """On the disk before it gets its name: after a power cut there is the whole model or none."""
    for name in record.files:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())


def _swap(staging: Path, target: Path) -> None:
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _writing(model_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelMissing(
            f"{model_dir} cannot be written ({error.strerror}): set SPILLWAY_MODEL_DIR (or --model-dir) to a folder that you may fill"
        ) from error
