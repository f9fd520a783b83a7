"""Which hosts may be reached for a client: public ones on web ports, however their address is written, plus what the operator allows.

`ipaddress.is_global` is not asked: what it says moves with Python's patch level, and it takes addresses that carry another one.
"""

import re
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from queue import Empty, SimpleQueue
from threading import Thread

import httpcore
import httpx

from core.errors import SourceRefused, SourceUnreachable

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]  # host and port → addresses; raises OSError

PORTS = (80, 443, 8080, 8443)  # of web servers: what listens on others (SSH, mail, databases) must not be spoken to
RESOLVE_TIMEOUT_S = 10.0  # glibc gives up after 5 s twice, but a resolver can be anything
MOST_ADDRESSES = 4  # tried one after another; an answer of thousands must not hold a fetch

# What can only be meant inside, whoever answers for it (RFC 6761, 6762, 8375, and what routers and clouds use).
INSIDE = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "home.arpa", "localdomain")
LONGEST_NAME = 253  # RFC 1035, as it is written
LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"{LABEL}(\.{LABEL})+", re.ASCII)
ODD_NUMBER = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)$", re.ASCII)  # what the C library reads as IPv4: 127.1, 0x7f.1, 2130706433

# IANA's special-purpose registries (RFC 6890 and its successors), multicast, and one address of a cloud.
PRIVATE_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
            "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # Azure's host: a public number that answers only inside
        ),
    )
)  # fmt: skip
GLOBAL_V6 = IPv6Network("2000::/3")  # nothing else was ever given out; mapped, compatible, NAT64, unique-local, link-local lie outside
PRIVATE_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols: Teredo, ORCHID, benchmarking
            "2001:db8::/32", "3fff::/20",  # documentation
            "2002::/16",  # 6to4: carries an IPv4 address
        ),
    )
)  # fmt: skip


def resolve(host: str, port: int) -> list[str]:
    """As the system does."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Guard:
    """Checks a URL, and each time anew the addresses that its host has; whoever connects goes to one of those and to no other."""

    def __init__(
        self,
        allow: Sequence[str] = (),
        *,
        resolve: Resolve = resolve,
        resolve_timeout_s: float = RESOLVE_TIMEOUT_S,
        variable: str = "SPILLWAY_FETCH_ALLOW",
    ) -> None:
        """`allow` holds host names and networks that may be reached on any port although they are private; `variable` is what sets it."""
        self._variable = variable
        self._names = {one for one in allow if not _is_network(one)}
        self._networks = tuple(ip_network(one) for one in allow if _is_network(one))
        self._resolve, self._resolve_timeout_s = resolve, resolve_timeout_s

    def check_url(self, url: httpx.URL) -> None:
        """What can be said before anything is resolved. Raises `SourceRefused`."""
        if url.scheme not in ("https", "http"):
            raise SourceRefused(f"{url.scheme or 'no scheme'}: only https:// and http:// URLs are reached")
        if url.userinfo:
            raise SourceRefused("the URL holds a user name or password: use a signed URL instead")
        self._check_host(url.raw_host.decode("ascii").rstrip("."))

    def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """Where a connection to `host` may go now. One private address among public ones refuses them all: such an answer is a
        mistake or an attack. Raises `SourceRefused`, `SourceUnreachable`, `httpcore.ConnectError`."""
        name = host.rstrip(".")
        self._check_host(name)
        found = [_parsed(address) for address in self._resolved(name, port)]
        for address in found:
            self._check_address(name, address, port)
        return tuple(found[:MOST_ADDRESSES])

    def _check_host(self, host: str) -> None:
        if host in self._names or _is_address(host):
            return
        if len(host) > LONGEST_NAME:
            raise SourceRefused(f"{host[:LONGEST_NAME]}…: no name is that long")
        if "%" in host or ODD_NUMBER.search(host):
            raise SourceRefused(f"{host}: write the address in its usual form")
        if not NAME.fullmatch(host) or any(host == inside or host.endswith(f".{inside}") for inside in INSIDE):
            raise SourceRefused(f"{host or 'no host'}: not a name of the public internet; {self._variable} can allow it")

    def _check_address(self, host: str, address: Address, port: int) -> None:
        if host in self._names or any(address in network for network in self._networks):
            return
        if is_private(address):
            raise SourceRefused(f"{host}: its address is not one of the public internet; {self._variable} can allow it")
        if port not in PORTS:
            raise SourceRefused(f"port {port}: only the ports {', '.join(map(str, PORTS))} are reached")

    def _resolved(self, host: str, port: int) -> Sequence[str]:
        if _is_address(host):
            return [host]
        answers: SimpleQueue[Sequence[str] | OSError] = SimpleQueue()
        Thread(target=self._answer, args=(host, port, answers), daemon=True).start()  # a resolver cannot be interrupted, only left behind
        try:
            answer = answers.get(timeout=self._resolve_timeout_s)
        except Empty:
            raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from None
        if isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_NONAME:
            raise SourceUnreachable(f"there is no host named {host}: check the URL")
        if isinstance(answer, OSError) or not answer:
            raise httpcore.ConnectError(f"the name {host} could not be resolved")
        return answer

    def _answer(self, host: str, port: int, answers: "SimpleQueue[Sequence[str] | OSError]") -> None:
        try:
            answers.put(self._resolve(host, port))
        except OSError as error:
            answers.put(error)
        except UnicodeError:  # Python's own encoding of names, of one that is too long
            answers.put(socket.gaierror(socket.EAI_NONAME, "not a name"))


def is_private(address: Address) -> bool:
    """Anything but a unicast address of the public internet, also when it only carries another one."""
    if isinstance(address, IPv4Address):
        return any(address in network for network in PRIVATE_V4)
    return address.scope_id is not None or address not in GLOBAL_V6 or any(address in network for network in PRIVATE_V6)


def _parsed(address: str) -> Address:
    try:
        return ip_address(address)
    except ValueError:
        raise SourceRefused("its name resolves to something that is no address") from None


def _is_address(host: str) -> bool:
    try:
        return "%" not in host and bool(ip_address(host))
    except ValueError:
        return False


def _is_network(one: str) -> bool:
    try:
        return bool(ip_network(one))
    except ValueError:
        return False
