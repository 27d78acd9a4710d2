"""What the metrics ask, in one snapshot: what changed since an earlier one, and the present.

A row that a transaction changes gets its number in `changed_in` (a trigger's doing). What changed
since a snapshot is then what has a number that was not visible to it, whenever it commits: no
clock, and no change is missed. Times are Unix time in seconds.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from exporter.models import HISTOGRAM_BOUNDS_SECONDS
from exporter.queries.executions import ALL_ENDED
from exporter.queries.rows import first_row

_BUCKETS = range(1, len(HISTOGRAM_BOUNDS_SECONDS) + 2)
#: A process whose last heartbeat is older is not counted as live.
_LIVE = "heartbeat_at > now() - interval '30 seconds'"


class Snapshot(NamedTuple):
    """What a transaction sees: numbers below xmin have ended, those from xmax on not begun."""

    text: str
    xmin: int
    xmax: int
    #: The database's clock.
    now: float


class DeviceFacts(NamedTuple):
    """A device of the inventory and its state."""

    id: int
    name: str
    site: str
    address: str
    vendor: str
    platform: str
    zone: str
    groups: Sequence[str]
    is_retired: bool
    enabled: bool
    is_scheduled: bool
    paused_until: float | None
    created: float
    interval: float | None
    deadline: float
    last_attempt: float | None
    last_success: float | None
    last_change: float | None
    last_duration: float | None
    last_reason: str | None
    failing_since: float | None
    consecutive_failures: int
    config_size: int | None
    success_count: int
    failed_count: int
    timeout_count: int
    cancelled_count: int
    change_count: int


class CounterKey(NamedTuple):
    """What the lifetime counts are kept by; reason is empty where there is none."""

    site: str
    platform: str
    status: str
    reason: str
    trigger: str


class Counts(NamedTuple):
    """The lifetime counts of a key; buckets are not cumulative."""

    executions: int
    retries: int
    duration_sum: float
    wait_sum: float
    duration_buckets: Sequence[int]
    wait_buckets: Sequence[int]


class Ended(NamedTuple):
    """An ended execution: a hint that its key's counts changed, and an exemplar."""

    key: CounterKey
    task_id: str
    at: float
    #: None: it never ran.
    duration: float | None
    wait: float | None


def snapshot(connection: Connection) -> Snapshot:
    """That of the transaction, which must be one of REPEATABLE READ."""
    row = connection.execute(
        text("""
            SELECT present::text, pg_snapshot_xmin(present)::text::bigint,
                pg_snapshot_xmax(present)::text::bigint,
                CAST(extract(epoch FROM now()) AS double precision)
            FROM pg_current_snapshot() AS present
        """)
    ).one()
    return Snapshot(*row)


def _since(column: str) -> str:
    # Numbers from xmax on come from a dump of another server, and mean nothing here.
    return (
        f"({column} >= :since_xmin AND {column} < :xmax AND NOT pg_visible_in_snapshot("
        f"CAST(CAST({column} AS text) AS xid8), CAST(:since AS pg_snapshot)))"
    )


def _between(since: Snapshot, present: Snapshot) -> dict[str, Any]:
    return {"since": since.text, "since_xmin": since.xmin, "xmax": present.xmax}


def _epoch(column: str) -> str:
    return f"CAST(extract(epoch FROM {column}) AS double precision)"


_DEVICES = f"""
    SELECT d.id, d.name, d.site, d.address, d.vendor, d.platform, d.zone, d.groups,
        d.retired_at IS NOT NULL, d.enabled, d.is_scheduled, {_epoch("d.paused_until")},
        {_epoch("d.created_at")}, d.interval_seconds, d.deadline_seconds,
        {_epoch("greatest(s.last_success_at, s.last_failure_at)")}, {_epoch("s.last_success_at")},
        {_epoch("s.last_change_at")}, s.last_duration_seconds, s.last_reason,
        {_epoch("s.failing_since")}, s.consecutive_failures, s.config_size, s.success_count,
        s.failed_count, s.timeout_count, s.cancelled_count, s.change_count
    FROM devices AS d JOIN device_states AS s ON s.device_id = d.id
"""


def all_devices(connection: Connection) -> list[DeviceFacts]:
    """Those of the inventory."""
    rows = connection.execute(text(f"{_DEVICES} WHERE d.retired_at IS NULL"))
    return [DeviceFacts(*row) for row in rows]


