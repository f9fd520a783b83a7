"""What a job is told of a source that did not come."""

import re
from pathlib import Path

from core.errors import CallerError, OurError, SourceRefused, SourceUnreachable, SpillwayError
from core.job import JobFailure

WEB_PAGE = (
    "the source is a web page, not a recording: give the address that the file itself is downloaded from without signing in,"
    " or upload the recording"
)
PAGE_BEGINS = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)\b", re.IGNORECASE)


def failure_of(error: Exception) -> JobFailure:
    if isinstance(error, CallerError):
        return JobFailure(code=error.code, message=_said_of(error))
    code = error.code if isinstance(error, OurError) else SpillwayError.code
    return JobFailure(code=code, message="Something broke on our side while the source was fetched: the log has the details.")


def given_up(why: Exception, tries: int) -> JobFailure:
    return JobFailure(code=SourceUnreachable.code, message=f"the source could not be fetched in {tries} tries: at last {why}")


def _said_of(error: CallerError) -> str:
    match error:
        case SourceRefused():
            return f"the source was refused: {error}"
        case SourceUnreachable():
            return f"the source could not be fetched: {error}"
        case _:
            return str(error)


def is_web_page(path: Path) -> bool:
    """Where somebody has to sign in or to press a button, servers answer 200 all the same."""
    with path.open("rb") as content:
        return bool(PAGE_BEGINS.match(content.read(1024)))
