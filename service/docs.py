"""/openapi.json, /docs and /: the API described, browsable without the internet."""

from typing import cast

from flask import Blueprint, Response, current_app, jsonify, redirect
from flask_openapi3.openapi import OpenAPI
from flask_openapi3_swagger.plugins import RegisterPlugin
from werkzeug.wrappers import Response as WerkzeugResponse

api = Blueprint("docs", __name__)


def register(app: OpenAPI) -> None:
    app.register_blueprint(api)
    app.register_blueprint(RegisterPlugin.register(doc_url="/openapi.json"), url_prefix="/docs")


@api.get("/openapi.json")
def openapi() -> Response:
    return jsonify(cast(OpenAPI, current_app).api_doc)


@api.get("/docs")
def docs() -> WerkzeugResponse:
    return redirect("/docs/swagger")


@api.get("/")
def index() -> Response:
    return jsonify(name="Spillway", jobs="/v1/jobs", queue="/v1/queue", docs="/docs", openapi="/openapi.json")
