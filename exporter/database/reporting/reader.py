"""The role that reads the reporting views and nothing else: Grafana's."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import encrypt_password
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import ProgrammingError

from exporter.errors import DatabaseProblem
from exporter.settings import DatabaseSettings

#: Sessions that the role may have; Grafana's pool is smaller.
CONNECTION_LIMIT = 20
_INSUFFICIENT_PRIVILEGE = "42501"

#: Functions that anybody may call and that do something: take the locks by which we lead and
#: count, or write large objects or the log. Only a superuser can close them.
_DOING = """
    SELECT CAST(oid AS regprocedure) FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
        AND proname ~ '^(pg_(try_)?advisory_|lo_|lowrite|loread|pg_logical_emit_message)'
"""


@dataclass(frozen=True)
class Reader:
    """How the role reaches the database; `password` is new."""

    role: str
    password: str
    url: URL
    #: False: without a superuser the role may still take advisory locks and make large objects.
    is_confined: bool

    @property
    def environment(self) -> Mapping[str, str]:
        """What Grafana's provisioning of the PostgreSQL data source reads."""
        return {
            "GRAFANA_POSTGRES_HOST": self.url.host or "localhost",
            "GRAFANA_POSTGRES_PORT": str(self.url.port or 5432),
            "GRAFANA_POSTGRES_DATABASE": self.url.database or "",
            "GRAFANA_POSTGRES_USER": self.role,
            "GRAFANA_POSTGRES_PASSWORD": self.password,
            "GRAFANA_POSTGRES_SSLMODE": str(self.url.query.get("sslmode", "disable")),
        }


def make_reader(connection: Connection, settings: DatabaseSettings, url: URL) -> Reader:
    """Create the role or rotate its password, and set anew what it may do; the caller commits.

    `url` is the program's own, whose user owns the views; the connection may be another role's
    that has the right to create roles. Raises DatabaseProblem where it has not, or where the role
    is more than a reader.
    """
    role, owner = settings.reader_role, url.username
    is_superuser = connection.scalar(text("SHOW is_superuser")) == "on"
    _refuse_powerful(connection, role)
    password = secrets.token_urlsafe(24)
    try:
        _write_role(connection, role, password, settings.reader_timeout_seconds)
        _grant(connection, role, f'"{owner}"', url.database)
        if is_superuser:
            _confine(connection, f'"{owner}"', role)
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseProblem(
            f"{owner} may not create the role {role}: {str(error.orig).strip()}\n"
            "hint: name the URL of an administrator's role in a file, and give it with "
            "--administrator-url-file"
        ) from error
    return Reader(role, password, url, is_confined=is_superuser)


def end_long_readers(connection: Connection, settings: DatabaseSettings) -> int:
    """End the role's sessions whose transaction lasts twice as long as a statement may.

    A session can lift its own statement_timeout; nobody can lift this.
    """
    return len(
        connection.execute(
            text("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = :role AND datname = current_database()
                    AND xact_start < clock_timestamp() - make_interval(secs => :seconds)
            """),
            {"role": settings.reader_role, "seconds": 2 * settings.reader_timeout_seconds},
        ).all()
    )


def _refuse_powerful(connection: Connection, role: str) -> None:
    row = connection.execute(
        text("""
            SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
                OR EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = r.oid) AS is_powerful
            FROM pg_roles AS r WHERE rolname = :role
        """),
        {"role": role},
    ).first()
    if row is not None and row.is_powerful:
        raise DatabaseProblem(f"the role {role} exists, and may more than read")


def _write_role(connection: Connection, role: str, password: str, timeout_seconds: float) -> None:
    exists = connection.scalar(
        text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)"), {"role": role}
    )
    # Encrypted here, so that no log of the server has it.
    driver: Any = connection.connection.dbapi_connection
    verifier = encrypt_password(password, role, scope=driver, algorithm="scram-sha-256")
    _run(
        connection,
        f'{"ALTER" if exists else "CREATE"} ROLE "{role}" LOGIN'
        f" CONNECTION LIMIT {CONNECTION_LIMIT} PASSWORD '{verifier}'",
    )
    for name, value in {
        "search_path": "reporting",
        "statement_timeout": f"{timeout_seconds * 1000:.0f}",
        "lock_timeout": f"{timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{timeout_seconds * 1000:.0f}",
        "default_transaction_read_only": "on",
    }.items():
        _run(connection, f"ALTER ROLE \"{role}\" SET {name} = '{value}'")


def _grant(connection: Connection, role: str, owner: str, database: str | None) -> None:
    for statement in (
        f'GRANT CONNECT ON DATABASE "{database}" TO "{role}"',
        f'GRANT USAGE ON SCHEMA reporting TO "{role}"',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO "{role}"',
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA reporting"
        f' GRANT SELECT ON TABLES TO "{role}"',
        # What every role may do by default; the program itself keeps it.
        f'GRANT TEMPORARY ON DATABASE "{database}" TO {owner}',
        f'REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC',
        f"GRANT ALL ON SCHEMA public TO {owner}",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        # So that the leader sees its sessions and may end them.
        f'GRANT "{role}" TO {owner}',
    ):
        _run(connection, statement)


def _confine(connection: Connection, owner: str, role: str) -> None:
    functions = ", ".join(connection.scalars(text(_DOING)))
    _run(connection, f"GRANT EXECUTE ON FUNCTION {functions} TO {owner}")
    _run(connection, f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    _run(connection, f"ALTER ROLE \"{role}\" SET temp_file_limit = '1GB'")


def _run(connection: Connection, statement: str) -> None:
    connection.execution_options(no_parameters=True).exec_driver_sql(statement)
