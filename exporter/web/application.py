"""The Flask application: routes, errors in one shape, security headers."""

from datetime import datetime

from flask import Flask, Response, render_template
from sqlalchemy import Engine
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter import logs
from exporter.errors import DatabaseProblem
from exporter.settings import Settings
from exporter.web.health import add_health
from exporter.web.metrics import MetricsSource, add_metrics
from exporter.web.overview import OverviewSource
from exporter.web.problems import MEDIA_TYPE, problem
from exporter.web.streams import Streams

log = logs.get_logger(__name__)

#: Defaults: a route that needs others sets them itself.
_HEADERS = {
    # Our own style sheet and nothing else: text that slips past escaping still runs nothing.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(engine: Engine, settings: Settings, metrics: MetricsSource | None = None) -> Flask:
    """The application; it connects to PostgreSQL only when a request needs it.

    An answer without an end goes through `app.extensions["streams"].admit` (see `Streams`).
    """
    app = Flask(__name__)
    app.extensions["streams"] = Streams()
    overview = OverviewSource(engine)
    add_health(app, engine)
    if metrics is not None and settings.metrics.address is None:
        add_metrics(app, metrics, settings.metrics)

    @app.get("/")
    def index() -> tuple[str, int]:
        now = datetime.now(settings.zone_info)
        try:
            present = overview.read()
        except DatabaseProblem as error:
            log.warning("the page cannot be filled", error=str(error))
            return render_template("overview.html", overview=None, now=now), 503
        return render_template("overview.html", overview=present, now=now), 200

    app.add_template_filter(lambda moment: moment.astimezone(settings.zone_info), "local")
    app.add_template_filter(_duration, "duration")
    _answer_errors_in_one_shape(app)
    app.after_request(_add_headers)
    return app


def create_metrics_app(engine: Engine, settings: Settings, metrics: MetricsSource) -> Flask:
    """The application of the listener of metrics.address, which serves nothing else."""
    app = Flask(__name__, static_folder=None)
    app.extensions["streams"] = Streams()
    add_health(app, engine)
    add_metrics(app, metrics, settings.metrics)
    _answer_errors_in_one_shape(app)
    app.after_request(_add_headers)
    return app


def _answer_errors_in_one_shape(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def answer_http_error(error: HTTPException) -> WerkzeugResponse:
        answer = error.get_response()
        answer.data = problem(answer.status_code, error.name, error.description or error.name)
        answer.content_type = MEDIA_TYPE
        return answer

    @app.errorhandler(DatabaseProblem)
    def answer_database_problem(error: DatabaseProblem) -> Response:
        log.warning("PostgreSQL is away", error=str(error))
        body = problem(503, "Service Unavailable", "PostgreSQL does not answer")
        return Response(body, 503, content_type=MEDIA_TYPE)

    @app.errorhandler(Exception)
    def answer_defect(error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        body = problem(500, "Internal Server Error", "see the log of the daemon")
        return Response(body, 500, content_type=MEDIA_TYPE)


def _add_headers(answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer


def _duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`; empty for an execution that never ran."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
