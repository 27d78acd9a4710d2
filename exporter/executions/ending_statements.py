"""The statements that end an execution: all that must agree, in one statement each."""

from sqlalchemy import text

from exporter.database.prepared import PreparedStatement
from exporter.executions.claims import insert_jobs
from exporter.models import HISTOGRAM_BOUNDS_SECONDS, SHARDS

_STILL_OURS = """
    id = :id AND status = :from_status
    AND worker_id IS NOT DISTINCT FROM CAST(:worker_id AS uuid)
"""

_GONE_RUNNING = f"DELETE FROM open_executions WHERE {_STILL_OURS} RETURNING *"

_GONE_WAITING = """
    DELETE FROM open_executions
    WHERE id = ANY(:ids) AND status = 'queued' AND started_at IS NULL RETURNING *
"""

# Last in the statement that ends an execution, just before the commit, come the rows that other
# endings wait for: statistics and counters, always in this order, so that nobody waits in a circle.
_END = """
    WITH gone AS ({gone}), {before}
    logged AS (
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
    {woken}
    SELECT id FROM gone
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
    failing_since = NULL, consecutive_failures = 0, configuration_id = {configuration_id},
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

_STORE_VERSION = """
    kept AS (
        INSERT INTO configuration_texts AS t (sha256, compressed)
        SELECT :sha256, :compressed FROM gone
        ON CONFLICT (sha256) DO UPDATE
            SET compressed = excluded.compressed WHERE t.compressed IS NULL
    ), stored AS (
        INSERT INTO configurations (device_id, sha256, stable_hash, size_bytes, lines_added,
            lines_removed, execution_id, task_id, trigger)
        SELECT device_id, :sha256, :stable_hash, :size_bytes, :lines_added,
            :lines_removed, id, task_id, trigger FROM gone
        RETURNING id
    ),
"""

# The other execution of the device waited for this one; its own job may have come in vain.
_WOKEN = f""",
    waiting AS (
        SELECT w.* FROM open_executions AS w JOIN gone ON gone.device_id = w.device_id
        WHERE w.status = 'queued' AND w.not_before <= now() AND w.id <> gone.id
    ), woken AS ({insert_jobs("waiting")})
"""

_TYPES = {
    "id": "uuid",
    "worker_id": "uuid",
    "from_status": "text",
    "status": "text",
    "reason": "text",
    "message": "text",
    "details": "text",
    "extra": "jsonb",
    "configuration_id": "bigint",
    "size_bytes": "bigint",
    "ran_seconds": "double precision",
    "waited_seconds": "double precision",
    "ran_bucket": "integer",
    "waited_bucket": "integer",
    "time_zone": "text",
    "sha256": "bytea",
    "stable_hash": "bytea",
    "compressed": "bytea",
    "lines_added": "integer",
    "lines_removed": "integer",
    "key_type": "text",
    "key_base64": "text",
}

_PIN_FIRST_KEY = """
    pinned AS (
        INSERT INTO host_keys (device_id, key_type, key_base64, accepted_by)
        SELECT device_id, :key_type, :key_base64, 'first use' FROM gone
        ON CONFLICT (device_id) DO NOTHING
    ),
"""


def _end_running(status: str, *, stores: bool, pins: bool) -> PreparedStatement:
    configuration_id = "(SELECT id FROM stored)" if stores else "CAST(:configuration_id AS bigint)"
    name = f"end_{status}{'_with_version' if stores else ''}{'_with_key' if pins else ''}"
    return PreparedStatement(
        name,
        _END.format(
            gone=_GONE_RUNNING,
            before=(_STORE_VERSION if stores else "") + (_PIN_FIRST_KEY if pins else ""),
            status=":status",
            reason=":reason",
            message=":message",
            details=":details",
            configuration_id=configuration_id,
            size_bytes="CAST(:size_bytes AS bigint)",
            ran_seconds="CAST(:ran_seconds AS double precision)",
            extra="""CAST(:extra AS jsonb) || jsonb_build_object('waited_seconds', waited_seconds)
                || CASE WHEN failed_tries = '[]' THEN '{}'
                   ELSE jsonb_build_object('failed_tries', failed_tries) END""",
            state=_STATES[status, stores].replace("{configuration_id}", configuration_id),
            shards=SHARDS,
            counters=_COUNT_RUNNING,
            woken=_WOKEN,
        ),
        _TYPES,
    )


#: (status, stores a new version, pins a first key) -> the statement that ends a running execution.
END_RUNNING = {
    (status, stores, pins): _end_running(status, stores=stores, pins=pins)
    for status, stores in _STATES
    for pins in ((False, True) if status == "success" else (False,))
}

END_WAITING = text(
    _END.format(
        gone=_GONE_WAITING,
        before="",
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
        woken="",
    )
)
