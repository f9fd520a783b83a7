"""Real speech through HTTP: what a client gets back is right."""

import json
import os
import re
import signal
import subprocess
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.api import SpillwayClient
from client.models import Job
from tests.conftest import wait_for
from tests.integration.conftest import LIBRIVOX, SAMPLE
from tests.scores import diarization_error_rate, onset_errors_s, word_error_rate
from tools.local_stack import LocalStack

pytestmark = pytest.mark.models


def transcribe(client: SpillwayClient, path: Path, **options: Any) -> dict[str, Any]:
    job = client.wait(client.submit(path, **options).id)
    assert job.state == "succeeded", job.error
    return dict(json.loads(client.transcript(job.id)))


def text_of(transcript: dict[str, Any]) -> str:
    return " ".join(segment["text"] for segment in transcript["segments"])


def words_of(transcript: dict[str, Any]) -> list[dict[str, Any]]:
    return [word for segment in transcript["segments"] for word in segment["words"]]


def assert_well_formed(transcript: dict[str, Any]) -> None:
    duration_s = transcript["duration_s"]
    for segment in transcript["segments"]:
        assert segment["words"], "a segment without words"
        assert " ".join(word["word"] for word in segment["words"]) == segment["text"]
        assert 0 <= segment["start"] <= segment["end"] <= duration_s
        assert {word["speaker"] for word in segment["words"]} == {segment["speaker"]}
        for word in segment["words"]:
            assert segment["start"] <= word["start"] <= word["end"] <= segment["end"]
    for one, other in pairwise(words_of(transcript)):
        assert one["start"] <= other["start"]
    assert [segment["id"] for segment in transcript["segments"]] == list(range(len(transcript["segments"])))


@pytest.fixture(scope="module")
def librivox() -> dict[str, str]:
    """File name → what is read in it."""
    return dict(json.loads((LIBRIVOX / "transcription.json").read_text()))


def plain_whisperx(model_dir: Path, clips: list[Path]) -> list[str]:
    """What WhisperX itself makes of the clips, in a process of its own."""
    script = (
        "import json, sys, soundfile, whisperx\n"
        "model = whisperx.load_model(sys.argv[1], 'cpu', compute_type='int8', language='en', threads=2)\n"
        "texts = [model.transcribe(soundfile.read(clip, dtype='float32')[0], batch_size=4)['segments'] for clip in sys.argv[2:]]\n"
        "json.dump([' '.join(segment['text'] for segment in text) for text in texts], open(1, 'w'))\n"
    )
    command = [os.sys.executable, "-W", "ignore", "-c", script, str(model_dir / "faster-whisper-tiny.en"), *map(str, clips)]  # type: ignore[attr-defined]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(json.loads(said[said.rindex("[") :]))


def test_librivox_is_understood_no_worse_than_by_plain_whisperx(client: SpillwayClient, librivox: dict[str, str], model_dir: Path) -> None:
    clips = [LIBRIVOX / name for name in librivox]
    jobs = [client.submit(clip, diarize=False) for clip in clips]
    ours = [text_of(json.loads(client.transcript(client.wait(job.id).id))) for job in jobs]
    theirs = plain_whisperx(model_dir, clips)
    rate, their_rate = (word_error_rate(list(librivox.values()), texts) for texts in (ours, theirs))
    print(f"word error rate on LibriVox, tiny.en: {rate:.3f}, plain WhisperX {their_rate:.3f}")  # noqa: T201
    assert rate <= their_rate
    assert rate < 0.15


