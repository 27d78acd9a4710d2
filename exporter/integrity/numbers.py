"""Statistics, counters and device states against the executions that they sum up.

What must be is what the rows say, with the remainders of deleted ones. It is read in one snapshot,
and an ending changes rows and sums in one transaction: so a difference is a fault, never a race.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, Row, text

from exporter.database import history
from exporter.database.history import COUNTER_ARRAYS, COUNTER_KEYS, COUNTER_SUMS, STATISTIC_SUMS

#: Seconds are summed in another order than they were added in.
_RELATIVE_TOLERANCE = 1e-9
_ABSOLUTE_TOLERANCE = 1e-4
_STATISTIC_KEYS = ("day", "site", "platform", "status")


@dataclass(frozen=True)
class Difference:
    """One number that is not what the executions say."""

    #: The table: `daily_statistics`, `execution_counters` or `device_states`.
    table: str
    #: Which row: a device's number, or the values of the keys.
    key: tuple[Any, ...]
    column: str
    stored: Any
    expected: Any


def verify_numbers(engine: Engine, *, since: date | None = None) -> list[Difference]:
    """Recompute statistics (of the days from `since` on), counters and states; what differs.

    Reads every execution once or twice: about 3 s a million.
    """
    with history.counting(engine) as connection:
        months = history.months(connection)
        return [
            *_statistics(connection, months, since),
            *_counters(connection, months),
            *_states(connection, history.executions_of(months)),
        ]


def mend_numbers(engine: Engine, differences: Sequence[Difference]) -> None:
    """Make stored numbers what the executions say; safe while executions end.

    Sums are mended by their difference, which endings do not change; states are locked, and
    computed anew.
    """
    with engine.begin() as connection:
        for table, keys in (
            ("daily_statistics", _STATISTIC_KEYS),
            ("execution_counters", COUNTER_KEYS),
        ):
            for key, changes in _by_key(differences, table):
                _add(connection, table, dict(zip(keys, key, strict=True)), changes)
    devices = sorted({d.key[0] for d in differences if d.table == "device_states"})
    if devices:
        _mend_states(engine, devices)


# Statistics and counters: rows with the same key and another shard are summed.


def _statistics(
    connection: Connection, months: Sequence[str], since: date | None
) -> Iterator[Difference]:
    # A day of any time zone begins at most a day away from that of UTC.
    condition = "TRUE" if since is None else f"created_at > DATE '{since}' - 2 AND day >= '{since}'"
    days = "TRUE" if since is None else f"day >= '{since}'"
    stored = ", ".join(f"sum({name}) AS {name}" for name in STATISTIC_SUMS)
    keys = ", ".join(_STATISTIC_KEYS)
    yield from _compare(
        connection,
        "daily_statistics",
        _STATISTIC_KEYS,
        STATISTIC_SUMS,
        stored=f"SELECT {keys}, {stored} FROM daily_statistics WHERE {days} GROUP BY {keys}",
        expected=f"""SELECT {keys}, {stored} FROM (
            SELECT {keys}, {", ".join(STATISTIC_SUMS)} FROM remaining_statistics WHERE {days}
            UNION ALL {history.statistics_of(history.executions_of(months, condition))}
        ) AS e GROUP BY {keys}""",
    )


def _counters(connection: Connection, months: Sequence[str]) -> Iterator[Difference]:
    keys = ", ".join(COUNTER_KEYS)
    columns = ", ".join((*COUNTER_SUMS, *COUNTER_ARRAYS))
    sums = ", ".join(
        [f"sum({name}) AS {name}" for name in COUNTER_SUMS]
        + [f"{history.sum_of_arrays(name)} AS {name}" for name in COUNTER_ARRAYS]
    )
    yield from _compare(
        connection,
        "execution_counters",
        COUNTER_KEYS,
        (*COUNTER_SUMS, *COUNTER_ARRAYS),
        stored=f"SELECT {keys}, {sums} FROM execution_counters GROUP BY {keys}",
        expected=f"""SELECT {keys}, {sums} FROM (
            SELECT {keys}, {columns} FROM remaining_counters
            UNION ALL SELECT {keys}, {columns}
                FROM ({history.counters_of(history.executions_of(months))}) AS c
        ) AS e GROUP BY {keys}""",
    )


def _compare(
    connection: Connection,
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    *,
    stored: str,
    expected: str,
) -> Iterator[Difference]:
    """A row that is missing on one side counts as zeros."""
    found: list[dict[tuple[Any, ...], Row[Any]]] = [
        {tuple(getattr(row, key) for key in keys): row for row in connection.execute(text(sql))}
        for sql in (stored, expected)
    ]
    for key in sorted(found[0].keys() | found[1].keys()):
        for column in columns:
            is_array = column in COUNTER_ARRAYS
            was, must = (_value(side.get(key), column, is_array=is_array) for side in found)
            if not _is_same(was, must):
                yield Difference(table, key, column, was, must)


def _value(row: Row[Any] | None, column: str, *, is_array: bool) -> Any:
    if row is not None:
        value = getattr(row, column)
        return value if is_array or isinstance(value, float) else int(value)
    return [0] * history.BUCKETS if is_array else 0


def _is_same(stored: Any, expected: Any) -> bool:
    if isinstance(stored, float) or isinstance(expected, float):
        if stored is None or expected is None:
            return stored is expected
        return math.isclose(
            stored, expected, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_ABSOLUTE_TOLERANCE
        )
    return bool(stored == expected)


def _by_key(
    differences: Sequence[Difference], table: str
) -> Iterator[tuple[tuple[Any, ...], list[Difference]]]:
    rows: dict[tuple[Any, ...], list[Difference]] = {}
    for difference in differences:
        if difference.table == table:
            rows.setdefault(difference.key, []).append(difference)
    yield from sorted(rows.items())


def _add(
    connection: Connection, table: str, key: dict[str, Any], changes: Sequence[Difference]
) -> None:
    """Add what is missing to one row of the key: the first there is, else a new one."""
    condition = " AND ".join(f"{name} = :{name}" for name in key)
    row = connection.execute(
        text(f"SELECT ctid FROM {table} WHERE {condition} ORDER BY shard LIMIT 1 FOR UPDATE"), key
    ).first()
    if row is None:
        _insert_empty(connection, table, key)
        _add(connection, table, key, changes)
        return
    sets = ", ".join(
        f"{change.column} = "
        + (
            history.array_of(f"{change.column}[{{bucket}}] + (:{change.column})[{{bucket}}]")
            if change.column in COUNTER_ARRAYS
            else f"{change.column} + :{change.column}"
        )
        for change in changes
    )
    connection.execute(
        text(f"UPDATE {table} SET {sets} WHERE ctid = CAST(:row AS tid)"),
        {"row": row.ctid, **{change.column: _missing(change) for change in changes}},
    )


def _missing(change: Difference) -> Any:
    if change.column in COUNTER_ARRAYS:
        return [b - a for a, b in zip(change.stored, change.expected, strict=True)]
    return change.expected - change.stored


def _insert_empty(connection: Connection, table: str, key: dict[str, Any]) -> None:
    if table == "daily_statistics":
        extra = dict.fromkeys(STATISTIC_SUMS, "0")
        extra["time_zone"] = "(SELECT time_zone FROM installation)"
    else:
        extra = dict.fromkeys(COUNTER_SUMS, "0") | dict.fromkeys(
            COUNTER_ARRAYS, history.array_of("CAST(0 AS bigint)")
        )
        for name in ("duration", "wait"):
            for part, kind in (("tasks", "uuid"), ("values", "float"), ("times", "timestamptz")):
                extra[f"{name}_exemplar_{part}"] = history.array_of(f"CAST(NULL AS {kind})")
    extra["shard"] = "0"
    connection.execute(
        text(f"""
            INSERT INTO {table} ({", ".join([*key, *extra])})
            VALUES ({", ".join([*(f":{name}" for name in key), *extra.values()])})
            ON CONFLICT DO NOTHING
        """),
        key,
    )


# States: one row a device.

_STATE_COLUMNS = (
    "last_execution_id",
    "last_started_at",
    "last_end_at",
    "last_status",
    "last_reason",
    "last_error_message",
    "last_duration_seconds",
    "last_success_at",
    "last_failure_at",
    "failing_since",
    "last_change_at",
    "consecutive_failures",
    "configuration_id",
    "config_size",
    "success_count",
    "failed_count",
    "timeout_count",
    "cancelled_count",
    "change_count",
    "duration_sum_seconds",
)

# What the last ends said of a device whose executions are all dropped stays as it is stored.
_EXPECTED_STATES = """
    WITH e AS NOT MATERIALIZED ({executions}), sums AS (
        SELECT device_id, max(created_at) AS last_at,
            max(created_at) FILTER (WHERE status <> 'cancelled') AS last_ran_at,
            max(created_at) FILTER (WHERE status = 'success') AS last_success_at,
            max(created_at) FILTER (WHERE status IN ('failed', 'timeout')) AS last_failure_at,
            count(*) FILTER (WHERE status = 'success') AS success_count,
            count(*) FILTER (WHERE status = 'failed') AS failed_count,
            count(*) FILTER (WHERE status = 'timeout') AS timeout_count,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled_count,
            coalesce(sum(execution_time), 0) AS duration_sum_seconds
        FROM e GROUP BY device_id
    ), streaks AS (
        SELECT sums.device_id, f.failures, f.since
        FROM sums CROSS JOIN LATERAL (
            SELECT count(*) AS failures, min(created_at) AS since FROM e
            WHERE e.device_id = sums.device_id AND status IN ('failed', 'timeout')
                AND created_at > coalesce(sums.last_success_at, '-infinity')) AS f
        WHERE sums.last_failure_at > coalesce(sums.last_success_at, '-infinity')
    ), ends AS (
        -- Two ends of one moment: the stored one is as right as the other.
        SELECT s.device_id, f.status
        FROM sums JOIN device_states AS s USING (device_id) CROSS JOIN LATERAL (
            SELECT status FROM e WHERE e.device_id = s.device_id AND created_at = sums.last_at
            ORDER BY status = s.last_status DESC LIMIT 1) AS f
    ), rans AS (
        SELECT f.* FROM sums CROSS JOIN LATERAL (
            SELECT * FROM e WHERE e.device_id = sums.device_id
                AND created_at = sums.last_ran_at AND status <> 'cancelled' LIMIT 1) AS f
    ), successes AS (
        SELECT f.* FROM sums CROSS JOIN LATERAL (
            SELECT device_id, config_id, config_size FROM e
            WHERE e.device_id = sums.device_id
                AND created_at = sums.last_success_at AND status = 'success' LIMIT 1) AS f
    ), versions AS (
        SELECT device_id, count(*) AS changes, max(created_at) AS last_at
        FROM configurations {of_devices} GROUP BY device_id
    )
    SELECT s.device_id,
        CASE WHEN rans.id IS NULL THEN s.last_execution_id ELSE rans.id END AS last_execution_id,
        CASE WHEN rans.id IS NULL THEN s.last_started_at ELSE rans.started_at END
            AS last_started_at,
        coalesce(sums.last_at, s.last_end_at) AS last_end_at,
        coalesce(ends.status, s.last_status) AS last_status,
        CASE WHEN rans.id IS NULL THEN s.last_reason ELSE rans.reason END AS last_reason,
        CASE WHEN rans.id IS NULL THEN s.last_error_message
             WHEN rans.status = 'success' THEN NULL ELSE rans.error_message END
            AS last_error_message,
        CASE WHEN rans.id IS NULL THEN s.last_duration_seconds ELSE rans.execution_time END
            AS last_duration_seconds,
        coalesce(sums.last_success_at, r.last_success_at) AS last_success_at,
        coalesce(sums.last_failure_at, r.last_failure_at) AS last_failure_at,
        CASE WHEN sums.last_success_at IS NULL THEN coalesce(r.failing_since, streaks.since)
             ELSE streaks.since END AS failing_since,
        versions.last_at AS last_change_at,
        coalesce(streaks.failures, 0) + CASE WHEN sums.last_success_at IS NULL
            THEN coalesce(r.consecutive_failures, 0) ELSE 0 END AS consecutive_failures,
        CASE WHEN successes.device_id IS NULL THEN s.configuration_id
             ELSE successes.config_id END AS configuration_id,
        CASE WHEN successes.device_id IS NULL THEN s.config_size
             ELSE successes.config_size END AS config_size,
        coalesce(sums.success_count, 0) + coalesce(r.success_count, 0) AS success_count,
        coalesce(sums.failed_count, 0) + coalesce(r.failed_count, 0) AS failed_count,
        coalesce(sums.timeout_count, 0) + coalesce(r.timeout_count, 0) AS timeout_count,
        coalesce(sums.cancelled_count, 0) + coalesce(r.cancelled_count, 0) AS cancelled_count,
        coalesce(versions.changes, 0) AS change_count,
        coalesce(sums.duration_sum_seconds, 0) + coalesce(r.duration_sum_seconds, 0)
            AS duration_sum_seconds
    FROM device_states AS s
    LEFT JOIN sums USING (device_id) LEFT JOIN streaks USING (device_id)
    LEFT JOIN ends USING (device_id) LEFT JOIN rans USING (device_id)
    LEFT JOIN successes USING (device_id) LEFT JOIN versions USING (device_id)
    LEFT JOIN remaining_devices AS r USING (device_id)
    {of_devices}
