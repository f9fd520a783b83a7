"""A disk so small that a test can fill it: a tmpfs of its own, mounted where a test wants it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SPARE = "ballast"


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """Skips the test where nobody lets us mount one, and says why.

    A process in a mount namespace of its own holds it: so it needs no root where users may have namespaces, and is gone with the
    process whatever becomes of the test. Where they may not (Ubuntu 24.04's AppArmor), sudo mounts it.
    """
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size={size_mb}m tmpfs {folder}"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{mount} && echo mounted && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stderr
        try:
            if holder.stdout.readline():
                yield Path(f"/proc/{holder.pid}/root{folder}")
                return
            refusal = holder.stderr.read().strip()
        finally:
            holder.stdin.close()
    with _mounted_by_sudo(folder, size_mb, refusal):
        yield folder


@contextmanager
def _mounted_by_sudo(folder: Path, size_mb: int, refusal: str) -> Iterator[None]:
    if not shutil.which("sudo"):
        pytest.skip(f"no small disk could be mounted, and there is no sudo: {refusal}")
    options = f"size={size_mb}m,uid={os.getuid()},mode=700"
    mounted = subprocess.run(["sudo", "-n", "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk could be mounted: {refusal}; {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["sudo", "-n", "umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """To the last byte."""
    with open(disk / SPARE, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
    assert shutil.disk_usage(disk).free == 0


def make_room(disk: Path) -> None:
    (disk / SPARE).unlink()
