"""What a job is told of a source that did not come."""

from core.errors import CallerError, OurError, SourceRefused, SourceUnreachable, SpillwayError
from core.job import JobFailure


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
