"""The contract with a container on Modal: plain values both ways, and nothing of another version taken for ours."""

import json
from typing import Any

import pytest

from core.burst import CONTRACT, Bundle, BundleJob, Container, Outcome, Receipt, Reply, Stack, read_bundle
from core.job import JobFailure, JobOptions
from core.transcript import Notice

BUNDLE = Bundle(deadline_s=60, jobs=(BundleJob(id="a", attempt=1, options=JobOptions(language="de", metadata={"n": [1]}), duration_s=2.5),))
REPLY = Reply(
    receipts=(
        Receipt(job_id="a", attempt=1, outcome=Outcome.SUCCEEDED, transcript="{}", warnings=(Notice(code="c", message="m"),), seconds=1.5),
        Receipt(job_id="b", attempt=2, outcome=Outcome.BROKE, error=JobFailure(code="engine_failed", message="m")),
    ),
    container=Container(device="L4", stack=Stack(lock_sha256="l", models_sha256="m"), cold_start_s=20.0, bundles_before=0),
    started_at=1.0,
    seconds=1.5,
)  # fmt: skip


def types_in(value: Any) -> set[type]:
    inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return {type(value)}.union(*map(types_in, inside))


@pytest.mark.parametrize("said", [BUNDLE, REPLY])
def test_what_travels_is_of_jsons_own_types(said: Bundle | Reply) -> None:
    assert types_in(said.plain()) <= {dict, list, str, int, float, bool, type(None)}


def test_a_bundle_and_a_reply_arrive_as_they_were_sent() -> None:
    assert read_bundle(json.loads(json.dumps(BUNDLE.plain()))) == BUNDLE
    assert Reply.read(json.loads(json.dumps(REPLY.plain()))) == REPLY


@pytest.mark.parametrize(
    "said", [None, "gone", {}, {"contract": CONTRACT + 1}, {"contract": CONTRACT, "receipts": 3}, {**REPLY.plain(), "new": 1}]
)
def test_what_is_no_reply_of_ours_is_a_refusal_that_says_what_to_do(said: Any) -> None:
    refusal = Reply.read(said).refusal
    assert refusal is not None
    assert (refusal.code, "modal deploy modal_deploy.py" in refusal.message) == ("contract_mismatch", True)


@pytest.mark.parametrize("said", [None, {}, {"contract": 0}, {**BUNDLE.plain(), "jobs": []}, {**BUNDLE.plain(), "deadline_s": 0}])
def test_what_is_no_bundle_of_ours_is_answered_with_a_refusal(said: Any) -> None:
    answer = read_bundle(said)
    assert isinstance(answer, Reply)
    assert answer.refusal is not None


def test_a_job_costs_its_clip() -> None:
    assert BundleJob(id="a", attempt=1, options=JobOptions(clip_start=1.0, clip_end=9.0), duration_s=5.0).work_s == 4.0
