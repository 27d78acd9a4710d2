"""A plausible past: what a fleet would have written into the tables in the last months.

A growing fleet, devices that flap, some that fail for good since some days, a bad night, a site
that was cut off, a password that was rotated. Every row is decided by the seed. Executions are
written month by month, set by set; statistics and counters are summed from them as the nightly
check sums them, and the states of devices come from that check itself.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import zstandard
from sqlalchemy import Connection, Engine, Row, insert, text

from exporter.database import history
from exporter.database.partitions import ensure_partitions, partition_name
from exporter.errors import ConfigBackupError
from exporter.integrity.numbers import recompute_states
from exporter.models import Configuration, ConfigurationText
from exporter.simulator.texts import PLATFORMS, generate

#: Devices that joined after the beginning, and the share of the span over which they came.
_JOINED_SHARE, _JOINING_SPAN = 0.4, 0.6
_VERSIONS = 4
#: Backups younger than this have their devices in backup_devices too.
_BACKUP_DEVICES_SPAN = timedelta(days=2)


@dataclass(frozen=True)
class Past:
    """How much of it there is to be."""

    span: timedelta
    #: About so many; None: one a device and hour.
    executions: int | None = None
    time_zone: str = "UTC"
    config_bytes: int = 20_000
    seed: int = 1


class HistoryExists(ConfigBackupError):
    """There are executions already; a past is only written where there is none."""


def fill_history(engine: Engine, past: Past) -> int:
    """Write the past of the devices that there are, in one transaction; how many executions.

    Raises HistoryExists.
    """
    with engine.begin() as connection:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        if any(
            connection.scalar(text(f"SELECT EXISTS (SELECT FROM {table})"))
            for table in (*history.months(connection), "backups", "configurations")
        ):
            raise HistoryExists("the database has a history already; a past needs a fresh one")
        _make_ticks(connection, past)
        _make_devices(connection, past)
        _make_versions(connection, past)
        months = [_fill_month(connection, past, month) for month in _months(connection)]
        written = _sum_up(connection, past, months)
        ids = connection.scalars(text("SELECT device_id FROM past_devices")).all()
    recompute_states(engine, ids)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("RESET statement_timeout"))
    return written


def _make_ticks(connection: Connection, past: Past) -> None:
    """Ticks, evenly spread, the last one 20 minutes ago; each is a backup of the schedule."""
    devices = connection.scalar(text("SELECT count(*) FROM devices WHERE retired_at IS NULL")) or 0
    share = 1 - _JOINED_SHARE * _JOINING_SPAN / 2
    count = int(past.span / timedelta(hours=1))
    if past.executions is not None:
        count = max(1, round(past.executions / max(1, devices) / share))
    connection.execute(
        text("""
            CREATE TEMPORARY TABLE past_ticks ON COMMIT DROP AS
            SELECT n AS no, gen_random_uuid() AS task_id, date_trunc('second', now())
                - interval '20 minutes' - (:count - n) * :span / :count AS at
            FROM generate_series(1, :count) AS n
        """),
        {"count": count, "span": past.span},
    )


# A device's number among all decides what it went through, so that a quarter is a quarter.
_DEVICES = f"""
    CREATE TEMPORARY TABLE past_devices ON COMMIT DROP AS
    SELECT d.*, count(*) OVER () AS devices,
        (SELECT min(no) FROM past_ticks WHERE at >= joined_at) AS first_tick,
        d.device_id % period AS phase
    FROM (
        SELECT d.id AS device_id, d.name, d.site, d.platform, d.zone, d.address,
            d.deadline_seconds, rank() OVER (ORDER BY hashint8extended(d.id, :seed)) AS rank,
            1 + 5 * share_of(d.id, 2) AS base_seconds,
            CASE WHEN share_of(d.id, 3) < 0.04 THEN 0.15 ELSE 0.008 END AS failing_share,
            CASE WHEN share_of(d.id, 4) < 0.02
                THEN CAST(:now AS timestamptz) - :span * share_of(d.id, 5) / 9 END AS broken_since,
            (ARRAY['unreachable', 'auth', 'refused', 'host_key', 'timeout'])
                [1 + CAST(floor(5 * share_of(d.id, 6)) AS int)] AS broken_reason,
            CAST(:now AS timestamptz) - :span * (CASE WHEN share_of(d.id, 7) < {_JOINED_SHARE}
                THEN 1 - {_JOINING_SPAN} * share_of(d.id, 8) ELSE 1 END) AS joined_at,
            CAST(:ticks / {_VERSIONS} * (0.7 + 0.6 * share_of(d.id, 9)) AS int) + 1 AS period
        FROM devices AS d WHERE d.retired_at IS NULL
    ) AS d
