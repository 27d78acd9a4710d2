"""The monitoring questions: one or two statements each, from the roll-ups where they serve.

`days=N` is today and the N-1 calendar days before, in the configured time zone; the days of the
statistics are those of that zone.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from exporter import health
from exporter.database.expressions import IS_FRESH, STATE, success_rate
from exporter.queries.executions import ALL_ENDED
from exporter.queries.rows import Row, all_rows, first_row
from exporter.queries.totals import Total, counted_total, statistics_total

_TODAY = "CAST(now() AT TIME ZONE :time_zone AS date)"
_PERIOD = f"day > {_TODAY} - CAST(:days AS integer) AND day <= {_TODAY}"
_RAN = "success_count + failed_count + timeout_count"


def _count(status: str, condition: str = "in_period") -> str:
    return f"coalesce(sum(count) FILTER (WHERE {condition} AND status = '{status}'), 0)"


def backup_statistics(connection: Connection, *, days: int, time_zone: str) -> Row:
    """The fleet in numbers."""
    row = first_row(
        connection,
        f"""
            WITH rows AS (
                SELECT *, {_PERIOD} AS in_period, day > {_TODAY} - 7 AS in_week
                FROM daily_statistics
                WHERE day > {_TODAY} - greatest(CAST(:days AS integer), 7) AND day <= {_TODAY}
            ), sums AS (
                SELECT CAST(coalesce(sum(count) FILTER (WHERE in_period), 0) AS bigint)
                        AS total_executions,
                    CAST({_count("success")} AS bigint) AS success_count,
                    CAST({_count("failed")} AS bigint) AS failed_count,
                    CAST({_count("timeout")} AS bigint) AS timeout_count,
                    CAST({_count("cancelled")} AS bigint) AS cancelled_count,
                    coalesce(sum(duration_sum_seconds) FILTER (WHERE in_period)
                        / nullif(sum(timed_count) FILTER (WHERE in_period), 0), 0)
                        AS average_execution_time,
                    CAST(coalesce(sum(size_sum_bytes) FILTER (WHERE in_period), 0) AS bigint)
                        AS total_config_size,
                    CAST(coalesce(sum(count) FILTER (WHERE day = {_TODAY}), 0) AS bigint)
                        AS today_total,
                    CAST(coalesce(sum(count) FILTER (WHERE in_week), 0) AS bigint) AS week_total
                FROM rows
            ), fleet AS (
                SELECT count(*) AS device_count,
                    CAST(round(CAST(count(*) FILTER (WHERE d.enabled AND {IS_FRESH}) AS numeric)
                        / nullif(count(*) FILTER (WHERE d.enabled), 0), 4) AS double precision)
                        AS fresh_share
                FROM devices AS d JOIN device_states AS s ON s.device_id = d.id
                WHERE d.retired_at IS NULL
            )
            SELECT sums.*, fleet.*, CAST(:days AS integer) AS period_days,
                coalesce({success_rate("success_count", f"({_RAN})")}, 0.0) AS success_rate,
                (SELECT count(*) FROM backup_schedules WHERE is_active AND retired_at IS NULL)
                    AS schedule_count,
                CAST(pg_total_relation_size('configurations')
                    + pg_total_relation_size('configuration_texts')
                    + coalesce((SELECT max(repository_bytes) FROM publishing_state), 0) AS bigint)
                    AS storage_bytes
            FROM sums, fleet
        """,
        days=days,
        time_zone=time_zone,
    )
    assert row is not None, "an aggregate has a row"
    has_run = row["success_count"] + row["failed_count"] + row["timeout_count"] > 0
    return row | {"health": _health(row["success_rate"]) if has_run else "no_data"}


def _health(rate: float) -> str:
    if rate >= health.HEALTHY_FROM_PERCENT:
        return "healthy"
    return "fair" if rate >= health.FAIR_FROM_PERCENT else "abnormal"


#: What devices are sorted by.
DEVICE_SORTS = {
    "device_name": "device_name",
    "ip": "ip",
    "vendor": "vendor",
    "site": "site",
    "state": "state",
    "last_backup_time": "last_backup_time",
    "last_success_time": "last_success_time",
    "last_execution_time": "last_execution_time",
    "total_backups": "total_backups",
    "success_rate": "success_rate",
    "failed_count": "failed_count",
    "timeout_count": "timeout_count",
    "consecutive_failures": "consecutive_failures",
}


def device_backup_status(
    connection: Connection,
    *,
    limit: int,
    offset: int,
    sort: str = "device_name",
    status: str | None = None,
    state: str | None = None,
    search: str | None = None,
    site: str | None = None,
) -> dict[str, Any]:
    """Devices of the inventory with their present and lifetime counts: `total` and `devices`.

    `sort` is a key of DEVICE_SORTS, with `-` before it for the greatest first.
    """
    order = f"{DEVICE_SORTS[sort.removeprefix('-')]} {'DESC' if sort[0] == '-' else 'ASC'}"
    ran = "(s.success_count + s.failed_count + s.timeout_count)"
    rows = all_rows(
        connection,
        f"""
            WITH present AS (
                SELECT d.id AS device_id, d.name AS device_name, d.address AS ip, d.vendor,
                    d.site, {STATE} AS state, s.last_status AS last_backup_status,
                    s.last_end_at AS last_backup_time, s.last_success_at AS last_success_time,
                    s.last_duration_seconds AS last_execution_time,
                    {ran} + s.cancelled_count AS total_backups, s.success_count, s.failed_count,
                    s.timeout_count, coalesce({success_rate("s.success_count", ran)}, 0.0)
                        AS success_rate,
                    s.last_error_message, s.last_reason, s.consecutive_failures
                FROM devices AS d JOIN device_states AS s ON s.device_id = d.id
                WHERE d.retired_at IS NULL
                    AND (CAST(:status AS text) IS NULL OR :status = coalesce(s.last_status, 'none'))
                    AND (CAST(:site AS text) IS NULL OR d.site = :site)
                    AND (CAST(:search AS text) IS NULL
                        OR position(lower(:search) IN lower(d.name || ' ' || d.address)) > 0)
            ), wanted AS (
                SELECT * FROM present WHERE CAST(:state AS text) IS NULL OR state = :state
            ), page AS (
                SELECT * FROM wanted ORDER BY {order} NULLS LAST, device_name
                LIMIT :limit OFFSET :offset
            )
            SELECT total.total, page.* FROM (SELECT count(*) AS total FROM wanted) AS total
            LEFT JOIN page ON TRUE
        """,
        status=status,
        state=state,
        search=search,
        site=site,
        limit=limit,
        offset=offset,
    )
    total = rows[0]["total"]
    for row in rows:
        del row["total"]
    # Beyond the last page only the total is left.
    return {"total": total, "devices": [row for row in rows if row["device_id"] is not None]}


def recent_executions_page(
    connection: Connection,
    *,
    limit: int,
    offset: int = 0,
    after: tuple[datetime, str] | None = None,
    filters: dict[str, Any],
) -> tuple[Total, list[Row]]:
    """Ended executions, newest first, and how many there are.

    `filters`: status, device_id, schedule_id, trigger, site, reason, since, until (UTC). `after`
    is (created_at, id) of the last execution of the page before.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    if set(given) <= {"status", "site"}:
        total = statistics_total(connection, **given)
    else:
        total = counted_total(connection, **given)
    comparisons = {"since": "l.created_at >= :since", "until": "l.created_at < :until"}
    conditions = [comparisons.get(name, f"l.{name} = :{name}") for name in given]
    values: dict[str, Any] = {"limit": limit, "offset": offset, **given}
    if after is not None:
        conditions.append("(l.created_at, l.id) < (:after_time, CAST(:after_id AS uuid))")
        values |= {"after_time": after[0], "after_id": after[1]}
    rows = all_rows(
        connection,
        f"""
            WITH page AS (
                SELECT * FROM {ALL_ENDED} AS l WHERE {" AND ".join(conditions) or "TRUE"}
                ORDER BY l.created_at DESC, l.id DESC LIMIT :limit OFFSET :offset
            )
            SELECT l.id, l.task_id, l.device_id, d.name AS device_name, d.address AS device_ip,
                l.schedule_id, s.name AS schedule, l.config_id, l.status, l.reason,
                l.execution_time, l.started_at, l.completed_at, l.error_message, l.error_details,
                coalesce(c.git_commit_id, l.git_commit_id) AS git_commit_id, l.config_size,
                l.retry_count, l.created_at, l.trigger, l.site
            FROM page AS l JOIN devices AS d ON d.id = l.device_id
            LEFT JOIN backup_schedules AS s ON s.id = l.schedule_id
            LEFT JOIN configurations AS c ON c.id = l.config_id
            ORDER BY l.created_at DESC, l.id DESC
        """,
        **values,
    )
    return total, rows


