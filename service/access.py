"""Who may call, and whose jobs they see: by API key, or in open access only programs on this machine."""

from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from typing import cast

from flask import Flask, abort, g, request

from core.api_keys import ASK_FOR_ADMINS, ASK_FOR_ONE, ApiKeys, KeyRecord, Scope, parsed
from core.errors import Forbidden, RateLimited, Unauthorized
from core.job import ANONYMOUS, Job
from service.collaborators import given

# Routes that need no key: none of them tells of jobs, keys or workers.
DOCS = ("/openapi.json", "/docs", "/docs/swagger", "/docs/swagger/<path:filename>", "/docs/oauth2-redirect.html")
PUBLIC = ("/", "/healthz", "/readyz", *DOCS)
ADMINS = ("/metrics",)  # it tells of the jobs of all


@dataclass(frozen=True)
class Caller:
    key_id: str
    is_admin: bool
    max_jobs: int = 0  # that have not ended; 0 is no limit
    goes_first: bool = True  # may send jobs of priority high

    @property
    def sees(self) -> str | None:
        """The key id whose jobs it sees; None for all."""
        return None if self.is_admin else self.key_id


EVERYBODY = Caller(ANONYMOUS, is_admin=True)


def register(app: Flask) -> None:
    app.before_request(_admit)


def caller() -> Caller:
    return cast(Caller, g.caller)


def visible_job(job_id: str) -> Job:
    """Raises `JobNotFound`, for another key's job too: that there is one is none of the caller's business."""
    return given().jobs.get(job_id, key_id=caller().sees)


def is_revoked(keys: ApiKeys | None, who: Caller) -> bool:
    return keys is not None and keys.is_revoked(who.key_id)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _admit() -> None:
    keys = given().keys
    if keys is None:
        _refuse_foreigners()
        g.caller = EVERYBODY
    elif (route := request.url_rule.rule if request.url_rule else None) not in PUBLIC:
        record = _holder_of_key(keys)
        _limit_requests(record)
        g.caller = Caller(record.id, record.scope == Scope.ADMIN, record.max_jobs(given().settings), record.goes_first)
        if route in ADMINS and not caller().is_admin:
            raise Forbidden(f"{route} needs an API key of scope {Scope.ADMIN}; {ASK_FOR_ADMINS}")


def _holder_of_key(keys: ApiKeys) -> KeyRecord:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized(f"this service needs an API key: send the header `Authorization: Bearer <key>`; {ASK_FOR_ONE}")
    text = text.strip(" ")
    try:
        record = keys.verify(text)
    except Unauthorized:
        if parsed(text):
            _limit_wrong_keys()
        raise
    g.key_id = record.id
    return record


def _limit_requests(record: KeyRecord) -> None:
    most = record.requests_per_minute(given().settings)
    if wait_s := given().rates.spend(f"key:{record.id}", most=most):
        raise RateLimited(f"this API key may send {most} requests a minute: ask less often", retry_after_s=ceil(wait_s))


def _limit_wrong_keys() -> None:
    """By address, which behind a proxy is the proxy's; whoever comes from there with a good key is let in all the same."""
    most = given().settings.wrong_keys_per_minute
    if wait_s := given().rates.spend(f"address:{request.remote_addr}", most=most):
        message = f"more than {most} calls a minute came from this address with a wrong API key: stop, and check the key; {ASK_FOR_ONE}"
        raise RateLimited(message, retry_after_s=ceil(wait_s)) from None


def _refuse_foreigners() -> None:
    """Without API keys only this machine may call, and a browser on it must not be a way around that.

    A foreign page could otherwise reach us under its own name (DNS rebinding: the Host is wrong) or send a form (the Origin is wrong).
    A key needs no such guard: no browser sends it by itself.
    """
    if not is_loopback(_without_port(request.host)):
        abort(403, "call this service as 127.0.0.1 or localhost")
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        abort(403, "pages of other sites may not call this service")


def _without_port(host: str) -> str:
    return host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
