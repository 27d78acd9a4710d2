"""Connections: the URL, the engine with its bounded pool, and errors in people's words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg.conninfo
import sqlalchemy
from sqlalchemy import URL, Dialect, Engine, event, make_url
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from exporter.database.embedded import embedded_url
from exporter.errors import DatabaseProblem
from exporter.settings import DatabaseSettings

#: The oldest PostgreSQL that this program runs on, as libpq writes it (major * 10,000 + minor).
OLDEST_SERVER_VERSION = 140_000
#: A peer that vanished without a word (a firewall, a power cut) is noticed after about this long.
DEAD_PEER_SECONDS = 30


def is_embedded(settings: DatabaseSettings) -> bool:
    return settings.url.get_secret_value() == "embedded"


def database_url(settings: DatabaseSettings) -> URL:
    """URL of the database for SQLAlchemy with psycopg2; starts nothing.

    Raises DatabaseProblem where the setting is no URL of PostgreSQL, or the embedded server was
    never started.
    """
    if is_embedded(settings):
        return embedded_url(settings)
    return parsed_url(settings.url.get_secret_value(), key="database.url")


def parsed_url(content: str, *, key: str) -> URL:
    """The URL of a PostgreSQL for SQLAlchemy with psycopg2.

    Raises DatabaseProblem, which names the key, where it is none.
    """
    try:
        # SQLAlchemy knows the old name of the scheme no more; people's URLs still have it.
        url = make_url(content.replace("postgres://", "postgresql://", 1))
    except ArgumentError:
        raise _not_a_url(key) from None
    if url.get_backend_name() != "postgresql":
        raise _not_a_url(key)
    # Without a driver in it SQLAlchemy would take psycopg 3.
    return url.set(drivername="postgresql+psycopg2")


def psycopg_conninfo(settings: DatabaseSettings, *, application_name: str) -> str:
    """The same database as a connection string for psycopg 3; it holds the password."""
    return psycopg.conninfo.make_conninfo(**_keywords(settings, application_name))


def create_engine(
    settings: DatabaseSettings, *, application_name: str, is_lean: bool = False
) -> Engine:
    """An engine whose pool and waits are all bounded; connects at first use.

    A lean one saves round trips for workers: each statement is its own transaction, and a caller
    repeats what fails on a connection that has gone stale. Its sessions are in UTC. A connection
    to a server older than 14 raises DatabaseProblem.
    """
    engine = sqlalchemy.create_engine(
        database_url(settings),
        connect_args=_keywords(settings, application_name),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_seconds,
        # One more round trip, and a restart of PostgreSQL is not noticed.
        pool_pre_ping=not is_lean,
        isolation_level="AUTOCOMMIT" if is_lean else "READ COMMITTED",
        # Parameters may hold a configuration; they belong in no message.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _refuse_old_server)
    return engine


def reading_engine(settings: DatabaseSettings, *, application_name: str) -> Engine:
    """An engine for people's reads: to the replica where there is one, else to the database.

    A replica lags, so who reads back what it has just written takes `create_engine`. Sessions
    refuse to write wherever they go. Raises DatabaseProblem as `create_engine` does.
    """
    if settings.replica_url is not None:
        parsed_url(settings.replica_url.get_secret_value(), key="database.replica_url")
        settings = settings.model_copy(update={"url": settings.replica_url})
    engine = create_engine(settings, application_name=application_name)
    event.listen(engine, "connect", _refuse_writing)
    return engine


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn what says that PostgreSQL is away or overloaded into DatabaseProblem."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise DatabaseProblem(f"PostgreSQL does not answer: {str(error.orig).strip()}") from error
    except PoolTimeout as error:
        raise DatabaseProblem(
            "no connection of the pool became free in time\nhint: raise database.pool_size"
        ) from error


def require_supported(server_version: int) -> None:
    """Raise DatabaseProblem for a server older than we run on; versions as libpq writes them."""
    if server_version < OLDEST_SERVER_VERSION:
        found, expected = server_version // 10_000, OLDEST_SERVER_VERSION // 10_000
        raise DatabaseProblem(
            f"the server of database.url is PostgreSQL {found}, expected {expected} or newer"
        )


def _refuse_old_server(connection: Any, _record: object) -> None:
    try:
        require_supported(connection.server_version)
    except DatabaseProblem:
        connection.close()
        raise


def _refuse_writing(connection: Any, _record: object) -> None:
    connection.set_session(readonly=True)


def _keywords(settings: DatabaseSettings, application_name: str) -> dict[str, Any]:
    """libpq's keywords: those of the URL, and ours where the URL says nothing."""
    dialect: Dialect = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
    _, keywords = dialect.create_connect_args(database_url(settings))
    session = {
        "timezone": "UTC",
        "statement_timeout": f"{settings.statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": f"{settings.lock_timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": (
            f"{settings.idle_in_transaction_timeout_seconds * 1000:.0f}"
        ),
    }
    options = [f"-c {name}={value}" for name, value in session.items()]
    return {
        "connect_timeout": 10,
        "keepalives_idle": DEAD_PEER_SECONDS // 3,
        "keepalives_interval": DEAD_PEER_SECONDS // 6,
        "keepalives_count": 4,
        "tcp_user_timeout": DEAD_PEER_SECONDS * 1000,
        **keywords,
        "application_name": application_name,
        "options": " ".join([*options, *filter(None, [keywords.get("options")])]),
    }


def _not_a_url(key: str) -> DatabaseProblem:
    return DatabaseProblem(
        f"{key} is neither `embedded` nor a URL of PostgreSQL, such as "
        "postgresql://configbackup:PASSWORD@host/configbackup"
    )
