"""The Flask application: routes, errors in one shape, security headers."""

from datetime import UTC, datetime
from importlib.metadata import version

from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Flask, Response, current_app, render_template, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from sqlalchemy import Engine
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter import logs
from exporter.errors import (
    DatabaseProblem,
    NothingSelected,
    UnknownBackup,
    UnknownDevice,
    UnknownSchedule,
)
from exporter.settings import Settings
from exporter.web.access import Access
from exporter.web.api import Api, add_api
from exporter.web.caching import Answers
from exporter.web.events import Events
from exporter.web.health import add_health
from exporter.web.login import add_login
from exporter.web.metrics import MetricsSource, add_metrics
from exporter.web.overview import OverviewSource
from exporter.web.problems import MEDIA_TYPE, InvalidRequest, problem
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
    app = APIFlask(
        __name__,
        title="configbackup",
        version=version("configbackup"),
        docs_path=None,
        json_errors=False,
    )
    app.config["AUTO_SERVERS"] = False
    app.extensions["streams"] = Streams()
    app.before_request(_refuse_what_cannot_be)
    access = Access(app, engine, settings.http)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", headers_enabled=True)
    overview = OverviewSource(engine)
    add_health(app, engine)
    add_login(app, engine, settings.http, access, limiter)
    streams = app.extensions["streams"]
    events = Events(engine, streams.stopping)
    add_api(Api(app, engine, settings, limiter, Answers(app, settings.cache), events, streams))
    if metrics is not None and settings.metrics.address is None:
        add_metrics(app, metrics, settings.metrics)

    @app.get("/")
    def index() -> str:
        now = datetime.now(settings.zone_info)
        return render_template("overview.html", overview=overview.read(), now=now)

    app.add_template_filter(lambda moment: moment.astimezone(settings.zone_info), "local")
    app.add_template_filter(_duration, "duration")
    _answer_errors_in_one_shape(app)
    app.after_request(_add_headers)
    _let_grafana_read(app, settings.http.grafana_origins)
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


def _refuse_what_cannot_be() -> None:
    """Parameters that no view knows, and what no row of PostgreSQL can have."""
    if request.url_rule is None:
        return
    for name, value in (request.view_args or {}).items():
        if "\x00" in str(value) or (isinstance(value, int) and value >= 2**63):
            raise NotFound(f"there is no {name} like that")
    if twice := [name for name, values in request.args.lists() if len(values) > 1]:
        raise InvalidRequest([(f"query.{name}", "is given more than once") for name in twice])
    view = current_app.view_functions[request.url_rule.endpoint]
    inputs = getattr(view, "_spec", {}).get("args", [])
    takes_query = any(entry[1] == "query" for entry in inputs)
    if request.args and not takes_query and request.url_rule.endpoint != "static":
        raise InvalidRequest([(f"query.{name}", "unknown parameter") for name in request.args])


def _answer_errors_in_one_shape(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def answer_http_error(error: HTTPException) -> WerkzeugResponse:
        answer = error.get_response()
        more = {}
        if isinstance(error, InvalidRequest):
            more["errors"] = [{"field": f, "message": m} for f, m in error.errors]
        detail = error.description or error.name
        answer.data = problem(answer.status_code, error.name, detail, **more)
        answer.content_type = MEDIA_TYPE
        return answer

    @app.errorhandler(HTTPError)
    def answer_invalid_input(error: HTTPError) -> WerkzeugResponse:
        found = InvalidRequest(
            [
                (place if field == "_schema" else f"{place}.{field}", message)
                for place, fields in error.detail.items()
                for field, messages in fields.items()
                for message in messages
            ]
        )
        return answer_http_error(found)

    def answer_unknown(error: Exception) -> WerkzeugResponse:
        return answer_http_error(NotFound(str(error)))

    for kind in (UnknownDevice, UnknownSchedule, UnknownBackup):
        app.register_error_handler(kind, answer_unknown)

    @app.errorhandler(NothingSelected)
    def answer_nothing_selected(error: NothingSelected) -> WerkzeugResponse:
        return answer_http_error(InvalidRequest([("json", str(error))]))

    @app.errorhandler(DatabaseProblem)
    def answer_database_problem(error: DatabaseProblem) -> Response:
        log.warning("PostgreSQL is away", error=str(error))
        if request.endpoint == "index":
            # Who asks cannot be told while it is away; this page shows nothing but that.
            page = render_template("overview.html", overview=None, now=datetime.now(UTC))
            return Response(page, 503)
        body = problem(503, "Service Unavailable", "PostgreSQL does not answer")
        return Response(body, 503, content_type=MEDIA_TYPE)

    @app.errorhandler(Exception)
    def answer_defect(error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        body = problem(500, "Internal Server Error", "see the log of the daemon")
        return Response(body, 500, content_type=MEDIA_TYPE)


def _let_grafana_read(app: Flask, origins: list[str]) -> None:
    """Pages of these origins, and no others, may read answers (with a token of their own)."""

    @app.after_request
    def add_cross_origin_headers(answer: Response) -> Response:
        answer.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in origins:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Allow-Methods"] = "GET"
            answer.headers["Access-Control-Allow-Headers"] = "Authorization"
        return answer


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