def test_the_sample_has_its_two_speakers_and_words_in_order(client: SpillwayClient, reference: dict[str, Any]) -> None:
    transcript = transcribe(client, SAMPLE)
    assert_well_formed(transcript)
    error = diarization_error_rate(reference["turns"], transcript["turns"], reference["duration_s"])
    rate = word_error_rate([reference["text"]], [text_of(transcript)])
    print(f"sample: diarization error rate {error:.3f}, word error rate {rate:.3f} with tiny.en")  # noqa: T201
    onsets = onset_errors_s(reference["words"], words_of(transcript))
    near = sum(abs(one) <= 0.15 for one in onsets) / len(reference["words"])
    print(f"sample: {near:.1%} of the word onsets within 150 ms, by attention")  # noqa: T201
    assert error < 0.15
    assert rate < 0.15
    assert near >= 0.9
    assert [speaker["label"] for speaker in transcript["speakers"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert {word["timing"] for word in words_of(transcript)} == {"attention"}
    assert transcript["run"]["runner"] == "local"
    assert {"vad", "asr", "diarization", "alignment", "assignment"} <= set(transcript["run"]["stages_s"])


def test_every_format_is_rendered_from_the_one_transcript(client: SpillwayClient) -> None:
    job = client.wait(client.submit(SAMPLE, clip_end=12.0).id)
    assert client.transcript(job.id, "srt").startswith("1\n00:00:0")
    assert client.transcript(job.id, "vtt").startswith("WEBVTT\n\n00:00:0")
    assert client.transcript(job.id, "txt").startswith("SPEAKER_00: ")
    assert client.transcript(job.id, "tsv").startswith("start\tend\tspeaker\ttext\n")
    assert client.transcript(job.id, "rttm").startswith("SPEAKER audio 1 ")


def test_a_clip_keeps_the_times_of_its_file(client: SpillwayClient, reference: dict[str, Any]) -> None:
    transcript = transcribe(client, SAMPLE, clip_start=10.0, clip_end=20.0)
    assert_well_formed(transcript)
    assert all(9.9 <= word["start"] <= word["end"] <= 20.1 for word in words_of(transcript))
    assert transcript["duration_s"] == pytest.approx(reference["duration_s"], abs=0.05)


def test_without_diarization_or_alignment_nobody_is_named_and_times_are_interpolated(client: SpillwayClient) -> None:
    transcript = transcribe(client, SAMPLE, diarize=False, align=False, clip_end=10.0)
    assert_well_formed(transcript)
    assert (transcript["turns"], transcript["speakers"]) == ([], [])
    assert {(word["speaker"], word["timing"]) for word in words_of(transcript)} == {(None, "interpolated")}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("silence.wav", "anullsrc=r=16000:cl=mono:d=8"),
        ("noise.wav", "anoisesrc=d=8:a=0.05:c=pink:seed=1"),
        ("tone.flac", "sine=frequency=440:duration=8"),
        ("chord.mp3", "aevalsrc='0.2*sin(2*PI*262*t)+0.2*sin(2*PI*330*t)+0.2*sin(2*PI*392*t)':d=8"),
        ("fifth-of-a-second.wav", "sine=frequency=300:duration=0.2"),
    ],
)
def test_what_holds_no_speech_gives_an_empty_transcript_that_says_so(
    client: SpillwayClient, ffmpeg: str, tmp_path: Path, name: str, source: str
) -> None:
    path = tmp_path / name
    subprocess.run([ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", source, str(path)], check=True)
    transcript = transcribe(client, path)
    assert text_of(transcript) == ""
    assert [warning["code"] for warning in transcript["warnings"]] == ["no_speech"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("eight-bit.wav", ["-c:a", "pcm_u8", "-ar", "8000"]),
        ("stereo-96k.wav", ["-ac", "2", "-ar", "96000"]),
        ("video.mp4", ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=6", "-c:v", "mpeg4", "-shortest"]),
    ],
)
def test_speech_is_heard_through_every_container(
    client: SpillwayClient, ffmpeg: str, tmp_path: Path, name: str, arguments: list[str]
) -> None:
    path = tmp_path / name
    subprocess.run([ffmpeg, "-loglevel", "error", "-t", "6", "-i", str(SAMPLE), *arguments, str(path)], check=True)
    assert "service desk" in text_of(transcribe(client, path, diarize=False)).lower()


def test_a_video_without_sound_is_refused_at_the_door(stack: LocalStack, ffmpeg: str, tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    subprocess.run(
        [ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=1", "-c:v", "mpeg4", str(path)], check=True
    )
    with path.open("rb") as file:
        reply = httpx.post(f"{stack.url}/v1/jobs", files={"file": file}, trust_env=False)
    assert reply.status_code == 422
    assert reply.json()["code"] == "invalid_media"
    assert "holds no audio" in reply.json()["detail"]


def test_a_language_that_the_model_lacks_fails_with_what_to_do(client: SpillwayClient) -> None:
    job = client.wait(client.submit(SAMPLE, language="de", clip_end=3.0).id)
    assert job.state == "failed"
    assert job.error is not None
    assert "English only" in job.error.message
    assert "SPILLWAY_ASR_MODEL" in job.error.message


def test_a_watcher_sees_the_stages_pass_and_the_progress_grow(client: SpillwayClient) -> None:
    seen: list[Job] = []
    client.wait(client.submit(SAMPLE).id, seen.append)
    progress = [job.progress for job in seen if job.state != "queued"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert {"asr", "diarization"} & {job.stage for job in seen}


def test_a_killed_worker_costs_a_job_nothing_but_time(stack: LocalStack, client: SpillwayClient) -> None:
    job = client.submit(SAMPLE)
    wait_for(lambda: client.job(job.id).stage in ("asr", "diarization"), "the job to be under way")
    pid = stack.pid("worker")
    assert pid
    os.kill(pid, signal.SIGKILL)
    done = client.wait(job.id)
    assert (done.state, done.losses, done.attempt) == ("succeeded", 1, 2)


def test_a_job_whose_worker_dies_after_asr_goes_on_at_the_word_times(stack: LocalStack, client: SpillwayClient) -> None:
    job = client.submit(SAMPLE)
    heard = stack.log_dir.parent / "files" / "jobs" / job.id / "products" / "1-asr.json"
    wait_for(heard.exists, "the product of ASR", timeout_s=120)
    wait_for(lambda: client.job(job.id).stage in ("diarization", "alignment"), "ASR to be over")
    pid = stack.pid("worker")
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert client.wait(job.id).attempt == 2
    transcript = json.loads(client.transcript(job.id))
    assert "service desk" in text_of(transcript)
    assert {"alignment", "diarization"} <= set(transcript["run"]["stages_s"])
    assert "asr" not in transcript["run"]["stages_s"]


def test_a_running_job_is_cancelled_within_seconds_and_the_next_one_runs(client: SpillwayClient, ffmpeg: str, tmp_path: Path) -> None:
    long = tmp_path / "long.flac"
    subprocess.run([ffmpeg, "-loglevel", "error", "-stream_loop", "20", "-i", str(SAMPLE), str(long)], check=True)
    job = client.submit(long)
    wait_for(lambda: client.job(job.id).state == "running", "the job to run")
    client.cancel(job.id)
    ended = threading.Timer(30, lambda: None)
    ended.start()
    assert client.wait(job.id).state == "cancelled"
    assert ended.is_alive(), "cancelling took more than 30 s"
    ended.cancel()
    assert transcribe(client, SAMPLE, clip_end=3.0)["segments"]


def test_the_queue_and_metrics_tell_of_the_worker(stack: LocalStack, client: SpillwayClient) -> None:
    queue = client.queue()
    assert [(worker.fit, worker.device, worker.model) for worker in queue.workers] == [(True, "cpu", "faster-whisper-tiny.en")]

    def scrape() -> str:
        return httpx.get(f"{stack.url}/metrics", trust_env=False).text

    transcribe(client, SAMPLE, clip_end=6.0)
    assert 'spillway_workers{fit="true"} 1.0' in scrape()
    assert "spillway_dispatcher_leading 1.0" in scrape()
    for stage in ("decode", "vad", "asr", "diarization", "alignment", "assignment"):
        assert re.search(rf'spillway_stage_seconds_count{{stage="{stage}"}} [1-9]', scrape())
    for model in ("asr", "segmentation", "embeddings"):  # told at the next heartbeat
        wait_for(lambda model=model: re.search(rf'spillway_batch_windows_total{{model="{model}"}} [1-9]', scrape()), f"{model}'s batches")
