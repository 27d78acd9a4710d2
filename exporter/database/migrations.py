"""The schema's versions: Alembic, one process at a time, one transaction a migration.

A migration never waits long for a lock, because whoever comes after it would wait too: it gives
up and is tried again.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from exporter.database.reporting import are_installed, install_views
from exporter.errors import DatabaseProblem
from exporter.logs import get_logger

#: Key of the advisory lock that one migrating process holds: "cbmi" in ASCII.
_LOCK_KEY = 0x63626D69
_OTHERS_TIMEOUT = "600s"
_LOCK_TIMEOUT = "2s"
_STATEMENT_TIMEOUT = "600s"
_ATTEMPTS = 30
_PAUSE_SECONDS = 1.0
_LOCK_NOT_AVAILABLE = "55P03"

_log = get_logger(__name__)


def _is_ours(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    return not (
        kind == "table"
        and name is not None
        and name.startswith(("procrastinate_", "backup_execution_logs_"))
    )


#: How Alembic compares models and database: without Procrastinate's tables (their SQL is frozen)
#: and the monthly partitions.
COMPARISON: Mapping[str, Any] = {"include_object": _is_ours, "compare_server_default": True}


def alembic_config() -> Config:
    """Where the migrations lie; there is no alembic.ini to keep in step with the settings."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def heads() -> tuple[str, ...]:
    """The newest revisions of this program; more than one is a mistake that a test finds."""
    return tuple(ScriptDirectory.from_config(alembic_config()).get_heads())


def is_current(engine: Engine) -> bool:
    """Whether the database has exactly the schema and the reporting views of this program."""
    with engine.connect() as connection:
        return _revisions(connection) == set(heads()) and are_installed(connection)


def upgrade(engine: Engine) -> None:
    """Bring the database to this program's schema; commits after each migration.

    Waits while another process does it. Raises DatabaseProblem where locks are never free, or
    the database was written by a newer program.
    """
    with engine.connect() as connection:
        # Session settings and the session's lock end with this connection, which no pool gets back.
        connection.detach()
        _lock(connection)
        _refuse_newer_schema(connection)
        for _ in range(_ATTEMPTS):
            try:
                _run(connection)
            except OperationalError as error:
                if getattr(error.orig, "pgcode", None) != _LOCK_NOT_AVAILABLE:
                    raise
                connection.rollback()
                _log.warning("a migration waits for locks of other transactions")
                time.sleep(_PAUSE_SECONDS)
            else:
                return
    raise DatabaseProblem("the schema could not be migrated: other transactions kept their locks")


def _lock(connection: Connection) -> None:
    connection.execute(text(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'"))
    connection.execute(text(f"SET lock_timeout = '{_OTHERS_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
    connection.commit()


def _refuse_newer_schema(connection: Connection) -> None:
    known = {
        script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()
    }
    if unknown := _revisions(connection) - known:
        raise DatabaseProblem(
            f"the database has the schema {', '.join(sorted(unknown))} of a newer program\n"
            "hint: install the newest configbackup"
        )


def _run(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "heads")
    install_views(connection)
    connection.commit()


def _revisions(connection: Connection) -> set[str]:
    found = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()
    return found