"""


def _make_devices(connection: Connection, past: Past) -> None:
    connection.execute(
        text("""
            CREATE FUNCTION pg_temp.share_of(bigint, bigint) RETURNS double precision
            LANGUAGE sql IMMUTABLE PARALLEL SAFE
            RETURN (hashint8extended($1, $2) & 1048575) / 1048576.0
        """)
    )
    now, ticks = connection.execute(text("SELECT now(), max(no) FROM past_ticks")).one()
    connection.execute(
        text(_DEVICES.replace("share_of(", "pg_temp.share_of(")),
        {"now": now, "span": past.span, "seed": past.seed, "ticks": ticks},
    )
    connection.execute(
        text("""
            UPDATE devices AS d SET created_at = least(d.created_at, p.joined_at)
            FROM past_devices AS p WHERE p.device_id = d.id
        """)
    )


def _make_versions(connection: Connection, past: Past) -> None:
    """Each device's versions, the first at its first tick; times follow with the executions."""
    connection.execute(
        text("""
            CREATE TEMPORARY TABLE past_versions ON COMMIT DROP AS
            SELECT d.device_id, t.no AS tick, t.task_id, t.at,
                (t.no + d.phase) / d.period - (d.first_tick + d.phase) / d.period AS number,
                nextval(pg_get_serial_sequence('configurations', 'id')) AS id
            FROM past_devices AS d JOIN past_ticks AS t ON t.no >= d.first_tick
            WHERE t.no = d.first_tick OR (t.no + d.phase) % d.period = 0
            ORDER BY t.no, d.device_id
        """)
    )
    rows = connection.execute(
        text("""
            SELECT v.*, d.name, d.site, d.platform,
                CAST(md5(v.device_id || '-' || v.tick) AS uuid) AS execution_id
            FROM past_versions AS v JOIN past_devices AS d USING (device_id)
            ORDER BY d.device_id, v.number
        """)
    ).all()
    for part in _parts(list(_versions(rows, past))):
        connection.execute(insert(ConfigurationText), [texts for texts, _ in part])
        connection.execute(insert(Configuration), [version for _, version in part])
    connection.execute(
        text("""
            ALTER TABLE past_versions ADD size bigint;
            UPDATE past_versions AS v SET size = c.size_bytes
            FROM configurations AS c WHERE c.id = v.id;
            ANALYZE past_versions; ANALYZE past_devices; ANALYZE past_ticks
        """)
    )


def _parts(versions: Sequence[Any], size: int = 5_000) -> Iterator[Sequence[Any]]:
    for start in range(0, len(versions), size):
        yield versions[start : start + size]


def _versions(rows: Sequence[Row[Any]], past: Past) -> Iterator[tuple[dict[str, Any], ...]]:
    before: tuple[int, list[bytes]] = (0, [])
    for row in rows:
        content = generate(
            row.platform if row.platform in PLATFORMS else PLATFORMS[0],
            row.name,
            site=row.site,
            seed=past.seed,
            size_bytes=past.config_bytes,
            revision=row.number,
        )
        lines = content.splitlines()
        old = before[1] if before[0] == row.device_id else []
        before = (row.device_id, lines)
        sha256 = hashlib.sha256(content).digest()
        yield (
            {"sha256": sha256, "compressed": zstandard.compress(content)},
            {
                "id": row.id,
                "device_id": row.device_id,
                "sha256": sha256,
                "stable_hash": sha256,
                "size_bytes": len(content),
                "lines_added": (Counter(lines) - Counter(old)).total(),
                "lines_removed": (Counter(old) - Counter(lines)).total(),
                "execution_id": row.execution_id,
                "task_id": row.task_id,
                "trigger": "schedule",
                "created_at": row.at,
            },
        )


def _months(connection: Connection) -> list[datetime]:
    first, last = connection.execute(
        text("""
            SELECT date_trunc('month', min(at), 'UTC'), date_trunc('month', now(), 'UTC')
            FROM past_ticks
        """)
    ).one()
    months = [first.astimezone(UTC)]
    while months[-1] < last:
        months.append((months[-1] + timedelta(days=32)).replace(day=1))
    return months


