"""Downloads that broke off, and servers that lie about what they go on with."""

import pytest

from dispatcher.landing import Interrupted, Landing
from tests.dispatcher.http_landing import TALK, digest, fetch, landed
from tests.dispatcher.source_server import SourceServer, file


def test_a_broken_download_goes_on_where_it_stopped(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = file(TALK, cut_at=700_000)
    with pytest.raises(Interrupted, match="connection broke"):
        fetch(web.url(), landing)
    arrived = landing.arrived_bytes
    assert 0 < arrived <= 700_000
    fetch(web.url(), landing)
    assert (web.asked[1].headers["range"], web.asked[1].headers["if-range"]) == (f"bytes={arrived}-", '"v1"')
    assert landed(landing) == digest(TALK)


def test_a_source_that_changed_meanwhile_begins_anew(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = file(TALK, cut_at=700_000)
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)
    web.answers["/talk.wav"] = file(TALK[::-1], etag='"v2"')
    fetch(web.url(), landing)
    assert landed(landing) == digest(TALK[::-1])


@pytest.mark.parametrize(
    "header",
    [{"ETag": 'W/"weak"'}, {}, {"ETag": '"v1"', "Accept-Ranges": "none"}, {"ETag": '"M\xe4rz"'}],
    ids=["a weak tag", "no tag", "no parts", "a tag that cannot be sent back"],
)
def test_without_a_strong_validator_a_broken_download_begins_anew(web: SourceServer, landing: Landing, header: dict[str, str]) -> None:
    web.answers["/talk.wav"] = lambda visit: (
        visit.head(200, **{"Content-Length": str(len(TALK)), **header}), visit.wfile.write(TALK[:9000])
    )[0]  # fmt: skip
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)
    web.answers["/talk.wav"] = file(TALK)
    fetch(web.url(), landing)
    assert "range" not in web.asked[1].headers
    assert landed(landing) == digest(TALK)


def test_a_date_will_do_where_there_is_no_tag(web: SourceServer, landing: Landing) -> None:
    date = "Sun, 01 Nov 2026 10:00:00 GMT"
    web.answers["/talk.wav"] = lambda visit: (
        visit.head(200, **{"Content-Length": str(len(TALK)), "Last-Modified": date}), visit.wfile.write(TALK[:9000])
    )[0]  # fmt: skip
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)
    start = landing.arrived_bytes
    part = {"Content-Range": f"bytes {start}-{len(TALK) - 1}/{len(TALK)}", "Last-Modified": date}
    web.answers["/talk.wav"] = lambda visit: visit.say(206, TALK[start:], **part)
    fetch(web.url(), landing)
    assert web.asked[1].headers["if-range"] == date
    assert landed(landing) == digest(TALK)


LYING_PARTS = {
    "another start": {"Content-Range": f"bytes 5-{len(TALK) - 1}/{len(TALK)}"},
    "no range": {},
    "nonsense": {"Content-Range": "bytes here"},
    "less than was asked for": {"Content-Range": f"bytes 9000-9099/{len(TALK)}"},
    "an end before its start": {"Content-Range": f"bytes 9000-1/{len(TALK)}"},
    "an end that nobody knows": {"Content-Range": "bytes 9000-9099/*"},
    "a number without end": {"Content-Range": f"bytes 9000-{'9' * 5000}/{len(TALK)}"},
    "another version": {"Content-Range": "bytes 9000-99999/100000", "ETag": '"v2"'},
}


@pytest.mark.parametrize("lie", LYING_PARTS)
def test_a_part_that_does_not_fit_is_not_put_behind_what_is_there(web: SourceServer, landing: Landing, lie: str) -> None:
    web.answers["/talk.wav"] = lambda visit: (
        visit.head(200, Content_Length=str(len(TALK)), ETag='"v1"'),
        visit.wfile.write(TALK[:9000]),
    )[0]
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)
    web.answers["/talk.wav"] = lambda visit: visit.say(206, b"x" * 100, **LYING_PARTS[lie])
    with pytest.raises(Interrupted, match="another part"):
        fetch(web.url(), landing)
    assert landing.arrived_bytes == 0
    web.answers["/talk.wav"] = file(TALK)
    fetch(web.url(), landing)
    assert landed(landing) == digest(TALK)


@pytest.mark.parametrize("length", [{}, {"Content-Length": "100"}])
def test_a_part_that_ends_early_is_not_taken_for_the_whole(web: SourceServer, landing: Landing, length: dict[str, str]) -> None:
    landing.begin('"v1"')
    landing.write(TALK[:9000])
    place = f"bytes 9000-{len(TALK) - 1}/{len(TALK)}"
    web.answers["/talk.wav"] = lambda visit: (visit.head(206, **{"Content-Range": place, **length}), visit.wfile.write(TALK[9000:9100]))[0]
    with pytest.raises(Interrupted, match=f"sent 9100 bytes of {len(TALK)}"):
        fetch(web.url(), landing)
    web.answers["/talk.wav"] = file(TALK)
    fetch(web.url(), landing)
    assert web.asked[1].headers["range"] == "bytes=9100-"
    assert landed(landing) == digest(TALK)


def test_a_part_that_was_not_asked_for_is_none(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = lambda visit: visit.say(206, TALK, Content_Range=f"bytes 0-{len(TALK) - 1}/{len(TALK)}")
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)


@pytest.mark.parametrize(("size", "is_whole"), [(9000, True), (8000, False)])
def test_nothing_behind_what_is_there_means_all_is_there(web: SourceServer, landing: Landing, size: int, is_whole: bool) -> None:
    landing.begin('"v1"')
    landing.write(TALK[:9000])
    web.answers["/talk.wav"] = lambda visit: visit.say(416, Content_Range=f"bytes */{size}")
    if is_whole:
        fetch(web.url(), landing)
        assert landed(landing) == digest(TALK[:9000])
    else:
        with pytest.raises(Interrupted, match="another version"):
            fetch(web.url(), landing)
