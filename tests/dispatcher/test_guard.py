"""Every way to write an address that must not be reached, and the public ones beside them."""

import socket
import threading
from collections.abc import Sequence

import httpcore
import httpx
import pytest

from core.errors import SourceRefused, SourceUnreachable
from dispatcher.guard import MOST_ADDRESSES, Guard

PUBLIC = "93.184.215.14"
REFUSED_URLS = [
    # Loopback, in every spelling
    "http://127.0.0.1/", "http://127.0.0.1./", "http://127.1/", "http://127.0.1/", "http://0x7f.1/", "http://0x7f000001/", "http://0177.0.0.1/",
    "http://2130706433/", "http://017700000001/", "http://0/", "http://0.0.0.0/", "http://127.255.255.254/", "http://127。0。0。1/",
    "http://①②⑦.0.0.1/", "http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::]/", "http://localhost/", "http://LOCALHOST./",
    "http://me.localhost/", "http://ⓛocalhost/",
    # The inside
    "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://100.64.0.1/", "http://100.127.255.254/",
    "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fec0::1]/",
    "http://redis/", "http://worker.internal/", "http://metadata.google.internal/", "http://printer.local/", "http://nas.home.arpa/",
    "http://intranet.corp/",
    # Clouds' metadata
    "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9.0xfe.0xa9.0xfe/", "http://100.100.100.200/",
    "http://192.0.0.192/", "http://168.63.129.16/",
    # Addresses that carry another one
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[::ffff:8.8.8.8]/", "http://[::127.0.0.1]/", "http://[::8.8.8.8]/",
    "http://[2002:7f00:1::]/", "http://[2002:808:808::]/", "http://[2001:0:a00:1::]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::808:808]/",
    "http://[64:ff9b:1::1]/", "http://[::ffff:0:127.0.0.1]/",
    # Nobody's
    "http://192.0.2.1/", "http://198.51.100.1/", "http://203.0.113.1/", "http://198.18.0.1/", "http://192.88.99.1/", "http://224.0.0.1/",
    "http://239.255.255.250/", "http://240.0.0.1/", "http://255.255.255.255/", "http://[ff02::1]/", "http://[2001:db8::1]/", "http://[3fff::1]/",
    "http://[100::1]/", "http://[5f00::1]/",
    # Odd spellings of public ones, which only hide something
    "http://134744072/", "http://8.8.2056/", "http://0x8.8.8.8/", "http://010.8.8.8/",
    # Not the web
    "ftp://example.org/", "file:///etc/passwd", "gopher://example.org/", "http:///nothing", "//example.org/", "example.org",
    "http://user@example.org/", "http://user:secret@example.org/", "http://:secret@example.org/", "http://example.org@127.0.0.1/",
    "http://example.org:22/", "https://example.org:6379/", "http://example.org:0/", "http://93.184.215.14:25/",
    "http://exa_mple/", "http://example..org/", "http://-.org/", "http://a b.example.org/",
]  # fmt: skip
ALLOWED_URLS = [
    "http://example.org/", "https://example.org/a.mp3?b=c", "https://EXAMPLE.org./", "http://example.org:8080/", "https://example.org:8443/",
    "https://a-b.c_d.example.org/", "https://xn--bcher-kva.example/", "https://bücher.example/", "https://9news.example/", "https://1.example.org/",
    "http://8.8.8.8/", "http://172.32.0.1/", "http://100.128.0.1/", "http://11.0.0.1/", "https://[2606:4700:4700::1111]/",
    "https://localhost.example.org/", "https://internal.example.org/", "https://thelocal.example/",
]  # fmt: skip


def reach(url: str, guard: Guard) -> tuple[str, ...]:
    """As the transport does: the URL first, then, for each connection, the addresses."""
    try:
        asked = httpx.URL(url)
    except httpx.InvalidURL as error:  # the fetch says so in the same words
        raise SourceRefused(str(error)) from error
    guard.check_url(asked)
    port = asked.port if asked.port is not None else {"https": 443, "http": 80}[asked.scheme]
    return tuple(map(str, guard.addresses(asked.raw_host.decode(), port)))


def answering(*addresses: str) -> Guard:
    return Guard(resolve=lambda _host, _port: addresses)


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_does_not_lead_to_the_public_web_is_refused(url: str) -> None:
    with pytest.raises(SourceRefused):
        reach(url, answering(PUBLIC))


@pytest.mark.parametrize("url", ALLOWED_URLS)
def test_a_url_of_the_public_web_is_reached(url: str) -> None:
    assert len(reach(url, answering(PUBLIC))) == 1


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "::1",
    "fe80::1%eth0",
    "fd00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "0.0.0.0",
    "2606:4700::1%eth0",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_public_name_with_a_private_address_is_refused(address: str) -> None:
    with pytest.raises(SourceRefused, match="public internet"):
        reach("https://example.org/", answering(address))


@pytest.mark.parametrize("answer", [(PUBLIC, "10.0.0.1"), ("10.0.0.1", PUBLIC), (PUBLIC, "::1"), (*[PUBLIC] * 50, "127.0.0.1")])
def test_one_private_address_among_public_ones_refuses_them_all(answer: tuple[str, ...]) -> None:
    with pytest.raises(SourceRefused):
        reach("https://example.org/", answering(*answer))


def test_an_answer_of_thousands_is_cut() -> None:
    assert len(reach("https://example.org/", answering(*[PUBLIC] * 5000))) == MOST_ADDRESSES


def test_an_answer_that_is_no_address_is_refused() -> None:
    with pytest.raises(SourceRefused):
        reach("https://example.org/", answering("somewhere"))


def test_a_name_that_nobody_knows_is_said_so() -> None:
    def unknown(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(SourceUnreachable, match=r"no host named example\.org"):
        reach("https://example.org/", Guard(resolve=unknown))


def test_a_resolver_that_is_away_is_no_answer() -> None:
    def away(_host: str, _port: int) -> Sequence[str]:
        raise OSError("network is unreachable")

    with pytest.raises(httpcore.ConnectError):
        reach("https://example.org/", Guard(resolve=away))
    with pytest.raises(httpcore.ConnectError):
        reach("https://example.org/", answering())


def test_a_resolver_that_hangs_is_left_behind() -> None:
    released = threading.Event()

    def hanging(_host: str, _port: int) -> Sequence[str]:
        released.wait(20)
        return [PUBLIC]

    with pytest.raises(httpcore.ConnectTimeout):
        reach("https://example.org/", Guard(resolve=hanging, resolve_timeout_s=0.05))
    released.set()


@pytest.mark.parametrize(
    ("allow", "url", "address"),
    [
        ("10.1.0.0/16", "http://10.1.2.3:9000/", "10.1.2.3"),
        ("10.1.0.0/16", "https://files.example.org/", "10.1.9.9"),
        ("10.1.2.3", "http://10.1.2.3/", "10.1.2.3"),
        ("fd00::/8", "http://[fd00::5]:9000/", "fd00::5"),
        ("nas", "http://nas:9000/", "192.168.1.5"),
        ("files.internal", "https://files.internal/", "10.9.9.9"),
    ],
)
def test_what_the_operator_allows_is_reached_and_nothing_else(allow: str, url: str, address: str) -> None:
    guard = Guard((allow,), resolve=lambda _host, _port: [address])
    assert reach(url, guard) == (address,)
    for other in ("http://10.2.0.1/", "http://127.0.0.1/", "http://other.internal/", "http://8.8.8.8:22/"):
        with pytest.raises(SourceRefused):
            reach(other, guard)
