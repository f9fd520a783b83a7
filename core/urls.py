"""URLs that a client names: what can be said of them before anything is reached."""

from urllib.parse import unquote, urlsplit

from core.errors import InvalidRequest

LONGEST = 4096  # signed URLs of clouds have 500 to 2000 characters
FILENAME_CHARACTERS = 255
GS = "gs://"


def check_url(url: str, *, field: str, schemes: tuple[str, ...]) -> None:
    """Raises `InvalidRequest`. Which addresses may be reached is decided where they are reached, each time anew."""
    if len(url) > LONGEST:
        raise InvalidRequest(f"{field}: longer than {LONGEST} characters", field=field)
    if not url.isprintable() or any(character.isspace() for character in url) or "\\" in url:
        raise InvalidRequest(
            f"{field}: holds spaces, backslashes or characters that do not print: encode them as %20 and the like", field=field
        )
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidRequest(f"{field}: not a URL", field=field) from None
    if parts.scheme not in schemes or not has_host:
        raise InvalidRequest(f"{field}: must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}", field=field)
    if "@" in parts.netloc:
        raise InvalidRequest(f"{field}: holds a user name or password: use a signed URL instead", field=field)


def without_query(url: str) -> str:
    """Fit to be shown and logged: the query of a signed URL is a secret. In gs:// addresses everything is name."""
    if url.startswith(GS):
        return url
    return urlsplit(url)._replace(query="", fragment="").geturl()


def last_segment(url: str) -> str:
    """The file's name, as far as the path has one."""
    return display_name(url if url.startswith(GS) else unquote(urlsplit(url).path, errors="replace"))


def display_name(filename: str) -> str:
    """Without folders and without characters that could deceive whoever reads it."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[:FILENAME_CHARACTERS]
