"""Login of browsers: a token is exchanged for a session, which lives in a cookie."""

from typing import Any

from apiflask import APIFlask
from flask import Response, jsonify, redirect, render_template, request
from flask_limiter import Limiter
from sqlalchemy import Engine
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter import logs
from exporter.database.engine import database_errors
from exporter.settings import HttpSettings
from exporter.web.access import SESSION_COOKIE, Access, caller, needs
from exporter.web.tokens import audit, end_session, start_session

log = logs.get_logger(__name__)

_FORM_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def add_login(
    app: APIFlask, engine: Engine, settings: HttpSettings, access: Access, limiter: Limiter
) -> None:
    @app.get("/login")
    @app.doc(hide=True)
    @needs("")
    def login_page() -> Response:
        answer = Response(render_template("login.html"))
        answer.headers["Content-Security-Policy"] = _FORM_POLICY
        return answer

    @app.post("/login")
    @app.doc(hide=True)
    @needs("")
    @limiter.limit(settings.login_rate)
    def login() -> WerkzeugResponse:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise Forbidden("only our own page logs in")
        token = access.find(request.form.get("token", ""))
        if token is None or token.is_session:
            log.warning("a login was refused", address=request.remote_addr)
            raise Unauthorized("there is no such token")
        with database_errors(), engine.begin() as connection:
            secret = start_session(connection, token, seconds=settings.session_seconds)
            audit(connection, "login", token.name, actor=token.name, address=_address())
        access.tokens.forget()
        answer = redirect("/", 303)
        answer.set_cookie(
            SESSION_COOKIE,
            secret,
            max_age=int(settings.session_seconds),
            httponly=True,
            samesite="Lax",
            secure=request.is_secure or settings.public_url.startswith("https://"),
        )
        return answer

    @app.post("/logout")
    @app.doc(hide=True)
    def logout() -> WerkzeugResponse:
        if secret := caller().secret:
            with database_errors(), engine.begin() as connection:
                end_session(connection, secret)
            access.tokens.forget()
        answer = redirect("/login", 303)
        answer.delete_cookie(SESSION_COOKIE)
        return answer

    @app.get("/session")
    @app.doc(summary="Who the caller is, and the CSRF token of a browser's session")
    def session() -> Response:
        present = caller()
        content: dict[str, Any] = {
            "name": present.name,
            "role": present.role,
            "csrf_token": present.csrf_token,
        }
        return jsonify(content)


def _address() -> str:
    return request.remote_addr or ""