def changed_devices(
    connection: Connection, since: Snapshot, present: Snapshot
) -> list[DeviceFacts]:
    """Those that changed, retired ones too; deleted ones leave no row."""
    rows = connection.execute(
        text(f"{_DEVICES} WHERE {_since('d.changed_in')} OR {_since('s.changed_in')}"),
        _between(since, present),
    )
    return [DeviceFacts(*row) for row in rows]


def count_devices(connection: Connection) -> int:
    """How many the inventory has."""
    return int(
        connection.execute(
            text("SELECT count(*) FROM devices WHERE retired_at IS NULL")
        ).scalar_one()
    )


def ended_since(connection: Connection, since: Snapshot, present: Snapshot) -> list[Ended]:
    """Executions that ended since, oldest first, without those of purged devices."""
    rows = connection.execute(
        text(f"""
            SELECT l.site, l.platform, l.status, coalesce(l.reason, ''), l.trigger,
                l.task_id::text, {_epoch("l.created_at")}, l.execution_time,
                CAST(l.extra_info->>'waited_seconds' AS double precision)
            FROM events AS e
            JOIN LATERAL (
                SELECT * FROM {ALL_ENDED} AS ended
                WHERE ended.id = e.execution_id AND ended.created_at = e.created_at
                -- Each looked up by the key: joined otherwise, the whole log might be read.
                LIMIT 1
            ) AS l ON TRUE
            WHERE e.kind = 'execution_ended' AND {_since("e.transaction_id")}
            ORDER BY e.id
        """),
        _between(since, present),
    )
    return [Ended(CounterKey(*row[:5]), *row[5:]) for row in rows]


def _sums(column: str) -> str:
    sums = ", ".join(f"CAST(sum({column}[{bucket}]) AS bigint)" for bucket in _BUCKETS)
    return f"ARRAY[{sums}]"


# Of numeric the sum does not depend on the order of the shards: else it could fall by a hair,
# and Prometheus would take that for a restart from 0.
_COUNTERS = f"""
    SELECT site, platform, status, reason, trigger, CAST(sum(count) AS bigint),
        CAST(sum(retry_sum) AS bigint),
        CAST(sum(CAST(duration_sum_seconds AS numeric)) AS double precision),
        CAST(sum(CAST(wait_sum_seconds AS numeric)) AS double precision),
        {_sums("duration_buckets")}, {_sums("wait_buckets")}
    FROM execution_counters
"""
_BY_KEY = "GROUP BY site, platform, status, reason, trigger"


def execution_counts(
    connection: Connection, keys: Collection[CounterKey] | None = None
) -> dict[CounterKey, Counts]:
    """The lifetime counts of the keys; of all without them."""
    if keys is None:
        rows = connection.execute(text(f"{_COUNTERS} {_BY_KEY}"))
    else:
        rows = connection.execute(
            text(f"""
                {_COUNTERS} WHERE (site, platform, status, reason, trigger) IN (
                    SELECT * FROM unnest(CAST(:site AS text[]), CAST(:platform AS text[]),
                        CAST(:status AS text[]), CAST(:reason AS text[]), CAST(:trigger AS text[])))
                {_BY_KEY}
            """),
            {field: [getattr(key, field) for key in keys] for field in CounterKey._fields},
        )
    return {CounterKey(*row[:5]): Counts(*row[5:]) for row in rows}


def exemplars(connection: Connection, *, kind: str) -> list[tuple[CounterKey, str, float, float]]:
    """The task_id, value and time that each bucket of each key has: `kind` is duration or wait."""
    rows = connection.execute(
        text(f"""
            SELECT site, platform, status, reason, trigger, x.task::text, x.value,
                {_epoch("x.at")}
            FROM execution_counters, unnest({kind}_exemplar_tasks, {kind}_exemplar_values,
                {kind}_exemplar_times) AS x(task, value, at)
            WHERE x.task IS NOT NULL ORDER BY x.at
        """)
    )
    return [(CounterKey(*row[:5]), *row[5:]) for row in rows]


