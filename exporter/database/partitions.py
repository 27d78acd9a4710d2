"""The monthly partitions of `backup_execution_logs`, by created_at in UTC.

There is no default partition: it would forbid DETACH CONCURRENTLY, by which months move to the
archive. So partitions are made months ahead, and an insert that finds none makes its own.
"""

import time
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from exporter.database.history import moving_months
from exporter.database.months import (
    LOCK_TIMEOUT,
    LOG,
    PAUSE_SECONDS,
    find_month,
    is_lock_timeout,
    month_after,
    month_of,
    move_month,
    partition_name,
)
from exporter.errors import DatabaseProblem

__all__ = [
    "ensure_partition_for",
    "ensure_partitions",
    "existing_partitions",
    "months_ahead",
    "oldest_month",
    "partition_name",
]

#: Key of the advisory lock under which partitions are made: "cbpa" in ASCII.
_LOCK_KEY = 0x63627061
#: About twenty seconds.
_ATTEMPTS = 100


def ensure_partitions(connection: Connection, months_ahead: int = 3) -> list[str]:
    """Make the partitions of the present and the next months that are missing; returns their names.

    Works in the caller's transaction, which should commit soon: until then nobody can write to
    `devices`. The present is the database's.
    """
    month = month_of(connection.execute(text("SELECT now()")).scalar_one())
    months = [month]
    for _ in range(months_ahead):
        months.append(month_after(months[-1]))
    return _ensure(connection, months)


def ensure_partition_for(engine: Engine, moment: datetime) -> list[str]:
    """Make the partition of a moment in a transaction of its own: for an insert that found none.

    A month that is in the archive already (the database's clock went back) comes out of it again.
    """
    month = month_of(moment)
    # Also where the engine's connections otherwise commit each statement.
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        found = find_month(connection, partition_name(month))
        if found is None:
            made = _ensure(connection, [month])
            connection.commit()
            return made
    if found.parent != LOG or found.is_leaving:
        with moving_months(engine) as moving:
            move_month(moving, found.name, LOG)
    return []


def existing_partitions(connection: Connection) -> set[str]:
    """Names of the partitions attached to the log."""
    return set(
        connection.execute(
            text(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'backup_execution_logs'::regclass AND NOT inhdetachpending"
            )
        ).scalars()
    )


def months_ahead(connection: Connection) -> int:
    """How many months after the present one have their partition, without a gap."""
    attached = existing_partitions(connection)
    month = month_of(connection.execute(text("SELECT now()")).scalar_one())
    ahead = 0
    while partition_name(month := month_after(month)) in attached:
        ahead += 1
    return ahead


def oldest_month(connection: Connection) -> datetime:
    """The first moment of the oldest month in the log; the present one's where it has none."""
    attached = existing_partitions(connection)
    if not attached:
        return month_of(connection.execute(text("SELECT now()")).scalar_one())
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
            if not is_lock_timeout(error):
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
    raise DatabaseProblem(
        f"the partition {name} could not be attached: other transactions kept locks on devices, "
        "backup_schedules or configurations"
    )


def _create_and_attach(connection: Connection, name: str, month: datetime) -> None:
    before = connection.execute(text("SHOW lock_timeout")).scalar_one()
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
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
            f" TO ('{month_after(month):%Y-%m-%d} 00:00+00')"
        )
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{before}'"))
