"""The rows of a statement, as what they are called by: column names."""

from typing import Any

from sqlalchemy import Connection, text

Row = dict[str, Any]


def all_rows(connection: Connection, sql: str, **values: object) -> list[Row]:
    return [dict(row) for row in connection.execute(text(sql), values).mappings()]


def first_row(connection: Connection, sql: str, **values: object) -> Row | None:
    row = connection.execute(text(sql), values).mappings().first()
    return None if row is None else dict(row)
