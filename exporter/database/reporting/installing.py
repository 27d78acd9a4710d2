"""The views are code, not data: written again after the migrations wherever they changed.

They are not in the migrations, which would repeat all of them for each new column. A migration
that removes what a view reads drops that view first.
"""

import hashlib
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from exporter.database.reporting.views import VIEWS, View
from exporter.settings import Settings

#: SQLSTATE of CREATE OR REPLACE VIEW where a column would go, move or change its type.
_INVALID_TABLE_DEFINITION = "42P16"


def install_views(connection: Connection) -> None:
    """Create or replace every view and its comments; the caller commits.

    Who may read the schema may read new views too: `make_reader` sets default privileges. Raises
    SQLAlchemyError where a person's own view stands on one that lost a column.
    """
    if are_installed(connection):
        return
    connection = connection.execution_options(no_parameters=True)
    connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS reporting")
    for name in _existing(connection) - set(VIEWS):
        connection.exec_driver_sql(f'DROP VIEW reporting."{name}"')
    for name, view in VIEWS.items():
        _create(connection, name, view)
    connection.exec_driver_sql(f"COMMENT ON SCHEMA reporting IS '{_fingerprint()}'")


def are_installed(connection: Connection) -> bool:
    """Whether the database has exactly the views of this program."""
    comment = connection.scalar(
        text(
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace"
            " WHERE nspname = 'reporting'"
        )
    )
    return comment == _fingerprint() and _existing(connection) == set(VIEWS)


def describe_installation(connection: Connection, settings: Settings) -> None:
    """Write what the view `settings` shows; the caller commits."""
    connection.execute(
        text("UPDATE installation SET public_url = :public_url, time_zone = :time_zone"),
        {"public_url": settings.http.base_url, "time_zone": settings.time_zone},
    )


def documentation(connection: Connection) -> str:
    """The tables of docs/reporting.md, as Markdown, from the views in the database."""
    types: dict[tuple[str, str], str] = {
        (row.view, row.column): row.type
        for row in connection.execute(
            text("""
                SELECT c.relname AS view, a.attname AS column,
                    format_type(a.atttypid, a.atttypmod) AS type
                FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                WHERE c.relnamespace = 'reporting'::regnamespace AND a.attnum > 0
            """)
        )
    }
    return "\n".join(_section(name, view, types) for name, view in VIEWS.items())


def _section(name: str, view: View, types: Mapping[tuple[str, str], str]) -> str:
    lines = [f"## reporting.{name}", "", f"One row: {view.meaning}.", ""]
    lines += ["| column | type | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{column}` | {types[name, column]} | {meaning} |"
        for column, (_, meaning) in view.columns.items()
    ]
    return "\n".join([*lines, ""])


def _create(connection: Connection, name: str, view: View) -> None:
    create, *comments = _statements(name, view)
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(create)
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != _INVALID_TABLE_DEFINITION:
            raise
        connection.exec_driver_sql(f"DROP VIEW reporting.{name}")
        connection.exec_driver_sql(create)
    for comment in comments:
        connection.exec_driver_sql(comment)


def _statements(name: str, view: View) -> Iterator[str]:
    columns = ",\n".join(f'{sql} AS "{column}"' for column, (sql, _) in view.columns.items())
    yield f"CREATE OR REPLACE VIEW reporting.{name} AS SELECT\n{columns}\nFROM {view.source}"
    yield f"COMMENT ON VIEW reporting.{name} IS {_quoted(view.meaning)}"
    for column, (_, meaning) in view.columns.items():
        yield f'COMMENT ON COLUMN reporting.{name}."{column}" IS {_quoted(meaning)}'


def _quoted(sentence: str) -> str:
    return "'" + sentence.replace("'", "''") + "'"


def _existing(connection: Connection) -> set[str]:
    return set(
        connection.scalars(
            text(
                "SELECT viewname FROM pg_views WHERE schemaname = 'reporting'"
                " AND viewowner = current_user"
            )
        )
    )


def _fingerprint() -> str:
    statements = "".join(
        statement for name, view in VIEWS.items() for statement in _statements(name, view)
    )
    return f"views of configbackup {hashlib.sha256(statements.encode()).hexdigest()}"