def _fill_month(connection: Connection, past: Past, month: datetime) -> str:
    """Write a month's executions into a table that is attached, and so indexed, afterwards.

    The empty one that may be attached already would check each row for itself.
    """
    name, after = partition_name(month), (month + timedelta(days=32)).replace(day=1)
    connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
    connection.execute(
        text(
            f"CREATE TABLE {name} (LIKE backup_execution_logs INCLUDING DEFAULTS"
            " INCLUDING CONSTRAINTS INCLUDING COMMENTS)"
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.02)"
        )
    )
    connection.execute(
        text(_EXECUTIONS.format(table=name).replace("share_of(", "pg_temp.share_of(")),
        {
            "month": month,
            "after": after,
            "time_zone": past.time_zone,
            "seed": past.seed,
            "span": past.span,
        },
    )
    connection.execute(
        text(
            f"ALTER TABLE backup_execution_logs ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{month:%Y-%m-%d} 00:00+00') TO ('{after:%Y-%m-%d} 00:00+00')"
        )
    )
    return name


_EXECUTIONS = """
    INSERT INTO {table} (id, task_id, device_id, schedule_id, config_id, status, reason,
        execution_time, error_message, queued_at, started_at, completed_at, created_at,
        config_size, extra_info, retry_count, site, platform, zone, trigger, day)
    WITH schedule AS (
        SELECT min(id) AS id FROM backup_schedules WHERE retired_at IS NULL AND cron IS NOT NULL
    ), moments AS (
        SELECT now() - :span * 0.15 AS bad_night, now() - :span * 0.06 AS outage,
            now() - :span * 0.3 AS rotation,
            (SELECT site FROM past_devices GROUP BY site ORDER BY count(*) DESC, site LIMIT 1)
                AS outage_site,
            (SELECT platform FROM past_devices GROUP BY platform
             ORDER BY count(*) DESC, platform LIMIT 1) AS rotated_platform
    ), drawn AS MATERIALIZED (
        SELECT d.*, t.no, t.task_id, t.at,
            share_of(d.device_id * 1000003 + t.no, :seed) AS luck,
            share_of(d.device_id * 1000003 + t.no, :seed + 1) AS kind,
            share_of(d.device_id * 1000003 + t.no, :seed + 2) AS speed,
            (t.no = d.first_tick OR (t.no + d.phase) % d.period = 0) AS is_new,
            (t.no + d.phase) / d.period - (d.first_tick + d.phase) / d.period AS number
        FROM past_ticks AS t JOIN past_devices AS d ON d.first_tick <= t.no
        -- A tick's executions end within 20 minutes.
        WHERE t.at >= CAST(:month AS timestamptz) - interval '20 minutes'
            AND t.at < CAST(:after AS timestamptz)
    ), caused AS MATERIALIZED (
        SELECT *, CASE
            WHEN is_new THEN ''
            WHEN at >= broken_since THEN broken_reason
            WHEN site = outage_site AND at BETWEEN outage AND outage + interval '14 hours'
                THEN 'unreachable'
            WHEN platform = rotated_platform
                AND at BETWEEN rotation AND rotation + interval '40 hours' THEN 'auth'
            WHEN at BETWEEN bad_night AND bad_night + interval '7 hours' AND luck < 0.35
                THEN 'timeout'
            WHEN luck < failing_share
                THEN (ARRAY['timeout', 'timeout', 'unreachable', 'unreachable', 'disconnected',
                    'truncated', 'command', 'refused', 'empty', 'storage', 'auth', 'interrupted'])
                    [1 + CAST(floor(12 * kind) AS int)]
            WHEN luck > 0.9995 THEN 'cancelled'
            ELSE '' END AS cause
        FROM drawn CROSS JOIN moments
    ), timed AS (
        SELECT *, CASE WHEN cause IN ('timeout', 'unreachable', 'refused', 'disconnected')
                AND speed < 0.9 THEN 2 WHEN cause = '' AND luck > 0.985 THEN 1
                ELSE 0 END AS retries,
            600 * share_of(device_id, :seed) AS spread, 2 * kind * kind AS waited,
            CASE cause WHEN '' THEN base_seconds * (0.7 + 0.6 * speed)
                WHEN 'timeout' THEN deadline_seconds WHEN 'unreachable' THEN 10 + speed
                WHEN 'cancelled' THEN NULL ELSE 0.5 + 3 * speed END AS seconds
        FROM caused
    ), ended AS MATERIALIZED (
        SELECT *, seconds * (1 + retries) AS ran, at + make_interval(secs => spread) AS due,
            at + make_interval(secs => spread + waited) AS began,
            at + make_interval(secs => spread + waited
                + least(400, coalesce(seconds, 0) * (1 + retries) + 30 * retries)) AS over
        FROM timed
    )
    SELECT CAST(md5(e.device_id || '-' || e.no) AS uuid), e.task_id, e.device_id, schedule.id,
        CASE cause WHEN '' THEN v.id END,
        CASE cause WHEN '' THEN 'success' WHEN 'timeout' THEN 'timeout'
            WHEN 'cancelled' THEN 'cancelled' ELSE 'failed' END,
        CASE WHEN cause NOT IN ('', 'cancelled') THEN cause END,
        ran,
        CASE cause WHEN 'timeout' THEN 'no end of the configuration within '
                || deadline_seconds || ' s'
            WHEN 'unreachable' THEN 'no answer from ' || address
            WHEN 'refused' THEN address || ' refused the connection'
            WHEN 'auth' THEN address || ' refused the login'
            WHEN 'host_key' THEN address || ' shows another host key than the pinned one'
            WHEN 'disconnected' THEN address || ' closed the connection during the dialogue'
            WHEN 'truncated' THEN 'the end of the configuration is missing'
            WHEN 'command' THEN 'the device answered: invalid input detected'
            WHEN 'empty' THEN 'the device answered without any configuration'
            WHEN 'storage' THEN 'no space left on device'
            WHEN 'interrupted' THEN 'the worker vanished' END,
        e.at, CASE WHEN ran IS NOT NULL THEN began END, over, over,
        CASE cause WHEN '' THEN v.size END,
        CASE WHEN ran IS NULL THEN '{{}}' ELSE jsonb_build_object('waited_seconds', waited,
            'times', jsonb_build_object('connect_seconds', 0.05, 'login_seconds', 0.4,
                'fetch_seconds', seconds, 'store_seconds', 0.01)) END,
        retries, e.site, e.platform, e.zone, 'schedule',
        CAST(over AT TIME ZONE :time_zone AS date)
    FROM ended AS e CROSS JOIN schedule
    LEFT JOIN past_versions AS v ON v.device_id = e.device_id AND v.number = e.number
    WHERE over >= CAST(:month AS timestamptz) AND over < CAST(:after AS timestamptz)
    ORDER BY e.no, e.spread
"""


