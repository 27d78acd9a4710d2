"""The ending transaction: exactly one for each execution.

It deletes the row of `open_executions` (that is the compare-and-set), inserts the log row and a
new configuration if the text changed, writes the device's state and the event, and last, just
before the commit, the daily statistics and the lifetime counters.
"""

import json
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from exporter.collection import HostKeyPin
from exporter.database.partitions import ensure_partition_for
from exporter.errors import Reason
from exporter.executions.claims import Running, enqueue
from exporter.models import HISTOGRAM_BOUNDS_SECONDS, SHARDS

Result = TypeVar("Result")


@dataclass(frozen=True)
class NewVersion:
    """A configuration whose text changed, ready to be stored."""

    sha256: bytes
    stable_hash: bytes
    compressed: bytes
    size_bytes: int
    lines_added: int
    lines_removed: int


@dataclass(frozen=True)
class Ending:
    """How an execution ends. Seconds are those of the last try, from a monotonic clock."""

    status: str
    reason: Reason | None = None
    message: str | None = None
    details: str | None = None
    try_seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    #: An unchanged success carries the current configuration's id and size.
    configuration_id: int | None = None
    size_bytes: int | None = None
    new_version: NewVersion | None = None
    first_key: HostKeyPin | None = None


def end_running(engine: Engine, running: Running, ending: Ending, *, time_zone: str) -> bool:
    """End a running execution in a transaction of its own; False: somebody ended it first."""
    return _with_partition(engine, lambda c: _end_running(c, running, ending, time_zone))


def end_waiting(engine: Engine, ids: Sequence[uuid.UUID], *, time_zone: str) -> int:
    """Cancel waiting executions, in a transaction of its own; how many of them still waited."""
    return _with_partition(engine, lambda c: _end_waiting(c, list(ids), time_zone))


def _with_partition(engine: Engine, action: Callable[[Connection], Result]) -> Result:
    """The action in a transaction; where the month's partition is missing it is made first."""
    try:
        with engine.begin() as connection:
            return action(connection)
    except IntegrityError as error:
        if "no partition of relation" not in str(error.orig):
            raise
    with engine.connect() as connection:
        moment = connection.scalar(text("SELECT now()"))
    ensure_partition_for(engine, moment or datetime.now(UTC))
    with engine.begin() as connection:
        return action(connection)


def _end_running(connection: Connection, running: Running, ending: Ending, time_zone: str) -> bool:
    configuration_id = ending.configuration_id
    if ending.new_version is not None or ending.first_key is not None:
        # The lock keeps the row ours between storing and deleting it.
        if connection.scalar(_LOCK_RUNNING, _ours(running)) is None:
            return False
        if ending.new_version is not None:
            configuration_id = _store_version(connection, running, ending.new_version)
        if ending.first_key is not None:
            pin_key(connection, running.device_id, ending.first_key, accepted_by="first use")
    ran_seconds = running.ran_seconds + (ending.try_seconds or 0.0)
    waited_seconds = running.waited_seconds or 0.0
    ended = connection.execute(
        _END_RUNNING[ending.status, ending.new_version is not None],
        {
            **_ours(running),
            "status": ending.status,
            "reason": ending.reason,
            "message": ending.message,
            "details": ending.details,
            "extra": json.dumps({**ending.extra, "worker_id": str(running.worker_id)}),
            "configuration_id": configuration_id,
            "size_bytes": ending.size_bytes,
            "ran_seconds": ran_seconds,
            "waited_seconds": waited_seconds,
            "ran_bucket": _bucket(ran_seconds),
            "waited_bucket": _bucket(waited_seconds),
            "time_zone": time_zone,
        },
    ).first()
    if ended is None:
        return False
    if ended.waiting_id is not None:
        enqueue(connection, [ended.waiting_id])
    return True


def _end_waiting(connection: Connection, ids: list[uuid.UUID], time_zone: str) -> int:
    ended = connection.execute(_END_WAITING, {"ids": ids, "time_zone": time_zone})
    return len(ended.all())


