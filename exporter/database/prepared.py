"""Statements that each session parses and plans once, for what runs once an execution."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping

_PARAMETER = re.compile(r"(?<!:):([a-z_0-9]+)")


class PreparedStatement:
    """SQL with `:name` parameters, run through PREPARE and EXECUTE.

    Parsing and planning a statement of the ending transaction takes PostgreSQL longer than running
    it. psycopg2 prepares nothing by itself. A session's statements are lost with the session, so
    the pool must hold real sessions: a pooler in between has to be in session mode.
    """

    def __init__(self, name: str, sql: str, types: Mapping[str, str]) -> None:
        """`types`: PostgreSQL's type of each parameter."""
        names = list(dict.fromkeys(_PARAMETER.findall(sql)))
        places = {parameter: f"${number}" for number, parameter in enumerate(names, 1)}
        body = _PARAMETER.sub(lambda match: places[match[1]], sql)
        self._name = name
        self._prepare = f"PREPARE {name} ({', '.join(types[each] for each in names)}) AS {body}"
        self._execute = f"EXECUTE {name} ({', '.join(f'%({each})s' for each in names)})"

    def first(self, connection: Connection, values: Mapping[str, Any]) -> RowMapping | None:
        """The first row, if there is one; values beyond the statement's parameters are ignored."""
        known: set[str] = connection.connection.info.setdefault("prepared", set())
        if self._name not in known:
            connection.execution_options(no_parameters=True).exec_driver_sql(self._prepare)
            known.add(self._name)
        return connection.exec_driver_sql(self._execute, dict(values)).mappings().first()
