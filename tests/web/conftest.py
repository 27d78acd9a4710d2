"""A served application and clients of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from sqlalchemy import Engine

from exporter.settings import Settings
from exporter.web import Listener, create_app
from exporter.web.tokens import create_token


@dataclass
class Client:
    """Calls the API, with a token where it has one."""

    url: str
    token: str | None = None

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = options.pop("headers", {})
        if self.token:
            headers = {"Authorization": f"Bearer {self.token}", **headers}
        return requests.request(
            method, self.url + path, headers=headers, timeout=30, allow_redirects=False, **options
        )

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.call("POST", path, **options)


Serve = Callable[[Settings], str]
MakeClient = Callable[[str], Client]


@pytest.fixture
def serve(engine: Engine) -> Iterator[Serve]:
    """Serve the application with settings; its address."""
    with ExitStack() as listeners:

        def start(settings: Settings) -> str:
            listener = Listener(create_app(engine, settings), settings.http)
            listener.start()
            listeners.callback(listener.stop)
            return f"http://127.0.0.1:{listener.port}"

        yield start


@pytest.fixture
def site(serve: Serve, settings: Settings) -> Client:
    """A caller without a token."""
    return Client(serve(settings))


@pytest.fixture
def caller(site: Client, engine: Engine) -> MakeClient:
    """`caller("operator")`: a caller with a token of this role."""

    def make(role: str) -> Client:
        with engine.begin() as connection:
            return Client(
                site.url, create_token(connection, f"the {role}", role=role, by="test", days=None)
            )

    return make