def _ours(running: Running) -> dict[str, Any]:
    return {
        "id": running.id,
        "worker_id": running.worker_id,
        "from_status": "running" if running.worker_id else "queued",
    }


def _bucket(seconds: float) -> int:
    """The position (from 1) of a value in the arrays of execution_counters."""
    return bisect_left(HISTOGRAM_BOUNDS_SECONDS, seconds) + 1


def _store_version(connection: Connection, running: Running, version: NewVersion) -> int:
    connection.execute(
        text("""
            INSERT INTO configuration_texts AS t (sha256, compressed)
            VALUES (:sha256, :compressed)
            ON CONFLICT (sha256) DO UPDATE
                SET compressed = excluded.compressed WHERE t.compressed IS NULL
        """),
        {"sha256": version.sha256, "compressed": version.compressed},
    )
    stored: int = connection.execute(
        text("""
            INSERT INTO configurations (device_id, sha256, stable_hash, size_bytes, lines_added,
                lines_removed, execution_id, task_id, trigger)
            VALUES (:device_id, :sha256, :stable_hash, :size_bytes, :lines_added,
                :lines_removed, :execution_id, :task_id, :trigger)
            RETURNING id
        """),
        {
            "device_id": running.device_id,
            "execution_id": running.id,
            "task_id": running.task_id,
            "trigger": running.trigger,
            "sha256": version.sha256,
            "stable_hash": version.stable_hash,
            "size_bytes": version.size_bytes,
            "lines_added": version.lines_added,
            "lines_removed": version.lines_removed,
        },
    ).scalar_one()
    return stored


def pin_key(connection: Connection, device_id: int, key: HostKeyPin, *, accepted_by: str) -> None:
    """Accept a host key for a device; the pinned one is replaced."""
    connection.execute(
        text("""
            INSERT INTO host_keys (device_id, key_type, key_base64, accepted_by)
            VALUES (:device_id, :key_type, :key_base64, :accepted_by)
            ON CONFLICT (device_id) DO UPDATE SET key_type = excluded.key_type,
                key_base64 = excluded.key_base64, accepted_by = excluded.accepted_by,
                accepted_at = now()
        """),
        {
            "device_id": device_id,
            "key_type": key.key_type,
            "key_base64": key.key_base64,
            "accepted_by": accepted_by,
        },
    )


_STILL_OURS = """
    id = :id AND status = :from_status
    AND worker_id IS NOT DISTINCT FROM CAST(:worker_id AS uuid)
"""

_LOCK_RUNNING = text(f"SELECT id FROM open_executions WHERE {_STILL_OURS} FOR UPDATE")

_GONE_RUNNING = f"DELETE FROM open_executions WHERE {_STILL_OURS} RETURNING *"

_GONE_WAITING = """
    DELETE FROM open_executions
    WHERE id = ANY(:ids) AND status = 'queued' AND started_at IS NULL RETURNING *
"""

