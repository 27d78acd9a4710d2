"""/metrics: hands over what the exporter made, to those who may have it; its own listener."""

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flask import Flask, Response, abort, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from exporter.logs import get_logger
from exporter.settings import HttpSettings, MetricsSettings
from exporter.web.listener import Listener
from exporter.web.tls import TlsListener

log = get_logger(__name__)


class _Answer(Protocol):
    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class MetricsSource(Protocol):
    """What makes the metrics; this floor cannot import it."""

    def scrape(self, accept: str, accept_encoding: str) -> _Answer: ...


def add_metrics(app: Flask, source: MetricsSource, settings: MetricsSettings) -> None:
    @app.get("/metrics")
    def metrics() -> Response:
        if settings.token_file is not None:
            _require_token(settings.token_file)
        headers = request.headers
        answer = source.scrape(headers.get("Accept", ""), headers.get("Accept-Encoding", ""))
        return Response(answer.body, headers=dict(answer.headers))


def metrics_listener(app: Flask, settings: MetricsSettings) -> Listener | TlsListener:
    """The listener of metrics.address, not started yet."""
    assert settings.address is not None, "the listener of http serves the metrics"
    if settings.certificate_file is None or settings.key_file is None:
        return Listener(app, HttpSettings(address=settings.address, port=settings.port))
    return TlsListener(
        app,
        settings.address,
        settings.port,
        certificate_file=settings.certificate_file,
        key_file=settings.key_file,
    )


def _require_token(file: Path) -> None:
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        log.error("metrics.token_file cannot be read", error=str(error))
        abort(503, "the token of the metrics cannot be read")
    given = request.headers.get("Authorization", "").encode("latin-1")
    # An empty file would let everybody in who sends an empty token.
    if not token or not hmac.compare_digest(given, b"Bearer " + token):
        raise Unauthorized(
            "the metrics need the token of metrics.token_file",
            www_authenticate=WWWAuthenticate("bearer"),
        )
