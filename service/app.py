"""The application: routes and errors around the collaborators that it is given."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flask.json.provider import DefaultJSONProvider
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from service import access, deliveries, direct_uploads, docs, edge, events, jobs, metrics, probes, problems, queue, transcripts
from service.collaborators import Collaborators, give

APIS = (jobs.api, direct_uploads.api, transcripts.api, deliveries.api, events.api, queue.api, probes.api)
BODILESS_BYTES = 64 * 1024  # POST /v1/jobs, the one route that takes more, sets limits of its own


class JsonProvider(DefaultJSONProvider):
    def loads(self, s: str | bytes, **options: Any) -> Any:
        """Raises `ValueError`, for what is nested too deeply as well."""
        try:
            return super().loads(s, **options)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def make_app(collaborators: Collaborators) -> OpenAPI:
    app = OpenAPI(
        "service",
        info=Info(title="Spillway", version=_version(), description="Self-hosted speech-to-text."),
        security_schemes={"api_key": {"type": "http", "scheme": "bearer"}},
        openapi_extensions={"security": [{"api_key": []}]} if collaborators.keys else {},
        validation_error_model=problems.Problem,
        validation_error_callback=problems.raise_refusal,
        doc_ui=False,
        static_folder=None,
    )
    app.json = JsonProvider(app)
    app.config["MAX_CONTENT_LENGTH"] = BODILESS_BYTES
    give(app, collaborators)
    metrics.register(app, collaborators, _version())
    for api in APIS:
        app.register_api(api)
    docs.register(app)
    edge.register(app)
    access.register(app)
    problems.register(app)
    return app


def _version() -> str:
    try:
        return version("spillway-asr")
    except PackageNotFoundError:  # run from the source tree
        return "0"