# Last in the statement that ends an execution, just before the commit, come the rows that other
# endings wait for: statistics and counters, always in this order, so that nobody waits in a circle.
_END = """
    WITH gone AS ({gone}), logged AS (
        INSERT INTO backup_execution_logs (id, task_id, device_id, schedule_id, config_id, status,
            reason, execution_time, error_message, error_details, queued_at, started_at,
            completed_at, config_size, extra_info, retry_count, site, platform, zone, trigger, day)
        SELECT id, task_id, device_id, schedule_id, {configuration_id}, {status}, {reason},
            {ran_seconds}, {message}, {details}, queued_at, started_at,
            greatest(now(), started_at), {size_bytes}, {extra},
            jsonb_array_length(failed_tries), site, platform, zone, trigger,
            CAST(now() AT TIME ZONE :time_zone AS date)
        FROM gone
    ), told AS (
        INSERT INTO events (kind, task_id, execution_id, device_id, status, reason)
        SELECT 'execution_ended', task_id, id, device_id, {status}, {reason} FROM gone
    ), remembered AS (
        UPDATE device_states AS s SET last_end_at = greatest(s.last_end_at, now()),
            -- A cancellation may commit after an end whose transaction began later.
            last_status = CASE WHEN s.last_end_at > now() THEN s.last_status ELSE {status} END,
            {state}
        FROM gone WHERE s.device_id = gone.device_id
    ), counted_day AS (
        INSERT INTO daily_statistics AS t (day, time_zone, site, platform, status, shard, count,
            timed_count, duration_sum_seconds, size_sum_bytes)
        SELECT CAST(now() AT TIME ZONE :time_zone AS date), :time_zone, site, platform, {status},
            device_id % {shards}, count(*), count({ran_seconds}),
            coalesce(sum({ran_seconds}), 0), coalesce(sum({size_bytes}), 0)
        FROM gone GROUP BY site, platform, device_id % {shards}
        ORDER BY site, platform, device_id % {shards}
        ON CONFLICT (day, time_zone, site, platform, status, shard) DO UPDATE SET
            count = t.count + excluded.count,
            timed_count = t.timed_count + excluded.timed_count,
            duration_sum_seconds = t.duration_sum_seconds + excluded.duration_sum_seconds,
            size_sum_bytes = t.size_sum_bytes + excluded.size_sum_bytes
    ), counted AS (
        INSERT INTO execution_counters AS t (site, platform, status, reason, trigger, shard, count,
            retry_sum, duration_sum_seconds, wait_sum_seconds,
            duration_buckets, duration_exemplar_tasks, duration_exemplar_values,
            duration_exemplar_times,
            wait_buckets, wait_exemplar_tasks, wait_exemplar_values, wait_exemplar_times)
        {counters}
    )
    SELECT gone.id, waiting.id AS waiting_id
    FROM gone LEFT JOIN open_executions AS waiting ON waiting.device_id = gone.device_id
        AND waiting.status = 'queued' AND waiting.not_before <= now() AND waiting.id <> gone.id
"""

_RAN_STATE = """last_execution_id = gone.id, last_started_at = gone.started_at,
    last_duration_seconds = :ran_seconds,
    duration_sum_seconds = s.duration_sum_seconds + :ran_seconds,"""

_FAILED_STATE = (
    _RAN_STATE
    + """ last_reason = :reason, last_error_message = :message, last_failure_at = now(),
    failing_since = coalesce(s.failing_since, now()),
    consecutive_failures = s.consecutive_failures + 1,"""
)

_SUCCESS_STATE = (
    _RAN_STATE
    + """ last_reason = NULL, last_error_message = NULL, last_success_at = now(),
    failing_since = NULL, consecutive_failures = 0, configuration_id = :configuration_id,
    config_size = :size_bytes, success_count = s.success_count + 1"""
)

_STATES = {
    ("success", False): _SUCCESS_STATE,
    ("success", True): _SUCCESS_STATE
    + ", last_change_at = now(), change_count = s.change_count + 1",
    ("failed", False): _FAILED_STATE + " failed_count = s.failed_count + 1",
    ("timeout", False): _FAILED_STATE + " timeout_count = s.timeout_count + 1",
    # A cancelled execution changes no state; it is counted.
    ("cancelled", False): "cancelled_count = s.cancelled_count + 1,"
    " duration_sum_seconds = s.duration_sum_seconds + :ran_seconds",
}

_BUCKETS = len(HISTOGRAM_BOUNDS_SECONDS) + 1


def _array_with(value: str, *, of: str, at: str, otherwise: str) -> str:
    """SQL of an array with one element a bucket, all `otherwise` but the one at the position."""
    rest = f"CAST({otherwise} AS {of})"
    return (
        f"array_fill({rest}, ARRAY[:{at} - 1]) || CAST({value} AS {of})"
        f" || array_fill({rest}, ARRAY[{_BUCKETS} - :{at}])"
    )


