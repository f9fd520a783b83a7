"""What is written down beside the code is what the code says."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.settings import Settings
from tools import gpu_table, settings_table
from worker.doctor.kernels import DRIVER, PTX_DRIVER, dotted
from worker.engine.budget import SHAPES
from worker.model_catalog import CATALOG

ROOT = Path(__file__).parent.parent


def test_the_example_environment_is_the_settings_own() -> None:
    assert (ROOT / ".env.example").read_text() == settings_table.env_example(), "run: python -m tools.settings_table --env > .env.example"


def test_the_readmes_table_of_settings_is_the_codes() -> None:
    assert settings_table.markdown() in (ROOT / "README.md").read_text(), "put in the output of: python -m tools.settings_table"


def test_every_line_of_the_example_environment_is_a_valid_setting() -> None:
    lines = [line[1:] for line in settings_table.env_example().splitlines() if line.startswith("#SPILLWAY_")]
    given = dict(line.split("=", 1) for line in lines)
    assert Settings.from_environment(given) == Settings.from_environment({})


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_gpu_pages_tables_are_the_memory_budgets() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert gpu_table.memory() in page, "put in the output of: python -m tools.gpu_table"
    assert gpu_table.disk() in page, "put in the output of: python -m tools.gpu_table"


def test_the_gpu_page_names_the_drivers_that_the_doctor_asks_for() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert [version for version in map(dotted, (DRIVER, PTX_DRIVER)) if version not in page] == []


def test_the_budget_takes_models_for_as_large_as_the_catalog_pins_them() -> None:
    pinned = {model.name.removeprefix("faster-whisper-"): model.files["model.bin"].bytes for model in CATALOG if "model.bin" in model.files}
    known = {shape.name: shape.bytes for shape in SHAPES}
    assert {name: size for name, size in pinned.items() if name in known} == {"base": known["base"]}


def test_the_guards_of_the_security_page_have_their_tests() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "security.md").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_documented_receiver_verifies_a_real_event() -> None:
    secret, now = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", datetime.now(UTC)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    assert snippet is not None
    receiver: dict[str, Any] = {}
    exec(snippet[1].replace("whsec_…", secret), receiver)
    body = json.dumps({"type": "job.succeeded", "data": {"transcript": "/v1/jobs/1/transcript"}})
    headers = {
        "Webhook-Id": "1:1",
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Webhook(secret).sign("1:1", now, body),
    }
    assert receiver["hear"](body.encode(), headers) == "job.succeeded: /v1/jobs/1/transcript"
    with pytest.raises(WebhookVerificationError):
        receiver["hear"](body.encode() + b" ", headers)