"""


def _states(connection: Connection, executions: str) -> Iterator[Difference]:
    expected = _EXPECTED_STATES.format(executions=executions, of_devices="")
    differs = " OR ".join(f"s.{column} IS DISTINCT FROM e.{column}" for column in _STATE_COLUMNS)
    pairs = ", ".join(f"s.{name} AS stored_{name}, e.{name}" for name in _STATE_COLUMNS)
    rows = connection.execute(
        text(f"""
            SELECT s.device_id, {pairs}
            FROM device_states AS s JOIN ({expected}) AS e USING (device_id) WHERE {differs}
            ORDER BY s.device_id
        """)
    )
    for row in rows:
        for column in _STATE_COLUMNS:
            stored, must = getattr(row, f"stored_{column}"), getattr(row, column)
            if not _is_same(stored, must):
                yield Difference("device_states", (row.device_id,), column, stored, must)


def _mend_states(engine: Engine, devices: Sequence[int]) -> None:
    columns = ", ".join(f"{name} = e.{name}" for name in _STATE_COLUMNS)
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": history.MOVING_LOCK_KEY}
        )
        connection.execute(
            text("""
                SELECT FROM device_states WHERE device_id = ANY(:ids) ORDER BY device_id FOR UPDATE
            """),
            {"ids": devices},
        )
        executions = history.executions_of(history.months(connection), "device_id = ANY(:ids)")
        expected = _EXPECTED_STATES.format(
            executions=executions, of_devices="WHERE device_id = ANY(:ids)"
        )
        connection.execute(
            text(f"""
                UPDATE device_states AS s SET {columns} FROM ({expected}) AS e
                WHERE e.device_id = s.device_id
            """),
            {"ids": devices},
        )


def fold_days(connection: Connection) -> int:
    """Fold the shards of finished days into one; how many rows are left of them.

    The caller commits.

    Only days that have ended in every time zone: nobody writes to them any more.
    """
    sums = ", ".join(f"sum({name})" for name in STATISTIC_SUMS)
    keys = "day, time_zone, site, platform, status"
    return connection.execute(
        text(f"""
            WITH gone AS (
                DELETE FROM daily_statistics WHERE ({keys}) IN (
                    SELECT {keys} FROM daily_statistics WHERE day < CURRENT_DATE - 1
                    GROUP BY {keys} HAVING count(*) > 1)
                RETURNING *
            )
            INSERT INTO daily_statistics ({keys}, shard, {", ".join(STATISTIC_SUMS)})
            SELECT {keys}, 0, {sums} FROM gone GROUP BY {keys}
        """)
    ).rowcount