def execution_trend(connection: Connection, *, days: int, time_zone: str) -> dict[str, Any]:
    """Counts and average times of each day, oldest first; empty days are zeros."""
    rows = all_rows(
        connection,
        f"""
            SELECT CAST({_TODAY} - back AS text) AS date,
                CAST(coalesce(sum(count) FILTER (WHERE status = 'success'), 0) AS bigint)
                    AS success,
                CAST(coalesce(sum(count) FILTER (WHERE status = 'failed'), 0) AS bigint) AS failed,
                CAST(coalesce(sum(count) FILTER (WHERE status = 'timeout'), 0) AS bigint)
                    AS timeout,
                coalesce(sum(duration_sum_seconds) / nullif(sum(timed_count), 0), 0) AS average
            FROM generate_series(CAST(:days AS integer) - 1, 0, -1) AS back
            LEFT JOIN daily_statistics ON day = {_TODAY} - back
            GROUP BY back ORDER BY back DESC
        """,
        days=days,
        time_zone=time_zone,
    )
    return {
        "dates": [row["date"] for row in rows],
        "success_counts": [row["success"] for row in rows],
        "failure_counts": [row["failed"] for row in rows],
        "timeout_counts": [row["timeout"] for row in rows],
        "average_times": [row["average"] for row in rows],
        "days": days,
    }