def _sum_up(connection: Connection, past: Past, months: Sequence[str]) -> int:
    """Backups, times of versions, statistics and counters, from the executions."""
    executions = history.executions_of(months)
    statistics, keys = ", ".join(history.STATISTIC_SUMS), ", ".join(history.COUNTER_KEYS)
    sums = ", ".join((*history.COUNTER_SUMS, *history.COUNTER_ARRAYS))
    exemplars = {
        f"{name}_exemplar_{part}": history.array_of(f"CAST(NULL AS {kind})")
        for name in ("duration", "wait")
        for part, kind in (("tasks", "uuid"), ("values", "float"), ("times", "timestamptz"))
    }
    connection.execute(
        text(f"""
            INSERT INTO daily_statistics (day, time_zone, site, platform, status, shard,
                {statistics})
            SELECT day, :time_zone, site, platform, status, 0, {statistics}
            FROM ({history.statistics_of(executions)}) AS s
        """),
        {"time_zone": past.time_zone},
    )
    connection.execute(
        text(f"""
            INSERT INTO execution_counters ({keys}, shard, {sums}, {", ".join(exemplars)})
            SELECT {keys}, 0, {sums}, {", ".join(exemplars.values())}
            FROM ({history.counters_of(executions)}) AS c
        """)
    )
    connection.execute(
        text(f"""
            UPDATE configurations AS c SET created_at = e.created_at
            FROM ({executions}) AS e WHERE e.id = c.execution_id
        """)
    )
    connection.execute(text(_BACKUPS))
    connection.execute(text(_BACKUP_DEVICES), {"span": _BACKUP_DEVICES_SPAN})
    ensure_partitions(connection)
    return connection.scalar(text("SELECT sum(count) FROM daily_statistics")) or 0


_BACKUPS = """
    INSERT INTO backups (task_id, trigger, requested_by, schedule_id, scheduled_at, created_at,
        ended_at, device_count, success_count, failed_count, timeout_count, cancelled_count)
    SELECT t.task_id, 'schedule', 'schedule', e.schedule_id, t.at, t.at, e.ended_at, e.devices,
        e.success, e.failed, e.timeout, e.cancelled
    FROM past_ticks AS t JOIN (
        SELECT task_id, min(schedule_id) AS schedule_id, max(completed_at) AS ended_at,
            count(*) AS devices, count(*) FILTER (WHERE status = 'success') AS success,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'timeout') AS timeout,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM backup_execution_logs GROUP BY task_id
    ) AS e USING (task_id)
"""
_BACKUP_DEVICES = """
    INSERT INTO backup_devices (task_id, device_id, execution_id)
    SELECT task_id, device_id, id FROM backup_execution_logs
    WHERE created_at > now() - CAST(:span AS interval)
"""
