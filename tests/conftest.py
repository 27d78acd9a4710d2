"""One PostgreSQL for the whole run, and a fresh migrated database for each test that wants one.

The controller of pytest-xdist starts the server and hands its address to the workers. With
CONFIGBACKUP_TEST_DATABASE_URL, the URL of a superuser, another server is used.
"""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy import URL, Engine, make_url, text

from exporter.database import engine as database_engine
from exporter.database import migrations
from exporter.database.embedded import EmbeddedPostgres, embedded_url, superuser_url
from exporter.settings import DatabaseSettings, Settings
from tests.installation import free_port, system_user

SERVER_VARIABLE = "CONFIGBACKUP_TEST_DATABASE_URL"
_TEMPLATE = "configbackup_template"
_PREFIX = "configbackup-test-"

MakeSettings = Callable[..., Settings]


class _Server:
    """The run's PostgreSQL: URLs of its superuser and of the role that owns the databases."""

    def __init__(self, superuser: URL, owner: URL) -> None:
        self.superuser = superuser
        self.owner = owner

    def execute(self, *statements: str) -> None:
        engine = sqlalchemy.create_engine(self.superuser, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def make_template(self) -> None:
        owner = self.owner.username
        self.execute(
            f"DROP DATABASE IF EXISTS {_TEMPLATE} WITH (FORCE)",
            f"CREATE DATABASE {_TEMPLATE} OWNER {owner}",
        )
        engine = sqlalchemy.create_engine(self.owner.set(database=_TEMPLATE))
        migrations.upgrade(engine)
        engine.dispose()

    def copy_template(self) -> URL:
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {self.owner.username}")
        return self.owner.set(database=name)

    def drop(self, database: URL) -> None:
        self.execute(f"DROP DATABASE {database.database} WITH (FORCE)")


_SERVER = pytest.StashKey[_Server]()
_CLEAN_UP = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    if worker_input := getattr(config, "workerinput", None):
        urls = worker_input["configbackup_database_urls"]
        config.stash[_SERVER] = _Server(*(make_url(url) for url in urls))
    elif not config.option.collectonly:
        config.stash[_SERVER] = _start_server(config)
        config.stash[_SERVER].make_template()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    server = node.config.stash[_SERVER]
    node.workerinput["configbackup_database_urls"] = [
        url.render_as_string(hide_password=False) for url in (server.superuser, server.owner)
    ]


def pytest_unconfigure(config: pytest.Config) -> None:
    if _CLEAN_UP in config.stash:
        config.stash[_CLEAN_UP].close()


def _start_server(config: pytest.Config) -> _Server:
    # Taken out of the environment: to the program it would be an unknown key.
    if url := os.environ.pop(SERVER_VARIABLE, None):
        superuser = make_url(url).set(drivername="postgresql+psycopg2")
        return _Server(superuser, superuser)
    _remove_left_overs()
    config.stash[_CLEAN_UP] = ExitStack()
    settings = config.stash[_CLEAN_UP].enter_context(_embedded_settings())
    EmbeddedPostgres(settings).start()
    server = _Server(superuser_url(settings), embedded_url(settings))
    # No test cuts the power: a killed process loses nothing that the system still holds.
    server.execute("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    return server


@contextmanager
def _embedded_settings() -> Iterator[DatabaseSettings]:
    """Settings of an embedded server, not started yet; stopped and removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    # Where we are root the server's user must reach it.
    directory.chmod(0o755)
    with (directory / "in_use").open("w") as in_use:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        yield _settings_in(directory)
        _remove_server(directory)


def _settings_in(directory: Path) -> DatabaseSettings:
    return DatabaseSettings(
        directory=directory / "postgresql", port=free_port(), system_user=system_user()
    )


def _remove_server(directory: Path) -> None:
    EmbeddedPostgres(_settings_in(directory)).stop()
    shutil.rmtree(directory)


def _remove_left_overs() -> None:
    """Stop and remove what a killed run of this user left behind; nobody holds its lock."""
    for directory in Path("/tmp").glob(f"{_PREFIX}*"):
        in_use = directory / "in_use"
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            if in_use.stat().st_uid == os.geteuid():
                with in_use.open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_server(directory)


@pytest.fixture(name="free_port")
def _free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    return free_port()


@pytest.fixture
def embedded_settings() -> Iterator[DatabaseSettings]:
    """Settings of an embedded server of the test's own, not started yet; stopped afterwards."""
    with _embedded_settings() as settings:
        yield settings


@pytest.fixture(scope="module")
def shared_embedded_settings() -> Iterator[DatabaseSettings]:
    """The same, but one for all tests of a module: it may be running, and have data."""
    with _embedded_settings() as settings:
        yield settings


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL, with its password, of a migrated database of this test's own."""
    server = request.config.stash[_SERVER]
    database = server.copy_template()
    yield database.render_as_string(hide_password=False)
    server.drop(database)


@pytest.fixture(scope="module")
def shared_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same, but one for all tests of a module."""
    server = request.config.stash[_SERVER]
    database = server.copy_template()
    yield database.render_as_string(hide_password=False)
    server.drop(database)


@pytest.fixture
def superuser_engine(request: pytest.FixtureRequest, database_url: str) -> Iterator[Engine]:
    """The test's database, as a superuser: for killing sessions and the like."""
    url = request.config.stash[_SERVER].superuser.set(database=make_url(database_url).database)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def make_settings(database_url: str, tmp_path: Path) -> MakeSettings:
    """Settings with this test's database and folders; keywords replace keys of sections.

    `make_settings(git={"branch": "x"}, schedules=[...])`
    """

    def make(**sections: Any) -> Settings:
        defaults: dict[str, Any] = {
            "database": {"url": SecretStr(database_url)},
            "git": {"directory": tmp_path / "configurations.git"},
            "inventory": {
                "options": {
                    "host_file": str(tmp_path / "hosts.yaml"),
                    "group_file": str(tmp_path / "groups.yaml"),
                    "defaults_file": str(tmp_path / "defaults.yaml"),
                }
            },
            "http": {"port": 0},
        }
        for name, keys in sections.items():
            defaults[name] = {**defaults.get(name, {}), **keys} if isinstance(keys, dict) else keys
        return Settings(**defaults)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """The program's own engine on this test's database."""
    engine = database_engine.create_engine(settings.database, application_name="test")
    yield engine
    engine.dispose()
