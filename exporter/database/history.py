"""What executions add up to: the sums by which roll-ups are checked, and what deleted ones leave.

Statistics, counters and states say what all executions ever ended said. So whoever deletes rows
of the log (`retention` a month, a purge a device) writes their sums into the tables of remainders
in the same transaction: `remember_month`, `remember_device`.

Months move between log and archive under an exclusive advisory lock (`moving_months`); who counts
rows holds it shared (`counting`), and reads the months themselves, attached or not, so that what a
killed archiver left half-way is counted too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from exporter.models import HISTOGRAM_BOUNDS_SECONDS

#: Key of the advisory lock between who moves months and who counts rows: "cbmo" in ASCII.
MOVING_LOCK_KEY = 0x63626D6F

BUCKETS = len(HISTOGRAM_BOUNDS_SECONDS) + 1


@contextmanager
def moving_months(engine: Engine) -> Iterator[Connection]:
    """A connection in autocommit that holds the lock against counting: attach, detach, drop here.

    Waits while somebody counts; who would count after it waits too.
    """
    with _locked(engine, "pg_advisory_lock", "pg_advisory_unlock") as connection:
        yield connection


@contextmanager
def counting(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads one snapshot, with no time limit, while no month moves."""
    with _locked(engine, "pg_advisory_lock_shared", "pg_advisory_unlock_shared") as connection:
        # The snapshot begins after the lock is ours: within it no table of a month vanishes.
        connection.execute(text("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        try:
            yield connection
        finally:
            connection.execute(text("ROLLBACK"))


@contextmanager
def _locked(engine: Engine, lock: str, unlock: str) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        limits = connection.execute(
            text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        ).one()
        for name in ("lock_timeout", "statement_timeout"):
            connection.execute(text(f"SET {name} = 0"))
        connection.execute(text(f"SELECT {lock}(:key)"), {"key": MOVING_LOCK_KEY})
        for name, value in zip(("lock_timeout", "statement_timeout"), limits, strict=True):
            connection.execute(text(f"SET {name} = '{value}'"))
        try:
            yield connection
        finally:
            if not connection.invalidated:
                connection.execute(text(f"SELECT {unlock}(:key)"), {"key": MOVING_LOCK_KEY})


def months(connection: Connection) -> Sequence[str]:
    """Names of the tables that hold executions: attached to log or archive, or on their way."""
    return connection.scalars(
        text("""
            SELECT CAST(CAST(oid AS regclass) AS text) FROM pg_class
            WHERE relkind = 'r' AND relname LIKE 'backup\\_execution\\_%'
                AND relnamespace = (SELECT relnamespace FROM pg_class
                                    WHERE oid = CAST('backup_execution_logs' AS regclass))
            ORDER BY relname
        """)
    ).all()


def executions_of(tables: Sequence[str], condition: str = "TRUE") -> str:
    """SQL of the executions in these tables, as a sub-select; what its users need of them."""
    if not tables:
        tables, condition = ["backup_execution_logs"], "FALSE"
    return " UNION ALL ".join(
        "SELECT id, device_id, created_at, day, status, reason, trigger, site, platform,"
        " execution_time, config_id, config_size, error_message, started_at, retry_count,"
        f" extra_info FROM {table} WHERE {condition}"
        for table in tables
    )


STATISTIC_SUMS = ("count", "timed_count", "duration_sum_seconds", "size_sum_bytes")


def statistics_of(executions: str) -> str:
    """SQL of what daily statistics say of executions: keys and STATISTIC_SUMS."""
    return f"""
        SELECT day, site, platform, status, count(*) AS count,
            count(execution_time) AS timed_count,
            coalesce(sum(execution_time), 0) AS duration_sum_seconds,
            CAST(coalesce(sum(config_size), 0) AS bigint) AS size_sum_bytes
        FROM ({executions}) AS e GROUP BY day, site, platform, status
    """


COUNTER_KEYS = ("site", "platform", "status", "reason", "trigger")
COUNTER_SUMS = ("count", "retry_sum", "duration_sum_seconds", "wait_sum_seconds")
COUNTER_ARRAYS = ("duration_buckets", "wait_buckets")


def _bucket(seconds: str) -> str:
    """SQL of a value's position (from 1): the first bucket whose bound is not below it."""
    bounds = ", ".join(str(-bound) for bound in reversed(HISTOGRAM_BOUNDS_SECONDS))
    return f"{BUCKETS} - width_bucket(-({seconds}), CAST(ARRAY[{bounds}] AS double precision[]))"


def array_of(template: str) -> str:
    """SQL of an array with one element a bucket; `{bucket}` in the template is its number."""
    return f"ARRAY[{', '.join(template.format(bucket=number + 1) for number in range(BUCKETS))}]"


def counters_of(executions: str) -> str:
    """SQL of what the lifetime counters say of executions: keys, sums and arrays.

    Only what ran (execution_time is not NULL) is in the histograms. What has no waited_seconds
    waited for 0 s.
    """
    buckets = {
        name: array_of(f"coalesce(CAST(sum(n) FILTER (WHERE {name} = {{bucket}}) AS bigint), 0)")
        for name in ("ran", "waited")
    }
    wait = "coalesce(CAST(extra_info ->> 'waited_seconds' AS double precision), 0)"
    return f"""
        SELECT site, platform, status, reason, trigger, CAST(sum(n) AS bigint) AS count,
            CAST(sum(retries) AS bigint) AS retry_sum, sum(seconds) AS duration_sum_seconds,
            sum(wait) AS wait_sum_seconds,
            {buckets["ran"]} AS duration_buckets, {buckets["waited"]} AS wait_buckets
        FROM (
            SELECT site, platform, status, coalesce(reason, '') AS reason, trigger,
                {_bucket("execution_time")} AS ran,
                CASE WHEN execution_time IS NOT NULL THEN {_bucket(wait)} END AS waited,
                count(*) AS n, sum(retry_count) AS retries,
                coalesce(sum(execution_time), 0) AS seconds,
                coalesce(sum(CASE WHEN execution_time IS NOT NULL THEN {wait} END), 0) AS wait
            FROM ({executions}) AS e
            GROUP BY site, platform, status, reason, trigger, ran, waited
        ) AS g GROUP BY site, platform, status, reason, trigger
    """


def sum_of_arrays(column: str) -> str:
    """SQL of the sum, element by element, of an array column over a group."""
    return array_of(f"CAST(sum({column}[{{bucket}}]) AS bigint)")


def remember_month(connection: Connection, table: str) -> None:
    """Before a month is dropped, in the same transaction: keep what its executions add up to."""
    executions = executions_of([table])
    _remember_sums(connection, executions)
    connection.execute(text(_REMEMBER_DEVICES.format(executions=executions)))


def remember_device(connection: Connection, device_id: int) -> None:
    """Before a device's executions are deleted, in the same transaction."""
    _remember_sums(connection, executions_of(months(connection), f"device_id = {device_id:d}"))


def _remember_sums(connection: Connection, executions: str) -> None:
    sums = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in STATISTIC_SUMS)
    connection.execute(
        text(f"""
            INSERT INTO remaining_statistics AS t (day, site, platform, status,
                {", ".join(STATISTIC_SUMS)})
            {statistics_of(executions)}
            ON CONFLICT (day, site, platform, status) DO UPDATE SET {sums}
        """)
    )
    keys = ", ".join(COUNTER_KEYS)
    sums = ", ".join(
        [f"{name} = t.{name} + excluded.{name}" for name in COUNTER_SUMS]
        + [
            f"{name} = " + array_of(f"t.{name}[{{bucket}}] + excluded.{name}[{{bucket}}]")
            for name in COUNTER_ARRAYS
        ]
    )
    connection.execute(
        text(f"""
            INSERT INTO remaining_counters AS t ({keys}, {", ".join(COUNTER_SUMS)},
                {", ".join(COUNTER_ARRAYS)})
            SELECT {keys}, {", ".join(COUNTER_SUMS)}, {", ".join(COUNTER_ARRAYS)}
            FROM ({counters_of(executions)}) AS c
            ON CONFLICT ({keys}) DO UPDATE SET {sums}
        """)
    )


# A month is older than all that stay: where it has a success, the streak before it is over.
_REMEMBER_DEVICES = """
    INSERT INTO remaining_devices AS t (device_id, success_count, failed_count, timeout_count,
        cancelled_count, duration_sum_seconds, last_success_at, last_failure_at, failing_since,
        consecutive_failures)
    SELECT device_id, count(*) FILTER (WHERE status = 'success'),
        count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'timeout'),
        count(*) FILTER (WHERE status = 'cancelled'), coalesce(sum(execution_time), 0),
        max(created_at) FILTER (WHERE status = 'success'),
        max(created_at) FILTER (WHERE status IN ('failed', 'timeout')),
        min(created_at) FILTER (WHERE is_of_streak), count(*) FILTER (WHERE is_of_streak)
    FROM (
        SELECT e.*, status IN ('failed', 'timeout') AND created_at > coalesce(
            max(created_at) FILTER (WHERE status = 'success') OVER (PARTITION BY device_id),
            '-infinity') AS is_of_streak
        FROM ({executions}) AS e
    ) AS e GROUP BY device_id
    ON CONFLICT (device_id) DO UPDATE SET
        success_count = t.success_count + excluded.success_count,
        failed_count = t.failed_count + excluded.failed_count,
        timeout_count = t.timeout_count + excluded.timeout_count,
        cancelled_count = t.cancelled_count + excluded.cancelled_count,
        duration_sum_seconds = t.duration_sum_seconds + excluded.duration_sum_seconds,
        last_success_at = greatest(t.last_success_at, excluded.last_success_at),
        last_failure_at = greatest(t.last_failure_at, excluded.last_failure_at),
        failing_since = CASE WHEN excluded.last_success_at IS NULL
            THEN coalesce(t.failing_since, excluded.failing_since)
            ELSE excluded.failing_since END,
        consecutive_failures = excluded.consecutive_failures
            + CASE WHEN excluded.last_success_at IS NULL THEN t.consecutive_failures ELSE 0 END
"""
