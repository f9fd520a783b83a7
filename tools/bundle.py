"""Everything that an installation needs, in one folder: `python -m tools.bundle` (`make bundle`). Its `install` uses no network."""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.locks import LOCKS
from tools.wheels import Wheelhouse, WheelsMissing, throw_away_pip

ROOT = LOCKS.parent
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """`roles`: the hashed locks of each; `pairs`: the locks without hashes, from `index`, that a role takes besides.

    `pair_needs` joins a role with a pair only if a wheel of the pair takes its CUDA libraries from packages.
    """

    installer: Path
    roles: Mapping[str, Path]
    pairs: Mapping[str, Path]
    pair_needs: Path
    index: str = ""
    profile: str = "demo"

    @property
    def digest(self) -> str:
        locks = [self.installer, *self.roles.values(), *self.pairs.values(), self.pair_needs]
        return hashlib.sha256(b"".join([*(lock.read_bytes() for lock in locks), self.index.encode()])).hexdigest()[:12]


OURS = Plan(
    LOCKS / "uv.txt",
    {"worker": LOCKS / "worker.txt", "service": LOCKS / "service.txt"},
    {"worker": LOCKS / "torch.txt"},
    LOCKS / "torch-pypi.txt",
)


def make(plan: Plan, into: Path, uv: str, say: Say) -> Path:
    """The bundle's folder, whole or not there at all. Raises `WheelsMissing`."""
    bundle = into / f"spillway-bundle-{plan.digest}"
    if bundle.exists():
        say(f"{bundle} is there already: remove it to make it again")
        return bundle
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=into) as unfinished:
        made = Path(unfinished) / "bundle"
        (made / "wheels").mkdir(parents=True)
        with tempfile.TemporaryDirectory() as tools:
            _fill(made, plan, Wheelhouse(made / "wheels", uv, throw_away_pip(uv, Path(tools) / "venv")), say)
        made.chmod(0o755)
        made.rename(bundle)
    return bundle


def _fill(made: Path, plan: Plan, house: Wheelhouse, say: Say) -> None:
    house.bring(plan.installer)
    for role, packages in _packages(plan, house, say).items():
        wheels = house.wheels()
        (made / f"{role}.txt").write_text("".join(f"{wheels[package].pinned}\n" for package in sorted(packages)))
    if plan.profile:
        pull = [sys.executable, "-m", "worker.model_files", "pull", "--profile", plan.profile, "--model-dir", str(made / "models")]
        if subprocess.run(pull, cwd=ROOT, check=False).returncode != 0:
            raise WheelsMissing("the models could not be brought: the line above says why")
    shutil.copy(ROOT / "tools" / "bundle_install.sh", made / "install")
    (made / "install").chmod(0o755)
    (made / "manifest.sha256").write_text("".join(_manifest(made)))


def _packages(plan: Plan, house: Wheelhouse, say: Say) -> dict[str, set[str]]:
    packages = {}
    for role, lock in plan.roles.items():
        say(f"bringing the {role}'s wheels")
        packages[role] = set(house.bring(lock))
    for role, pair in plan.pairs.items():
        say(f"bringing {pair.stem} from {plan.index or 'the default index'}")
        named = house.bring(pair, plan.index)
        packages[role] |= {*named, *_needs(plan, house, named)}
    house.build()
    return packages


def _needs(plan: Plan, house: Wheelhouse, pair: Iterable[str]) -> list[str]:
    wheels = house.wheels()
    return house.bring(plan.pair_needs) if any(wheels[name].takes_cuda_from_packages for name in pair) else []


def _manifest(folder: Path) -> Iterable[str]:
    """As sha256sum writes and checks it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            yield f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "dist", help="folder of the bundle's folder; default dist/")
    parser.add_argument("--torch-index", default="", help="index of the torch pair; default PyPI's")
    given = parser.parse_args()
    plan = Plan(OURS.installer, OURS.roles, OURS.pairs, OURS.pair_needs, given.torch_index)
    try:
        bundle = make(plan, given.into, os.environ.get("UV", "uv"), lambda text: print(f"bundle: {text}", flush=True))
    except WheelsMissing as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    print(f"bundle: {bundle} holds all that an installation needs:  {bundle}/install FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