def queue_by_zone(connection: Connection) -> Sequence[Row[Any]]:
    """zone, queued, due, running, ages (seconds) of the oldest due and running, workers.

    Every zone that has devices, open executions or workers.
    """
    return connection.execute(
        text(f"""
            WITH zones AS (
                SELECT DISTINCT zone FROM devices WHERE retired_at IS NULL
                UNION SELECT zone FROM open_executions
                UNION SELECT unnest(zones) FROM processes WHERE kind = 'worker' AND {_LIVE}
            ), queue AS (
                SELECT zone, count(*) FILTER (WHERE status = 'queued') AS queued,
                    count(*) FILTER (WHERE status = 'queued' AND not_before <= now()) AS due,
                    count(*) FILTER (WHERE status = 'running') AS running,
                    max({_epoch("now() - not_before")}) FILTER (
                        WHERE status = 'queued' AND not_before <= now()) AS oldest_due,
                    max({_epoch("now() - try_started_at")}) FILTER (
                        WHERE status = 'running') AS oldest_running
                FROM open_executions GROUP BY zone
            )
            SELECT zone, coalesce(queued, 0) AS queued, coalesce(due, 0) AS due,
                coalesce(running, 0) AS running, coalesce(oldest_due, 0) AS oldest_due,
                greatest(coalesce(oldest_running, 0), 0) AS oldest_running,
                (SELECT count(*) FROM processes WHERE kind = 'worker' AND NOT is_draining
                    AND {_LIVE} AND zones.zone = ANY(processes.zones)) AS workers
            FROM zones LEFT JOIN queue USING (zone) ORDER BY zone
        """)
    ).all()


def live_processes(connection: Connection) -> Sequence[Row[Any]]:
    """Rows of `processes`, with times as `started`, `heartbeat`, `settings_read`, ..."""
    return connection.execute(
        text(f"""
            SELECT *, {_epoch("started_at")} AS started, {_epoch("heartbeat_at")} AS heartbeat,
                {_epoch("settings_read_at")} AS settings_read,
                {_epoch("scheduler_turn_at")} AS scheduler_turn
            FROM processes WHERE {_LIVE} ORDER BY kind, host, pid
        """)
    ).all()


def schedules(connection: Connection) -> Sequence[Row[Any]]:
    """name, is_active, missed_ticks, paused, last_tick, next_tick of those of the file."""
    return connection.execute(
        text(f"""
            SELECT name, is_active, missed_ticks, {_epoch("paused_at")} AS paused,
                {_epoch("last_tick_at")} AS last_tick, {_epoch("next_tick_at")} AS next_tick
            FROM backup_schedules WHERE retired_at IS NULL ORDER BY name
        """)
    ).all()


def publishing(connection: Connection) -> Row[Any] | None:
    """What waits for Git, and how publishing and pushing go; None: the one row is missing."""
    return connection.execute(
        text(f"""
            SELECT waiting.number AS unpublished, waiting.oldest AS oldest_unpublished,
                {_epoch("last_publish_at")} AS last_publish, {_epoch("failing_since")} AS failing,
                {_epoch("last_push_at")} AS last_push, push_failures, repository_bytes,
                CASE WHEN last_push_at IS NULL AND push_failing_since IS NULL THEN NULL
                    WHEN pushed_commit_id IS NOT DISTINCT FROM head_commit_id THEN 0
                    ELSE greatest(0,
                        {_epoch("now() - coalesce(push_failing_since, last_publish_at)")})
                    END AS push_lag
            FROM publishing_state, (
                SELECT count(*) AS number, {_epoch("min(created_at)")} AS oldest
                FROM configurations WHERE git_commit_id IS NULL
            ) AS waiting
        """)
    ).first()


def integrity(connection: Connection) -> Row[Any] | None:
    """checked, differences and damaged of the nightly checks; None: the one row is missing."""
    return connection.execute(
        text(f"""
            SELECT {_epoch("integrity_checked_at")} AS checked,
                integrity_differences AS differences, damaged_configurations AS damaged
            FROM installation
        """)
    ).first()


def stores(connection: Connection) -> Sequence[Row[Any]]:
    """name, used_bytes, free_bytes, size_bytes, measured."""
    return connection.execute(
        text(f"""
            SELECT name, used_bytes, free_bytes, size_bytes, {_epoch("measured_at")} AS measured
            FROM stores ORDER BY name
        """)
    ).all()


def used_bytes(connection: Connection) -> dict[str, int]:
    """What the database takes, and of it the stores that grow."""
    row = first_row(
        connection,
        """
            SELECT pg_database_size(current_database()) AS database,
                pg_total_relation_size('configurations')
                    + pg_total_relation_size('configuration_texts') AS configurations,
                (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)
                    FROM pg_partition_tree('backup_execution_logs')) AS logs,
                (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)
                    FROM pg_partition_tree('backup_execution_history')) AS archive
        """,
    )
    assert row is not None
    return {name: int(value) for name, value in row.items()}
