"""`python -m worker.doctor`: is this machine fit to run the worker, and if not, what is to be done."""

import argparse
import sys

try:
    from rich.console import Console

    from core.errors import SettingsError
    from core.settings import Settings
    from worker.doctor.child import run_deep
    from worker.doctor.examine import examine
    from worker.doctor.findings import faults
    from worker.doctor.occasion import Occasion
    from worker.doctor.report import as_json, show
except ImportError as missing:  # the doctor itself needs a part of the lock
    sys.exit(
        f"doctor: 1 fault: {missing}. Install the lock: `pip install --no-deps --require-hashes -r requirements/worker.txt`; "
        "in a checkout `make setup`; for an image, build it again"
    )


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 1
    findings = list(examine(settings, Occasion.BUILD if given.build else Occasion.BY_HAND))
    if given.deep:
        findings += run_deep()
    if given.json:
        sys.stdout.write(as_json(findings) + "\n")
    else:
        show(Console(), findings)
    return 1 if faults(findings) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--build", action="store_true", help="what can be known while the image is built")
    parser.add_argument("--deep", action="store_true", help="also runs a second of speech through every stage on the device")
    return parser


if __name__ == "__main__":
    sys.exit(main())
