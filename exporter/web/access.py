"""Who calls, and what they may do.

A caller shows a token (Authorization: Bearer), is named by a trusted proxy, or has the session of
a browser. While no token exists, callers on this machine are admins: the listener then binds
loopback alone. Whatever a view does not mark needs a viewer.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, g, redirect, request
from sqlalchemy import Engine
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Response

from exporter import logs
from exporter.errors import ListenerProblem
from exporter.models import ROLES
from exporter.settings import HttpSettings
from exporter.web.reading import Shared
from exporter.web.tokens import Token, read_tokens, token_hash

log = logs.get_logger(__name__)

SESSION_COOKIE = "configbackup_session"
CSRF_HEADER = "X-CSRF-Token"
#: How long a revoked token is still taken.
_FRESH_SECONDS = 1.0
_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Views (by endpoint) that ask nobody who they are: none of them tells what is backed up.
_OPEN = frozenset({"static", "healthz", "readyz", "metrics", "openapi.spec"})
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip")

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Caller:
    """Who makes the request; `secret` is that of the session's cookie."""

    name: str
    role: str
    #: A browser sends by itself what names this caller: other sites can make it do so.
    is_ambient: bool
    secret: str | None = None
    token: Token | None = None

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def csrf_token(self) -> str | None:
        """What a form or script of our own pages must send along with a change."""
        if self.secret is None:
            return None
        return hmac.new(self.secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def needs(role: str) -> Callable[[View], View]:
    """Mark a view as one for callers with this role; `needs("")`: for everybody."""

    def mark(view: View) -> View:
        view.needed_role = role  # type: ignore[attr-defined]
        return view

    return mark


def caller() -> Caller:
    """Who makes the present request."""
    found: Caller = g.caller
    return found


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def require_token_beyond_loopback(engine: Engine, settings: HttpSettings) -> None:
    """Raise ListenerProblem where others could call and no token tells them apart."""
    if not is_loopback(settings.address) and not _in_force(read_tokens(engine)):
        raise ListenerProblem(
            f"http.address is {settings.address} and there is no token: whoever reaches it could "
            "do everything\nhint: configbackup token create NAME --role admin, then start again"
        )


def _in_force(tokens: Mapping[bytes, Token]) -> bool:
    return any(not token.is_session and not token.is_expired for token in tokens.values())


class Access:
    """Asks each request of the application who makes it, before its view runs."""

    def __init__(self, app: Flask, engine: Engine, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings
        self._proxies = [ip_network(proxy) for proxy in settings.trusted_proxies]
        self.tokens = Shared(lambda: read_tokens(engine), _FRESH_SECONDS)
        app.before_request(self._require)

    def find(self, secret: str) -> Token | None:
        """The token or session with this secret. Raises DatabaseProblem."""
        key = token_hash(secret)
        found = self.tokens.get().get(key)
        if found is None:
            # It may have been made a moment ago.
            found = self.tokens.get(at_most_seconds_old=0.1).get(key)
        return None if found is None or found.is_expired else found

    def _require(self) -> Response | None:
        endpoint = request.endpoint
        # Unknown paths are answered as such; OPTIONS tells methods alone.
        if endpoint is None or endpoint in _OPEN or request.method == "OPTIONS":
            return None
        role = getattr(self._app.view_functions[endpoint], "needed_role", ROLES[0])
        if not role:
            return None
        found = self._identify()
        if found is None:
            return self._refuse_unknown()
        g.caller = found
        if request.method not in _READ_METHODS and found.is_ambient:
            self._require_own_page(found)
        if not found.may(role):
            self._log_refusal("the role is too low", name=found.name)
            raise Forbidden(f"this needs the role {role}; {found.name} is {found.role}")
        return None

    def _identify(self) -> Caller | None:
        authorization = request.authorization
        if authorization is not None or "Authorization" in request.headers:
            is_bearer = authorization is not None and authorization.type == "bearer"
            token = self.find((authorization.token or "") if authorization and is_bearer else "")
            if token is None or token.is_session:
                return None
            return Caller(token.name, token.role, is_ambient=False, token=token)
        if user := self._proxy_user():
            return Caller(user, self._proxy_role(user), is_ambient=True)
        if secret := request.cookies.get(SESSION_COOKIE):
            token = self.find(secret)
            if token is not None and token.is_session:
                return Caller(token.name, token.role, is_ambient=True, secret=secret)
            return None
        if self._is_on_this_machine() and not _in_force(self.tokens.get()):
            return Caller("somebody on this machine", ROLES[-1], is_ambient=True)
        return None

    def _proxy_user(self) -> str | None:
        remote = ip_address((request.remote_addr or "0.0.0.0").split("%")[0])  # noqa: S104 - nobody
        if not any(remote in proxy for proxy in self._proxies):
            return None
        return request.headers.get(self._settings.user_header)

    def _proxy_role(self, user: str) -> str:
        if user in self._settings.proxy_admins:
            return "admin"
        return "operator" if user in self._settings.proxy_operators else "viewer"

    def _is_on_this_machine(self) -> bool:
        """Neither through a proxy, nor by a name that another site made point here."""
        host = urlsplit(f"//{request.host}").hostname or ""
        return (
            is_loopback(request.remote_addr or "")
            and is_loopback(host)
            and not any(header in request.headers for header in _FORWARDED)
        )

    def _require_own_page(self, found: Caller) -> None:
        origin = request.headers.get("Origin")
        fetched_from = request.headers.get("Sec-Fetch-Site", "same-origin")
        own = {request.host, urlsplit(self._settings.public_url).netloc}
        is_foreign = origin is not None and urlsplit(origin).netloc not in own - {""}
        if is_foreign or fetched_from not in {"same-origin", "none"}:
            self._log_refusal("the request comes from another site", origin=origin)
            raise Forbidden("a change can be asked for by our own pages alone, or with a token")
        if found.csrf_token is not None:
            given = request.headers.get(CSRF_HEADER) or request.form.get("csrf_token", "")
            if not hmac.compare_digest(given.encode(), found.csrf_token.encode()):
                self._log_refusal("the CSRF token is missing or wrong", name=found.name)
                raise Forbidden(f"the header {CSRF_HEADER} is missing or wrong; see GET /session")

    def _refuse_unknown(self) -> Response:
        self._log_refusal("nobody that is known")
        is_page = request.accept_mimetypes.best_match(["application/json", "text/html"])
        if is_page == "text/html" and request.method == "GET":
            return redirect("/login", 303)
        raise Unauthorized(
            "this needs a token: Authorization: Bearer TOKEN",
            www_authenticate=WWWAuthenticate("bearer"),
        )

    def _log_refusal(self, why: str, **more: object) -> None:
        log.warning(
            "a request was refused",
            why=why,
            address=request.remote_addr,
            method=request.method,
            path=request.path,
            **more,
        )
