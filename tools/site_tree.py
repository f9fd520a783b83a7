"""Whether two environments hold the same packages to the byte: `python -m tools.site_tree FOLDER FOLDER`."""

import hashlib
import sys
from pathlib import Path


def digests(environment: Path) -> dict[str, str]:
    """Digest by path in site-packages, bytecode aside: it holds the time of its source."""
    site = environment / "lib" / "python3.11" / "site-packages"
    files = (path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(site)): _digest(path) for path in files}


def differences(one: Path, other: Path) -> list[str]:
    first, second = digests(one), digests(other)
    return sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    one, other = (Path(argument) for argument in sys.argv[1:])
    different = differences(one, other)
    print(*(f"differs: {path}" for path in different), f"{len(digests(one))} files, {len(different)} differ", sep="\n")
    sys.exit(bool(different) or not digests(one))