def _histogram(*, at: str, value: str) -> str:
    return ", ".join(
        (
            _array_with("1", of="bigint", at=at, otherwise="0"),
            _array_with("task_id", of="uuid", at=at, otherwise="NULL"),
            _array_with(f":{value}", of="double precision", at=at, otherwise="NULL"),
            _array_with("now()", of="timestamptz", at=at, otherwise="NULL"),
        )
    )


def _empty_histogram() -> str:
    return ", ".join(
        f"array_fill(CAST({rest} AS {kind}), ARRAY[{_BUCKETS}])"
        for rest, kind in (
            ("0", "bigint"),
            ("NULL", "uuid"),
            ("NULL", "double precision"),
            ("NULL", "timestamptz"),
        )
    )


_ON_COUNTER = """
    ON CONFLICT (site, platform, status, reason, trigger, shard) DO UPDATE SET
        count = t.count + excluded.count, retry_sum = t.retry_sum + excluded.retry_sum
"""

_COUNT_RUNNING = f"""
    SELECT site, platform, :status, coalesce(:reason, ''), trigger, device_id % {SHARDS}, 1,
        jsonb_array_length(failed_tries), :ran_seconds, :waited_seconds,
        {_histogram(at="ran_bucket", value="ran_seconds")},
        {_histogram(at="waited_bucket", value="waited_seconds")}
    FROM gone
    {_ON_COUNTER},
        duration_sum_seconds = t.duration_sum_seconds + excluded.duration_sum_seconds,
        wait_sum_seconds = t.wait_sum_seconds + excluded.wait_sum_seconds,
        duration_buckets[:ran_bucket] = t.duration_buckets[:ran_bucket] + 1,
        duration_exemplar_tasks[:ran_bucket] = excluded.duration_exemplar_tasks[:ran_bucket],
        duration_exemplar_values[:ran_bucket] = :ran_seconds,
        duration_exemplar_times[:ran_bucket] = now(),
        wait_buckets[:waited_bucket] = t.wait_buckets[:waited_bucket] + 1,
        wait_exemplar_tasks[:waited_bucket] = excluded.wait_exemplar_tasks[:waited_bucket],
        wait_exemplar_values[:waited_bucket] = :waited_seconds,
        wait_exemplar_times[:waited_bucket] = now()
"""

_COUNT_WAITING = f"""
    SELECT site, platform, 'cancelled', '', trigger, device_id % {SHARDS}, count(*), 0, 0, 0,
        {_empty_histogram()}, {_empty_histogram()}
    FROM gone GROUP BY site, platform, trigger, device_id % {SHARDS}
    ORDER BY site, platform, trigger, device_id % {SHARDS}
    {_ON_COUNTER}
"""

_END_RUNNING = {
    key: text(
        _END.format(
            gone=_GONE_RUNNING,
            status=":status",
            reason=":reason",
            message=":message",
            details=":details",
            configuration_id="CAST(:configuration_id AS bigint)",
            size_bytes="CAST(:size_bytes AS bigint)",
            ran_seconds="CAST(:ran_seconds AS double precision)",
            extra="""CAST(:extra AS jsonb) || jsonb_build_object('waited_seconds', waited_seconds)
                || CASE WHEN failed_tries = '[]' THEN '{}'
                   ELSE jsonb_build_object('failed_tries', failed_tries) END""",
            state=state,
            shards=SHARDS,
            counters=_COUNT_RUNNING,
        )
    )
    for key, state in _STATES.items()
}

_END_WAITING = text(
    _END.format(
        gone=_GONE_WAITING,
        status="'cancelled'",
        reason="NULL",
        message="NULL",
        details="NULL",
        configuration_id="NULL",
        size_bytes="CAST(NULL AS bigint)",
        ran_seconds="CAST(NULL AS double precision)",
        extra="'{}'",
        state="cancelled_count = s.cancelled_count + 1",
        shards=SHARDS,
        counters=_COUNT_WAITING,
    )
)
