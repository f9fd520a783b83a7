"""The `spillway` command, end to end."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from client.arguments import OPTIONS
from client.cli import main
from client.display import clock, live_progress, progress_of, show_deliveries, show_job, show_transcript
from client.models import Attempt, Delivery, Download, Failure, Job
from core.bursts import BurstOutlook, Bursts, Caps
from core.job import JobOptions, Stage
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.outbox import Answer, DeliveryState, Outbox
from core.redis_steps import connect
from tests.conftest import ROOT, free_port, wait_for
from tests.service.box import RUNNER, TRANSCRIPT, RunningService, wav


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(2))
    return str(path)


@pytest.fixture
def url(service: RunningService, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: ARG001 - an empty database
    monkeypatch.setenv("SPILLWAY_URL", service.url)
    return service.url


def job(**changes: object) -> Job:
    unset = dict.fromkeys(Job.__dataclass_fields__)
    return Job(**{**unset, "state": "queued", "progress": 0.0, "duration_s": 2.0, "losses": 0, "warnings": (), **changes})  # type: ignore[arg-type]


@pytest.mark.usefixtures("runner", "url")
def test_transcribe_prints_the_transcript_and_nothing_else(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", recording, "--language", "en", "--no-diarize"]) == 0
    said = capsys.readouterr()
    assert said.out == "SPEAKER_00: Good morning.\nSPEAKER_01: Is it?\n"
    assert said.err == ""


@pytest.mark.usefixtures("runner", "url")
def test_transcribe_writes_a_file_in_the_format_of_its_name(recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", recording, "--output", str(tmp_path / "talk.srt")]) == 0
    assert "-->" in (tmp_path / "talk.srt").read_text()
    assert capsys.readouterr().out == ""


def test_the_queue_tells_of_bursts_and_a_job_of_where_it_runs(
    recording: str, url: str, jobs: JobStore, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--url", url]) == 0
        return capsys.readouterr().out

    assert "bursts" not in said("queue")
    job_id = said("submit", recording).strip()
    with connect(redis_url) as redis:
        bursts = Bursts(redis, jobs)
        bursts.post(0.25)
        bursts.intend("b", [job_id], Runner("modal", "bridge"), lease_s=60, deadline_s=180, reserve_usd=0.1, caps=Caps(1, 25))
        bursts.tell(BurstOutlook(is_paused=True, reason="Modal is not to be reached", why=()), ttl_s=60)
    line = "bursts to Modal: 1 under way with 1 jobs; $0.35 of $1.00 today, $0.35 of $25.00 this month; paused: Modal is not to be reached"
    assert line in " ".join(said("queue").split())
    assert "modal" in said("status", job_id)


def test_jobs_are_followed_by_their_id(recording: str, url: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--url", url]) == 0
        return capsys.readouterr().out

    job_id = said("submit", recording, "--num-speakers", "2", "--clip-end", "1.5", "--metadata", '{"a": 1}').strip()
    options = jobs.get(job_id).options
    assert (options.num_speakers, options.clip_end, options.metadata) == (2, 1.5, {"a": 1})
    assert "queued" in said("status", job_id)
    assert said("jobs", "--state", "queued").split("\t")[:4] == [job_id, "queued", "0%", "0:02"]
    assert "waiting: 1 (0:02 of audio), running: 0" in said("queue")
    assert said("cancel", job_id) == "cancelled\n"
    assert said("delete", job_id) == ""
    assert main(["status", job_id]) == 1
    assert capsys.readouterr().err == f"spillway: there is no job {job_id}: it never was, it was deleted, or its time was over\n"


def test_a_url_is_sent_as_a_source(url: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--url", url]) == 0
        return capsys.readouterr().out

    source = "https://example.org/talk.mp3"
    job_id = said("submit", source, "--num-speakers", "2", "--metadata", '{"a": 1}', "--no-align").strip()
    sent = jobs.get(job_id)
    assert (sent.source, sent.options.num_speakers, sent.options.metadata, sent.options.align) == (source, 2, {"a": 1}, False)
    assert "fetching the recording" in said("status", job_id)
    assert said("jobs").split("\t")[3] == "unknown"
    assert "being fetched: 1" in said("queue")
    assert main(["submit", source, "--metadata", "{", "--url", url]) == 1
    assert "metadata" in capsys.readouterr().err


def test_a_callback_goes_with_a_file_and_with_a_source(
    url: str, recording: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = "https://example.org/hook"
    for given in (recording, "https://example.org/talk.mp3"):
        assert main(["submit", given, "--callback-url", hook, "--url", url]) == 0
        (owed,) = jobs.get(capsys.readouterr().out.strip()).deliveries
        assert (owed["kind"], owed["target"]) == ("webhook", hook)


def test_an_output_in_a_bucket_is_the_services_to_write(
    url: str, recording: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = "gs://bucket/talks"
    for given in (recording, "https://example.org/talk.mp3"):
        assert main(["submit", given, "--output", prefix, "--url", url]) == 0
        (owed,) = jobs.get(capsys.readouterr().out.strip()).deliveries
        assert (owed["kind"], owed["target"], owed["host"]) == ("output", prefix, "bucket")


def test_what_became_of_a_jobs_deliveries_is_shown(url: str, recording: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--url", url]) == 0
        return capsys.readouterr().out

    job_id = said("submit", recording, "--output", "gs://bucket/talks", "--callback-url", "https://example.org/hook").strip()
    assert said("deliveries", job_id) == ("webhook\tpending\t0\t\thttps://example.org/hook\t\noutput\tpending\t0\t\tgs://bucket/talks\t\n")
    jobs.cancel(job_id)
    outbox = Outbox(jobs._redis, jobs)
    delivery = outbox.claim(Lease("dispatcher", 60, 3))
    assert delivery is not None
    outbox.end(delivery, DeliveryState.FAILED, Answer(status=500, error="the receiver did not take it"))
    assert "\tfailed\t1\t\t" in said("deliveries", job_id)
    assert "\t500: the receiver did not take it\n" in said("deliveries", job_id)


def test_a_terminal_gets_a_table_of_deliveries() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=160)
    show_deliveries(console, (Delivery("1:1", "output", "gs://b/[bold]", "pending", (Attempt("now", None, "no bucket"),), "soon"),))
    assert console.file.getvalue().splitlines()[1].split() == ["output", "pending", "1", "soon", "gs://b/[bold]", "no", "bucket"]  # type: ignore[attr-defined]
    show_deliveries(console, ())
    assert "owes nothing" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("runner", "url")
def test_transcribe_prints_what_it_has_the_service_write(recording: str, jobs: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", recording, "--output", "gs://bucket/talks"]) == 0
    assert "Good morning." in capsys.readouterr().out
    assert [owed["target"] for owed in jobs.page().jobs[0].deliveries] == ["gs://bucket/talks"]


@pytest.mark.usefixtures("url")
def test_submit_writes_no_file_and_says_what_does(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["submit", recording, "--output", "talk.srt"])
    assert exited.value.code == 2
    assert "for a file use `spillway get`" in capsys.readouterr().err


@pytest.mark.usefixtures("url")
def test_a_refusal_is_one_line_and_status_1(recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talk.txt").write_text("this is no recording")
    assert main(["transcribe", str(tmp_path / "talk.txt")]) == 1
    assert main(["transcribe", recording, "--language", "xx"]) == 1
    assert main(["transcribe", str(tmp_path / "nothing.wav")]) == 1
    assert main(["queue", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["spillway"] * 4
    assert "No such file" in lines[2]


@pytest.mark.parametrize("arguments", [[], ["transcribe"], ["sing"], ["get", "id", "--format", "docx"]])
def test_a_wrong_command_line_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert "usage: spillway" in capsys.readouterr().err


def test_ctrl_c_cancels_the_job_and_says_so(recording: str, service: RunningService, url: str, jobs: JobStore) -> None:
    command = [sys.executable, "-m", "client", "transcribe", recording]
    environment = {**os.environ, "SPILLWAY_URL": url}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: jobs.page().jobs, "the job")
        claimed = jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
        assert claimed is not None
        looked = f'"route": "/v1/jobs/<job_id>", "status": 200, "job_id": "{claimed.id}"'
        wait_for(lambda: looked in service.log.read_text(), "the client to watch the job")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said == f"spillway: interrupted: job {claimed.id} is being cancelled\n"
    assert jobs.get(claimed.id).cancel_requested


@pytest.mark.parametrize("command", ["submit", "transcribe"])
def test_ctrl_c_while_sending_says_where_the_job_would_be(recording: str, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        sending = [sys.executable, "-m", "client", command, recording, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(sending, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "its job is among `spillway jobs`" in said


def test_a_reader_that_has_had_enough_is_no_error_to_speak_of(url: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "client", "queue", "--url", url]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def test_the_command_line_knows_every_option_of_the_service() -> None:
    assert set(OPTIONS) == {*JobOptions.model_fields, "callback_url"}


def test_a_job_is_shown_with_its_warnings() -> None:
    console = Console(file=io.StringIO(), width=80)
    show_job(console, job(state="succeeded", progress=1.0, warnings=(Failure("no_speech", "[no] speech was found"),)))
    assert "warning  [no] speech was found" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_each_speaker_in_a_colour_of_its_own() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    show_transcript(console, json.loads(TRANSCRIPT.model_dump_json()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;36mSPEAKER_00: " in shown
    assert "\x1b[1;35mSPEAKER_01: " in shown


def test_a_transcript_without_speakers_and_with_brackets_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=80)
    segments = [{"start": 61.0, "speaker": None, "text": "[bold]hello[/bold]"}]
    show_transcript(console, {"speakers": [], "segments": segments, "warnings": [{"code": "x", "message": "no speakers"}]})
    assert console.file.getvalue() == "[1:01] [bold]hello[/bold]\nwarning: no speakers\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "text", "fraction"),
    [
        ({"state": "queued", "queue_position": 0}, "waiting", 0.0),
        ({"state": "queued", "stage": "fetching"}, "fetching the recording", 0.0),
        ({"state": "queued", "queue_position": 3, "waiting_for": "turn"}, "waiting, 3 before it", 0.0),
        ({"state": "queued", "waiting_for": "models"}, "waiting for the models", 0.0),
        (
            {"state": "queued", "waiting_for": "models", "downloading": Download(1_200_000_000, 3_100_000_000, "model.bin")},
            "waiting for the models: 1.2 of 3.1 GB",
            0.0,
        ),
        ({"state": "queued", "waiting_for": "worker"}, "waiting for a fit worker (`spillway queue` says why)", 0.0),
        ({"state": "running", "progress": 0.0}, "starting", 0.0),
        ({"state": "running", "stage": "asr", "progress": 0.4}, "recognizing speech", 0.4),
        ({"state": "running", "stage": "asr", "progress": 0.4, "cancel_requested": True}, "being cancelled", 0.4),
        ({"state": "cancelled", "stage": "asr", "progress": 0.4, "cancel_requested": True}, "cancelled", 0.4),
        ({"state": "succeeded", "progress": 1.0}, "succeeded", 1.0),
        ({"state": "failed", "progress": 0.4}, "failed", 0.4),
    ],
)
def test_progress_is_said_in_words(changes: dict[str, object], text: str, fraction: float) -> None:
    at = progress_of(job(**changes))
    assert (at.text, at.fraction) == (text, fraction)


def test_every_stage_has_its_words() -> None:
    assert all(progress_of(job(state="running", stage=str(stage))).text != str(stage) for stage in Stage)


def test_live_progress_leaves_a_terminal_clean_and_a_pipe_alone() -> None:
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
        with live_progress(console) as progress:
            progress.upload(50, 100)
            progress.job(job(state="running", stage="asr", progress=0.5))
        assert ("recognizing speech" in console.file.getvalue()) == is_terminal  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_a_clock_reads_as_one(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