def failed_devices(connection: Connection, *, days: int, limit: int, time_zone: str) -> list[Row]:
    """Devices of the inventory that failed or timed out in the period, most failures first."""
    failed = "status IN ('failed', 'timeout')"
    return all_rows(
        connection,
        f"""
            WITH failures AS (
                SELECT device_id, count(*) AS failure_count, max(created_at) AS last_at
                FROM {ALL_ENDED} AS l WHERE {failed} AND {_SINCE_MIDNIGHT}
                GROUP BY device_id
            ), most AS (
                SELECT d.id AS device_id, d.name AS device_name, d.address AS ip, d.vendor,
                    f.failure_count, f.last_at
                FROM failures AS f JOIN devices AS d ON d.id = f.device_id
                WHERE d.retired_at IS NULL
                ORDER BY f.failure_count DESC, f.last_at DESC, d.name LIMIT :limit
            )
            SELECT most.device_id, device_name, ip, vendor, failure_count,
                last.completed_at AS last_failure_time, last.error_message AS last_error,
                last.reason AS last_reason
            FROM most JOIN LATERAL (
                SELECT completed_at, error_message, reason FROM {ALL_ENDED} AS l
                WHERE l.device_id = most.device_id AND l.created_at = most.last_at AND {failed}
                ORDER BY l.id LIMIT 1) AS last ON TRUE
            ORDER BY failure_count DESC, last_at DESC, device_name
        """,
        days=days,
        limit=limit,
        time_zone=time_zone,
    )


#: From the first instant of the period's first day to before tomorrow's: an index finds it.
_SINCE_MIDNIGHT = f"""
    created_at >= CAST({_TODAY} - (CAST(:days AS integer) - 1) AS timestamp)
        AT TIME ZONE :time_zone
    AND created_at < CAST({_TODAY} + 1 AS timestamp) AT TIME ZONE :time_zone
"""


def installation_health(connection: Connection) -> dict[str, str]:
    """What works: scheduler, workers and publisher, each `healthy` or `unhealthy: REASON`."""
    row = connection.execute(
        text("""
            SELECT
                (SELECT max(scheduler_turn_at) > now() - interval '60 seconds' FROM processes
                 WHERE is_leader AND heartbeat_at > now() - interval '30 seconds') AS scheduler,
                EXISTS (SELECT FROM processes WHERE kind = 'worker'
                    AND heartbeat_at > now() - interval '30 seconds') AS workers,
                NOT EXISTS (SELECT FROM publishing_state WHERE failing_since IS NOT NULL)
                    AS publisher
        """)
    ).one()
    judged = {
        "scheduler": (row.scheduler, "no leader fires the schedules"),
        "workers": (row.workers, "no worker is alive"),
        "publisher": (row.publisher, "configurations cannot be committed to Git"),
    }
    return {
        name: "healthy" if is_well else f"unhealthy: {reason}"
        for name, (is_well, reason) in judged.items()
    }
