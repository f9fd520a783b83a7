"""Pulls from a model hub on loopback that speaks what huggingface_hub 0.36 asks, and from a fixed address on it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from core.errors import ModelMissing
from tests.worker.hub import FILES, GATED, NEW, OLD, Hub, sha
from worker.model_catalog import HubSource, Model, UrlSource, find, whisper_from_hub
from worker.model_download import Downloader
from worker.model_files import main, resolve_asr, verify
from worker.model_lock import LOCK_FILE, read_lock
from worker.model_pull import is_complete, pull
from worker.model_sources import Supply


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def supply(hub: Hub, folder: Path) -> Iterator[Supply]:
    with httpx.Client(follow_redirects=True) as client:
        yield Supply(Downloader(folder / ".partial", client, retry_delay_s=0), (), hub=hub.url)


def quiet(_: str) -> None:
    pass


def test_the_first_pull_resolves_the_revision_and_records_it_with_the_digests(supply: Supply, folder: Path) -> None:
    pull([find("own/whisper")], folder, supply, quiet)
    record = read_lock(folder)["own--whisper"]
    assert (record.source, record.revision) == ("hub:own/whisper", OLD)
    assert {name: pin.sha256 for name, pin in record.files.items()} == {name: sha(FILES[name]) for name in FILES if name != "README.md"}
    assert resolve_asr("own/whisper", folder) == folder / "own--whisper"
    verify(folder, ["own/whisper"])


def test_later_pulls_are_held_to_the_lock_although_the_hub_moved_on(hub: Hub, supply: Supply, folder: Path) -> None:
    pull([find("own/whisper")], folder, supply, quiet)
    hub.moves_on()
    hub.asked.clear()
    pull([find("own/whisper")], folder, supply, quiet)
    assert hub.asked == []
    (folder / "own--whisper" / "model.bin").unlink()
    pull([find("own/whisper")], folder, supply, quiet)
    assert all(OLD in asked or "/large/" in asked for asked in hub.asked)
    assert read_lock(folder)["own--whisper"].revision == OLD


def test_a_hub_that_serves_other_bytes_for_the_recorded_revision_is_refused(hub: Hub, supply: Supply, folder: Path) -> None:
    pull([find("own/whisper")], folder, supply, quiet)
    (folder / "own--whisper" / "config.json").unlink()
    hub.files["config.json"] = b"[]"
    with pytest.raises(
        ModelMissing, match=rf"own--whisper/config\.json: the source gives .* recorded in {LOCK_FILE} .* delete this model's entry"
    ):
        pull([find("own/whisper")], folder, supply, quiet)


def test_a_large_file_is_held_to_the_digest_that_the_hub_states(hub: Hub, supply: Supply, folder: Path) -> None:
    hub.large_file_digest = "0" * 64
    with pytest.raises(ModelMissing, match=r"own/whisper/model\.bin as downloaded has sha256 .* stated by the hub is 0000"):
        pull([find("own/whisper")], folder, supply, quiet)
    assert not (folder / "own--whisper").exists()


def test_a_revision_of_ones_own_gets_its_own_folder(hub: Hub, supply: Supply, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.moves_on()
    pull([find("own/whisper"), find(f"own/whisper@{OLD}"), find("own/whisper@main")], folder, supply, quiet)
    revisions = {name: record.revision for name, record in read_lock(folder).items()}
    assert revisions == {"own--whisper": NEW, f"own--whisper@{OLD}": OLD, "own--whisper@main": NEW}
    assert resolve_asr(f"own/whisper@{OLD}", folder).name == f"own--whisper@{OLD}"
    assert main(["verify", "--model-dir", str(folder)]) == 0
    assert main(["list", "--model-dir", str(folder)]) == 0
    assert f"own/whisper@{OLD}: ok" in capsys.readouterr().out


def test_a_catalog_that_pins_another_revision_is_followed(hub: Hub, supply: Supply, folder: Path) -> None:
    pinned = whisper_from_hub("pinned", "own/whisper", OLD)
    pull([pinned], folder, supply, quiet)
    hub.moves_on()
    later = whisper_from_hub("pinned", "own/whisper", NEW)
    assert not is_complete(later, folder)
    pull([later], folder, supply, quiet)
    assert read_lock(folder)["pinned"].revision == NEW


def test_a_gated_model_without_a_token_says_where_to_accept_and_what_to_set(supply: Supply, folder: Path) -> None:
    gated = Model("gated", HubSource(GATED, None, ("config.json",), gated=True), "MIT", ("config.json",))
    with pytest.raises(
        ModelMissing, match=r"accept its conditions at https://huggingface\.co/own/gated, then set SPILLWAY_HF_TOKEN .*=campplus"
    ):
        pull([gated], folder, supply, quiet)
    pull([gated], folder, replace(supply, hf_token="hf_good"), quiet)
    assert is_complete(gated, folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own/nothing", "own/nothing is gated, private or not there"),
        ("own/whisper@gone", "own/whisper has no revision gone"),
        ("own/a--b", "own/a--b is gated, private or not there"),
    ],
)
def test_what_the_hub_does_not_have_is_named(supply: Supply, folder: Path, name: str, message: str) -> None:
    with pytest.raises(ModelMissing, match=message):
        pull([find(name)], folder, supply, quiet)


def test_a_repository_that_is_no_such_model_is_refused(hub: Hub, supply: Supply, folder: Path) -> None:
    del hub.files["model.bin"]
    with pytest.raises(ModelMissing, match=r"does not hold config\.json, model\.bin, tokenizer\.json"):
        pull([find("own/whisper")], folder, supply, quiet)


def test_a_file_name_that_leads_out_of_the_folder_is_refused(hub: Hub, supply: Supply, folder: Path) -> None:
    hub.files["vocabulary.x/../../../evil"] = b"evil"
    with pytest.raises(ModelMissing, match="refused"):
        pull([find("own/whisper")], folder, supply, quiet)
    assert not (folder / "own--whisper").exists()


def test_a_hub_that_does_not_answer_is_one_clear_error(supply: Supply, folder: Path) -> None:
    with pytest.raises(ModelMissing, match="large-v2 cannot be pulled, its source does not answer"):
        pull([find("large-v2")], folder, replace(supply, hub="http://127.0.0.1:9"), quiet)


def test_a_file_at_a_fixed_address_is_recorded_and_held_to(hub: Hub, supply: Supply, folder: Path) -> None:
    model = Model("wav2vec2-xx", UrlSource(f"{hub.url}/large/model.bin"), "MIT", ("model.bin",), bundle="X")
    pull([model], folder, supply, quiet)
    assert read_lock(folder)["wav2vec2-xx"].files["model.bin"].sha256 == sha(FILES["model.bin"])
    (folder / "wav2vec2-xx" / "model.bin").unlink()
    hub.files["model.bin"] = b"another"
    with pytest.raises(ModelMissing, match=f"recorded in {LOCK_FILE}"):
        pull([model], folder, supply, quiet)
