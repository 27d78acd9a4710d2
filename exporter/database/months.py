"""The months' tables on their way: from the log to the archive, back, and away.

A month is always in one of these places: attached to the log or the archive, leaving one of them
(its rows are then in neither), or attached to none. Each function goes on from wherever it finds
the month, so it may be killed at any moment and is simply called again.

The statements lock `devices`, `backup_schedules` and `configurations`, which the months' foreign
keys refer to, and who waits for a lock stops all who come after; so each waits briefly and is
tried again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from exporter.database.history import remember_month
from exporter.errors import DatabaseProblem

LOG = "backup_execution_logs"
ARCHIVE = "backup_execution_history"

LOCK_TIMEOUT = "100ms"
LOCK_NOT_AVAILABLE = "55P03"
PAUSE_SECONDS = 0.1
#: About two minutes.
_ATTEMPTS = 600
#: How long to wait for transactions that already use the log, before a month leaves it.
_USERS_SECONDS = 600.0


@dataclass(frozen=True)
class Month:
    """One month's table; `parent` is LOG, ARCHIVE or None, `is_leaving` a detach cut off."""

    name: str
    parent: str | None
    is_leaving: bool

    @property
    def begins(self) -> datetime:
        return datetime.strptime(self.name[-7:], "%Y_%m").replace(tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """The first moment that is not in it."""
        return month_after(self.begins)


def partition_name(month: datetime) -> str:
    return f"{LOG}_{month:%Y_%m}"


def month_of(moment: datetime) -> datetime:
    """The first moment of a moment's month, in UTC."""
    moment = moment.astimezone(UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def month_after(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def range_of(month: Month) -> str:
    """The bounds, as ATTACH PARTITION wants them."""
    return (
        f"FOR VALUES FROM ('{month.begins:%Y-%m-%d} 00:00+00') "
        f"TO ('{month.ends:%Y-%m-%d} 00:00+00')"
    )


def find_months(connection: Connection) -> list[Month]:
    """Every month's table, wherever it is, oldest first."""
    found = connection.execute(
        text("""
            SELECT c.relname, p.relname, coalesce(i.inhdetachpending, FALSE)
            FROM pg_class AS c
            LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
            LEFT JOIN pg_class AS p ON p.oid = i.inhparent
            WHERE c.relkind = 'r' AND c.relname ~ '^backup_execution_logs_[0-9]{4}_[0-9]{2}$'
                AND c.relnamespace = (SELECT relnamespace FROM pg_class
                    WHERE oid = CAST('backup_execution_logs' AS regclass))
            ORDER BY c.relname
        """)
    )
    return [Month(*row) for row in found]


def find_month(connection: Connection, name: str) -> Month | None:
    return next((month for month in find_months(connection) if month.name == name), None)


def move_month(connection: Connection, name: str, to: str) -> None:
    """Take a month to LOG or ARCHIVE, without copying a row.

    The connection is one of `history.moving_months`. Raises DatabaseProblem where locks were not
    to be had; the next call goes on from there.
    """
    with _brief_waits(connection):
        month = _detach(connection, name, stays_in=to)
        if month.parent is None:
            attach = f"ALTER TABLE {to} ATTACH PARTITION {name} {range_of(month)}"
            _until_done(name, lambda: _try_once(connection, attach))


def drop_month(connection: Connection, name: str) -> None:
    """Delete a month with all its rows; what they add up to is kept.

    The connection is one of `history.moving_months`. Raises DatabaseProblem as `move_month` does.
    """
    with _brief_waits(connection):
        _detach(connection, name, stays_in=None)
        connection.execute(text("BEGIN"))
        try:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            remember_month(connection, name)
            _until_done(name, lambda: _try_drop(connection, name))
        except BaseException:
            if not connection.invalidated:
                connection.execute(text("ROLLBACK"))
            raise
        connection.execute(text("COMMIT"))


def _try_drop(connection: Connection, name: str) -> bool:
    connection.execute(text("SAVEPOINT before_drop"))
    if _try_once(connection, f"DROP TABLE {name}"):
        return True
    # Gives back what it had locked already.
    connection.execute(text("ROLLBACK TO SAVEPOINT before_drop"))
    return False


def _detach(connection: Connection, name: str, *, stays_in: str | None) -> Month:
    """Take a month out of where it is, unless that is where it stays; finishes what was cut off."""
    month = find_month(connection, name)
    if month is not None and month.parent not in (None, stays_in) and not month.is_leaving:
        _wait_for_users(connection, str(month.parent))

    def is_out() -> bool:
        nonlocal month
        month = find_month(connection, name)
        if month is None:
            raise DatabaseProblem(f"there is no table {name}")
        if month.parent is None or (month.parent == stays_in and not month.is_leaving):
            return True
        # Never a plain DETACH, which would make new readers of the log wait.
        way = "FINALIZE" if month.is_leaving else "CONCURRENTLY"
        _try_once(connection, f"ALTER TABLE {month.parent} DETACH PARTITION {name} {way}")
        return False

    _until_done(name, is_out)
    assert month is not None
    return month


def _wait_for_users(connection: Connection, parent: str) -> None:
    """Wait for the transactions that already use the table.

    A detach waits for them as well, but then with the month's rows out of everybody's sight.
    """
    using = text("""
        SELECT virtualtransaction FROM pg_locks
        WHERE relation = to_regclass(:parent) AND pid <> pg_backend_pid()
    """)
    first = set(connection.scalars(using, {"parent": parent}))
    until = time.monotonic() + _USERS_SECONDS
    while first := first & set(connection.scalars(using, {"parent": parent})):
        if time.monotonic() > until:
            raise DatabaseProblem(
                f"{parent} is in use by one transaction for longer than {_USERS_SECONDS:.0f} s"
            )
        time.sleep(PAUSE_SECONDS)


def _until_done(name: str, step: Callable[[], bool]) -> None:
    for _ in range(_ATTEMPTS):
        if step():
            return
    raise DatabaseProblem(
        f"the month {name} could not be moved: other transactions kept locks on devices, "
        "backup_schedules or configurations"
    )


def _try_once(connection: Connection, statement: str) -> bool:
    """Run the statement; False, after a pause, where a lock was not to be had soon."""
    try:
        connection.execute(text(statement))
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        time.sleep(PAUSE_SECONDS)
        return False
    return True


@contextmanager
def _brief_waits(connection: Connection) -> Iterator[None]:
    before = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(text(f"SET lock_timeout = '{before}'"))


def is_lock_timeout(error: OperationalError) -> bool:
    return getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE
