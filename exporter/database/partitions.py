"""The monthly partitions of `backup_execution_logs`, by created_at in UTC.

There is no default partition: it would forbid DETACH CONCURRENTLY, by which months move to the
archive. So partitions are made months ahead, and an insert that finds none makes its own.
"""

import time
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from exporter.errors import DatabaseProblem

#: Key of the advisory lock under which partitions are made: "cbpa" in ASCII.
_LOCK_KEY = 0x63627061
#: ATTACH locks the tables that the log's foreign keys refer to against writers, and who waits for
#: that lock stops all who come after; so it waits briefly, and tries again.
_LOCK_TIMEOUT = "100ms"
_ATTEMPTS = 100
_PAUSE_SECONDS = 0.1
_LOCK_NOT_AVAILABLE = "55P03"


def partition_name(month: datetime) -> str:
    return f"backup_execution_logs_{month:%Y_%m}"


def ensure_partitions(connection: Connection, months_ahead: int = 3) -> list[str]:
    """Make the partitions of the present and the next months that are missing; returns their names.

    Works in the caller's transaction, which should commit soon: until then nobody can write to
    `devices`. The present is the database's.
    """
    month = _month_of(connection.execute(text("SELECT now()")).scalar_one())
    months = [month]
    for _ in range(months_ahead):
        months.append(_month_after(months[-1]))
    return _ensure(connection, months)


def ensure_partition_for(engine: Engine, moment: datetime) -> list[str]:
    """Make the partition of a moment in a transaction of its own: for an insert that found none."""
    with engine.begin() as connection:
        return _ensure(connection, [_month_of(moment)])


def existing_partitions(connection: Connection) -> set[str]:
    """Names of the partitions attached to the log."""
    return set(
        connection.execute(
            text(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'backup_execution_logs'::regclass"
            )
        ).scalars()
    )


def months_ahead(connection: Connection) -> int:
    """How many months after the present one have their partition, without a gap."""
    attached = existing_partitions(connection)
    month = _month_of(connection.execute(text("SELECT now()")).scalar_one())
    ahead = 0
    while partition_name(month := _month_after(month)) in attached:
        ahead += 1
    return ahead


def oldest_month(connection: Connection) -> datetime:
    """The first moment of the oldest month in the log; the present one's where it has none."""
    attached = existing_partitions(connection)
    if not attached:
        return _month_of(connection.execute(text("SELECT now()")).scalar_one())
    return datetime.strptime(min(attached)[-7:], "%Y_%m").replace(tzinfo=UTC)


def _ensure(connection: Connection, months: list[datetime]) -> list[str]:
    # Everybody finds one missing at the same moment, the first of a month: one makes it.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    attached = existing_partitions(connection)
    missing = [month for month in months if partition_name(month) not in attached]
    for month in missing:
        _create(connection, month)
    return [partition_name(month) for month in missing]


def _create(connection: Connection, month: datetime) -> None:
    name = partition_name(month)
    if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one():
        raise DatabaseProblem(
            f"the table {name} is not a partition of the log: its month is in the archive\n"
            "hint: check the clock of the database's machine"
        )
    for _ in range(_ATTEMPTS):
        try:
            with connection.begin_nested():
                _create_and_attach(connection, name, month)
        except OperationalError as error:
            if getattr(error.orig, "pgcode", None) != _LOCK_NOT_AVAILABLE:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    raise DatabaseProblem(
        f"the partition {name} could not be attached: other transactions kept locks on devices, "
        "backup_schedules or configurations"
    )


def _create_and_attach(connection: Connection, name: str, month: datetime) -> None:
    before = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    # Never CREATE TABLE ... PARTITION OF: it would make new readers of the log wait.
    connection.execute(
        text(
            f"CREATE TABLE {name} (LIKE backup_execution_logs INCLUDING ALL)"
            # Append-only: keep the visibility map fresh, for index-only scans.
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.02)"
        )
    )
    connection.execute(
        text(
            f"ALTER TABLE backup_execution_logs ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{month:%Y-%m-%d} 00:00+00')"
            f" TO ('{_month_after(month):%Y-%m-%d} 00:00+00')"
        )
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{before}'"))


def _month_of(moment: datetime) -> datetime:
    moment = moment.astimezone(UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def _month_after(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
