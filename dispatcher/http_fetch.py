"""Fetches https:// and http:// sources: redirects by hand, a slow or endless server bounded, a broken download continued."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import httpx

from core.errors import SourceRefused, SourceUnreachable
from dispatcher.guard import Guard
from dispatcher.landing import Interrupted, Landing
from dispatcher.outbound import guarded_client, retry_after_s

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
PASSING = (408, 425, 429)  # beside every 5xx: the same request may do better later
CONTENT_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-(?P<last>\d{1,18})/(?P<total>\d{1,18})", re.ASCII)
VERIFY_FAILED = re.compile(r"certificate verify failed: (?P<why>.+?)\.?( \(_ssl|$)")


@dataclass(frozen=True)
class Patience:
    """How long a server may take, and how slow it may be."""

    header_s: float = 60.0  # from the first connection to the last header of the last redirect's answer
    window_s: float = 60.0
    least_bytes_per_s: int = 16 * 1024  # over every window: a talk's MP3 plays as fast as that
    whole_s: float = 600.0  # for any body, and besides …
    whole_bytes_per_s: int = 256 * 1024  # … as long as it takes at this speed: 4 GB in 4.7 h
    connect_s: float = 10.0  # for each address
    read_s: float = 30.0  # of silence


class HttpFetch:
    """A `Fetch`; safe to be called from several threads."""

    def __init__(self, guard: Guard, *, max_bytes: int, patience: Patience = Patience()) -> None:
        self._guard, self._max_bytes, self._patience = guard, max_bytes, patience
        self._timeout = httpx.Timeout(patience.connect_s, read=patience.read_s)
        self._tls = httpx.create_ssl_context(trust_env=False)

    def __call__(self, source: str, landing: Landing, check: Callable[[], None]) -> None:
        watch = _Watch(self._patience, landing, check)
        with (
            _translated(landing),
            guarded_client(self._guard, tls=self._tls, watch=watch, timeout=self._timeout) as http,
            _answer(http, source, landing) as response,
        ):
            if _is_complete(response, landing):
                return
            announced = _prepare(response, landing)
            watch.begin_body(self._max_bytes if announced is None else announced)
            whole = None if announced is None else landing.arrived_bytes + announced
            for chunk in response.iter_raw():
                landing.write(chunk)
            if whole not in (None, landing.arrived_bytes):  # a part's own length is its server's word, which h11 does not know
                raise Interrupted(f"its server sent {landing.arrived_bytes} bytes of {whole}")


class _Watch:
    """Ends what was cancelled, what takes too long, and what drips."""

    def __init__(self, patience: Patience, landing: Landing, check: Callable[[], None]) -> None:
        self._patience, self._landing, self._check = patience, landing, check
        self._deadline = monotonic() + patience.header_s
        self._window: tuple[float, int] | None = None  # when it began, and how much was there

    def begin_body(self, bytes: int) -> None:
        now = monotonic()
        self._deadline = now + self._patience.whole_s + bytes / self._patience.whole_bytes_per_s
        self._window = (now, self._landing.arrived_bytes)

    def __call__(self) -> None:
        self._check()
        now = monotonic()
        if now > self._deadline:
            raise Interrupted("its server took too long")
        if self._window is None or now - self._window[0] < self._patience.window_s:
            return
        if self._landing.arrived_bytes - self._window[1] < self._patience.least_bytes_per_s * self._patience.window_s:
            raise Interrupted(f"its server sent less than {self._patience.least_bytes_per_s} bytes a second")
        self._window = (now, self._landing.arrived_bytes)


@contextmanager
def _answer(http: httpx.Client, source: str, landing: Landing) -> Iterator[httpx.Response]:
    """The last answer behind all redirects; each hop is a request of its own, checked like the first."""
    url = httpx.URL(source)
    for hop in range(MOST_REDIRECTS + 1):
        with _redirected(hop), http.stream("GET", url, headers=_range(landing)) as response:
            if response.status_code not in REDIRECTS:
                yield response
                return
        url = _target(url, response)
    raise SourceUnreachable(f"its server redirects more than {MOST_REDIRECTS} times")


@contextmanager
def _redirected(hop: int) -> Iterator[None]:
    """A refusal speaks of the URL that the caller knows, or says that it is of another."""
    try:
        yield
    except SourceRefused as error:
        if not hop:
            raise
        raise SourceRefused(f"its server redirects to a URL that is not reached: {error}") from error


def _range(landing: Landing) -> dict[str, str]:
    """Asks for the rest of what is there; the whole if the source has changed meanwhile."""
    return (
        {"Range": f"bytes={landing.arrived_bytes}-", "If-Range": landing.validator} if landing.arrived_bytes and landing.validator else {}
    )


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    target = url.join(response.headers.get("Location", ""))
    if "Location" not in response.headers:
        raise SourceUnreachable(f"its server answered {response.status_code} and did not say where to go")
    if (url.scheme, target.scheme) == ("https", "http"):
        raise SourceRefused("its server redirects from https:// to http://, where anybody on the way could change the recording")
    return target


def _is_complete(response: httpx.Response, landing: Landing) -> bool:
    """Whether the answer says that there is nothing behind what is there. Raises `SourceUnreachable`, `Interrupted`."""
    status = response.status_code
    if status == 416 and landing.arrived_bytes:
        if response.headers.get("Content-Range") == f"bytes */{landing.arrived_bytes}":
            return True
        landing.discard()
        raise Interrupted("its server has another version now")
    if status in PASSING or status >= 500:
        raise Interrupted(f"its server answered {status}", after_s=retry_after_s(response))
    if status not in (200, 206):
        said = f"{status} {httpx.codes.get_reason_phrase(status)}".rstrip()  # a server's own words can be anything, and 60 kB long
        raise SourceUnreachable(f"its server answered {said}: check the URL and that it is open")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise SourceUnreachable("its server sends it compressed although asked not to: upload the recording instead")
    return False


def _prepare(response: httpx.Response, landing: Landing) -> int | None:
    """Makes the landing ready for the answer's body: how long it says to be, if it does. Raises `Interrupted`, `SourceTooLarge`."""
    if response.status_code == 200:
        landing.begin(_validator(response))
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() and length.isascii() else None
    else:
        announced = _rest(response, landing)
    landing.expect(announced or 0)
    return announced


def _rest(response: httpx.Response, landing: Landing) -> int:
    """How much a part has to bring: a server may give less than was asked for, and what ends early is not the whole."""
    said = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    is_same = landing.validator in (response.headers.get("ETag", landing.validator), response.headers.get("Last-Modified"))
    if landing.arrived_bytes and said and is_same:
        start, last, total = map(int, said.groups())
        if start == landing.arrived_bytes < total == last + 1:
            return total - start
    landing.discard()
    raise Interrupted("its server sent another part than was asked for")


def _validator(response: httpx.Response) -> str:
    """What If-Range takes: a strong ETag, else the date; empty when the server gives no parts."""
    if response.headers.get("Accept-Ranges") == "none":
        return ""
    tag: str = response.headers.get("ETag", "")
    modified: str = response.headers.get("Last-Modified", "")
    validator = tag if tag.startswith('"') else modified
    return validator if validator.isascii() else ""  # a header that we send can hold no more


@contextmanager
def _translated(landing: Landing) -> Iterator[None]:
    try:
        yield
    except (httpx.InvalidURL, UnicodeError) as error:  # the latter of hosts such as xn--a, which no name is written as
        raise SourceRefused(f"not a URL that can be reached: {error}") from error
    except httpx.ConnectError as error:
        if refused := VERIFY_FAILED.search(str(error)):
            raise SourceUnreachable(
                f"its server's certificate is not valid ({refused['why']}): mend it, or upload the recording"
            ) from error
        raise Interrupted(f"its server cannot be connected to ({error})") from error
    except httpx.TimeoutException as error:
        raise Interrupted("its server did not answer in time") from error
    except httpx.ProtocolError as error:  # its own text would hold what the server sent
        raise Interrupted(f"the connection broke after {landing.arrived_bytes} bytes, or what its server sends is not HTTP") from error
    except httpx.TransportError as error:
        raise Interrupted(f"the connection broke ({error})") from error
