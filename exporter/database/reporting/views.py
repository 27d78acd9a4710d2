"""The reporting views, column by column. docs/reporting.md is made from this.

They show no configuration text, no traceback, no screen and no credential. Columns are only ever
added, at the end of a view.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter import health
from exporter.database.expressions import IS_FRESH, STATE, success_rate
from exporter.errors import ADVICE


@dataclass(frozen=True)
class View:
    """One view: what a row is, its columns (SQL and meaning) and what follows FROM."""

    meaning: str
    columns: Mapping[str, tuple[str, str]]
    source: str


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_RAN = "(s.success_count + s.failed_count + s.timeout_count)"
_PAUSED = "coalesce(d.paused_until > now(), false)"

_IDENTITY = {
    "device_id": ("d.id", "number of the device; stays when it is renamed"),
    "device": ("d.name", "name of the device"),
    "address": ("d.address", "name or address it is reached at"),
    "platform": ("d.platform", "platform (NAPALM driver name), now"),
    "vendor": ("d.vendor", "vendor"),
    "site": ("d.site", "site, now"),
    "zone": ("d.zone", "part of the network it is reached from"),
}

_PRESENT = {
    "state": (STATE, "`never`, `abnormal`, `stale` or `normal`"),
    "last_status": ("s.last_status", "status of the last end, cancelled included"),
    "last_reason": ("s.last_reason", "reason of the last failure; NULL: not failing"),
    "last_error_message": ("s.last_error_message", "its error message; NULL: not failing"),
    "failing_since": ("s.failing_since", "first of the failures in a row; NULL: not failing"),
    "consecutive_failures": ("s.consecutive_failures", "failures in a row"),
    "last_end_at": ("s.last_end_at", "when its last execution ended, whatever its status"),
    "last_success_at": ("s.last_success_at", "when its last successful execution ended"),
    "last_failure_at": ("s.last_failure_at", "when its last failed or timed out one ended"),
}

DEVICES = View(
    "a device of the inventory with its present; retired ones are not shown",
    {
        **_IDENTITY,
        "groups": ("d.groups", "groups of the inventory"),
        "port": ("d.port", "port; NULL: the driver's default"),
        "enabled": ("d.enabled", "takes part in backups"),
        **_PRESENT,
        "is_fresh": (IS_FRESH, "has a success within two of its intervals (any, without one)"),
        "unscheduled": ("d.enabled AND NOT d.is_scheduled", "enabled, in no active schedule"),
        "paused": (_PAUSED, "paused by a person now"),
        "paused_until": (f"CASE WHEN {_PAUSED} THEN d.paused_until END", "when the pause ends"),
        "paused_note": (f"CASE WHEN {_PAUSED} THEN d.paused_note END", "why it is paused"),
        "paused_by": (f"CASE WHEN {_PAUSED} THEN d.paused_by END", "who paused it"),
        "interval_seconds": ("d.interval_seconds", "longest gap between its planned backups"),
        "deadline_seconds": ("d.deadline_seconds", "limit of one try"),
        "last_execution_id": ("s.last_execution_id", "its last execution that was not cancelled"),
        "last_started_at": ("s.last_started_at", "when that one started"),
        "last_execution_time": ("s.last_duration_seconds", "seconds that one ran"),
        "last_change_at": ("s.last_change_at", "when its configuration last changed"),
        "configuration_id": ("s.configuration_id", "its current version"),
        "config_size": ("s.config_size", "bytes of the current version"),
        "version_count": ("s.change_count", "versions stored so far"),
        "success_count": ("s.success_count", "successful executions, lifetime"),
        "failed_count": ("s.failed_count", "failed executions, lifetime"),
        "timeout_count": ("s.timeout_count", "timed out executions, lifetime"),
        "cancelled_count": ("s.cancelled_count", "cancelled executions, lifetime"),
        "total_backups": (f"{_RAN} + s.cancelled_count", "all executions, lifetime"),
        "success_rate": (
            success_rate("s.success_count", _RAN),
            "percent of success in success, failed and timeout, lifetime; NULL: nothing ran",
        ),
        "created_at": ("d.created_at", "when it entered the inventory"),
    },
    """devices AS d JOIN device_states AS s ON s.device_id = d.id
       WHERE d.retired_at IS NULL""",
)

FAILING_DEVICES = View(
    "an enabled device of the inventory whose last backup failed or timed out",
    {
        **_IDENTITY,
        **_PRESENT,
        "failures_7d": (
            """(SELECT count(*) FROM backup_execution_logs AS l
                WHERE l.device_id = d.id AND l.created_at > now() - interval '7 days'
                    AND l.status IN ('failed', 'timeout'))""",
            "failed and timed out executions of the last 7 days (within the hot period)",
        ),
        "paused": (_PAUSED, "paused by a person now"),
        "last_execution_id": ("s.last_execution_id", "the last failed execution"),
    },
    """devices AS d JOIN device_states AS s ON s.device_id = d.id
       WHERE d.retired_at IS NULL AND d.enabled AND s.consecutive_failures > 0""",
)

_ENDED_COLUMNS = """id, task_id, device_id, schedule_id, config_id, status, reason, execution_time,
    error_message, queued_at, started_at, completed_at, created_at, config_size, git_commit_id,
    extra_info, retry_count, site, platform, zone, trigger, day"""

_ENDED = f"""(SELECT {_ENDED_COLUMNS} FROM backup_execution_logs
    UNION ALL SELECT {_ENDED_COLUMNS} FROM backup_execution_history)"""


def _step(name: str) -> str:
    return f"CAST(l.extra_info -> 'times' ->> '{name}_seconds' AS double precision)"


EXECUTIONS = View(
    "an ended execution, of the hot period or archived; filter by created_at, which is indexed",
    {
        "id": ("l.id", "number of the execution"),
        "task_id": ("l.task_id", "the backup it was queued by"),
        "device_id": ("l.device_id", "number of the device"),
        "device": ("d.name", "name of the device, now"),
        "address": ("d.address", "address of the device, now"),
        "vendor": ("d.vendor", "vendor of the device"),
        "site": ("l.site", "site when it was queued"),
        "platform": ("l.platform", "platform when it was queued"),
        "zone": ("l.zone", "zone when it was queued"),
        "trigger": ("l.trigger", "`schedule`, `second_round`, `catch_up`, `api` or `command`"),
        "schedule_id": ("l.schedule_id", "its schedule; NULL: none"),
        "schedule": ("c.name", "name of its schedule; NULL: none"),
        "status": ("l.status", "`success`, `failed`, `timeout` or `cancelled`"),
        "reason": ("l.reason", "why it failed; NULL for success and cancelled"),
        "error_message": ("l.error_message", "one line, without secrets"),
        "execution_time": ("l.execution_time", "seconds its tries ran; NULL: it never ran"),
        "retry_count": ("l.retry_count", "further tries"),
        "queued_at": ("l.queued_at", "when it was queued"),
        "started_at": ("l.started_at", "when its first try started; NULL: it never ran"),
        "completed_at": ("l.completed_at", "when it ended"),
        "created_at": ("l.created_at", "when its end was recorded; the key of the partitions"),
        "date": ("l.day", "day it is counted under in daily_statistics"),
        "config_id": ("l.config_id", "the version fetched, or the unchanged one"),
        "config_size": ("l.config_size", "bytes of the configuration"),
        "git_commit_id": (
            "coalesce(v.git_commit_id, l.git_commit_id)",
            "Git commit of that version; NULL: none, or not yet published",
        ),
        "waited_seconds": (
            "CAST(l.extra_info ->> 'waited_seconds' AS double precision)",
            "from when it was due to its first start; NULL: never started",
        ),
        "connect_seconds": (_step("connect"), "of the last try: until connected"),
        "login_seconds": (_step("login"), "of the last try: until logged in"),
        "fetch_seconds": (_step("fetch"), "of the last try: until the text was complete"),
        "store_seconds": (_step("store"), "of the last try: until it was stored"),
    },
    f"""{_ENDED} AS l
       JOIN devices AS d ON d.id = l.device_id
       LEFT JOIN backup_schedules AS c ON c.id = l.schedule_id
       LEFT JOIN configurations AS v ON v.id = l.config_id""",
)

OPEN_EXECUTIONS = View(
    "an execution that waits or runs now",
    {
        "id": ("o.id", "number of the execution"),
        "task_id": ("o.task_id", "the backup it was queued by"),
        **{k: v for k, v in _IDENTITY.items() if k in ("device_id", "device", "address")},
        "site": ("o.site", "site when it was queued"),
        "platform": ("o.platform", "platform when it was queued"),
        "zone": ("o.zone", "zone when it was queued"),
        "trigger": ("o.trigger", "`schedule`, `second_round`, `catch_up`, `api` or `command`"),
        "schedule": ("c.name", "name of its schedule; NULL: none"),
        "status": ("o.status", "`queued` or `running`"),
        "queued_at": ("o.queued_at", "when it was queued"),
        "not_before": ("o.not_before", "when it is due: spread and back-off end"),
        "started_at": ("o.started_at", "when its first try started"),
        "try_started_at": ("o.try_started_at", "when the present try started"),
        "deadline_at": ("o.deadline_at", "when the present try ends at the latest"),
        "retry_count": ("jsonb_array_length(o.failed_tries)", "further tries so far"),
    },
    """open_executions AS o JOIN devices AS d ON d.id = o.device_id
       LEFT JOIN backup_schedules AS c ON c.id = o.schedule_id""",
)

_COUNTS = {
    "total": ("sum(t.count)", "ended executions"),
    "success": ("coalesce(sum(t.count) FILTER (WHERE t.status = 'success'), 0)", "successful"),
    "failed": ("coalesce(sum(t.count) FILTER (WHERE t.status = 'failed'), 0)", "failed"),
    "timeout": ("coalesce(sum(t.count) FILTER (WHERE t.status = 'timeout'), 0)", "timed out"),
    "cancelled": ("coalesce(sum(t.count) FILTER (WHERE t.status = 'cancelled'), 0)", "cancelled"),
    "avg_execution_time": (
        "sum(t.duration_sum_seconds) / nullif(sum(t.timed_count), 0)",
        "mean seconds of those that ran; NULL: none ran",
    ),
    "success_rate": (
        success_rate(
            "coalesce(sum(t.count) FILTER (WHERE t.status = 'success'), 0)",
            "sum(t.count) FILTER (WHERE t.status <> 'cancelled')",
        ),
        "percent of success in success, failed and timeout; NULL: none of them",
    ),
    "execution_time_sum": ("sum(t.duration_sum_seconds)", "seconds of those that ran, summed"),
    "timed": ("sum(t.timed_count)", "those that ran: the divisor of the mean"),
    "config_size_sum": ("sum(t.size_sum_bytes)", "bytes of their configurations, summed"),
}


def _as_integers(columns: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    counts = {"total", "success", "failed", "timeout", "cancelled", "timed", "config_size_sum"}
    return {
        name: (f"CAST({sql} AS bigint)" if name in counts else sql, meaning)
        for name, (sql, meaning) in columns.items()
    }


DAILY_STATISTICS = View(
    "a day, site and platform with executions; days without any have no row",
    {
        "date": ("t.day", "day of the configured time zone"),
        "site": ("t.site", "site when they were queued"),
        "platform": ("t.platform", "platform when they were queued"),
        **_as_integers(_COUNTS),
        "time_zone": ("min(t.time_zone)", "time zone of the day, as configured then"),
    },
    "daily_statistics AS t GROUP BY t.day, t.site, t.platform",
)

DAILY_TOTALS = View(
    "a day with executions, of the whole fleet; days without any have no row",
    {
        "date": ("t.day", "day of the configured time zone"),
        **_as_integers(_COUNTS),
        "time_zone": ("min(t.time_zone)", "time zone of the day, as configured then"),
    },
    "daily_statistics AS t GROUP BY t.day",
)

DEVICE_DAYS = View(
    "a device's day with executions, of the last 92 days; filter by device",
    {
        "device_id": ("d.id", "number of the device"),
        "device": ("d.name", "name of the device"),
        "date": ("t.day", "day of the configured time zone"),
        **{k: v for k, v in _as_integers(_COUNTS).items() if k != "config_size_sum"},
    },
    f"""devices AS d JOIN (
            SELECT l.device_id, l.day, l.status, 1 AS count, l.created_at,
                CASE WHEN l.execution_time IS NULL THEN 0 ELSE 1 END AS timed_count,
                coalesce(l.execution_time, 0) AS duration_sum_seconds
            FROM {_ENDED} AS l WHERE l.created_at > now() - interval '92 days'
        ) AS t ON t.device_id = d.id
        GROUP BY d.id, d.name, t.day""",
)

CONFIGURATION_CHANGES = View(
    "a stored version of a device's configuration: a change, or its first version",
    {
        "id": ("v.id", "number of the version, for links"),
        **_IDENTITY,
        "created_at": ("v.created_at", "when it was stored"),
        "lines_added": ("v.lines_added", "lines that are new"),
        "lines_removed": ("v.lines_removed", "lines that are gone"),
        "size_bytes": ("v.size_bytes", "bytes"),
        "previous_id": (
            """(SELECT max(p.id) FROM configurations AS p
                WHERE p.device_id = v.device_id AND p.id < v.id)""",
            "the device's version before, to compare with; NULL: this is the first",
        ),
        "trigger": ("v.trigger", "trigger of the execution that found it"),
        "requested_by": ("b.requested_by", "who asked for that backup; NULL: it is deleted"),
        "task_id": ("v.task_id", "the backup that found it"),
        "execution_id": ("v.execution_id", "the execution that found it"),
        "git_commit_id": ("v.git_commit_id", "its commit in Git; NULL: not yet published"),
        "is_current": ("v.id = s.configuration_id", "is the device's current version"),
        "thinned_at": ("v.thinned_at", "when its text was thinned out here (Git keeps it)"),
    },
    """configurations AS v JOIN devices AS d ON d.id = v.device_id
       JOIN device_states AS s ON s.device_id = v.device_id
       LEFT JOIN backups AS b ON b.task_id = v.task_id""",
)

SCHEDULES = View(
    "a schedule of the configuration file, with its ticks",
    {
        "schedule_id": ("c.id", "number of the schedule"),
        "schedule": ("c.name", "name of the schedule"),
        "cron": ("c.cron", "five cron fields; NULL: it has an interval"),
        "interval_seconds": ("c.interval_seconds", "fixed interval; NULL: it has cron fields"),
        "time_zone": ("c.time_zone", "time zone of the cron fields"),
        "spread_seconds": ("c.spread_seconds", "window over which its devices are spread"),
        "selection": ("c.selection", "which devices, as in the configuration file"),
        "second_round": ("c.second_round", "backs up once more what failed"),
        "is_active": ("c.is_active", "not paused by a person"),
        "paused_at": ("c.paused_at", "when it was paused"),
        "paused_by": ("c.paused_by", "who paused it"),
        "paused_note": ("c.paused_note", "why it is paused"),
        "last_tick_at": ("c.last_tick_at", "planned time of the last tick"),
        "next_tick_at": ("CASE WHEN c.is_active THEN c.next_tick_at END", "when it comes next"),
        "missed_ticks": ("c.missed_ticks", "ticks that were missed, lifetime"),
        "created_at": ("c.created_at", "when it entered the configuration file"),
    },
    "backup_schedules AS c WHERE c.retired_at IS NULL",
)

_BACKUP_COUNTS = {
    "devices": (
        """coalesce(b.device_count,
            (SELECT count(*) FROM backup_devices AS x WHERE x.task_id = b.task_id))""",
        "devices it wants",
    ),
    "success": ("b.success_count", "successful executions; NULL: it has not ended"),
    "failed": ("b.failed_count", "failed ones; NULL: it has not ended"),
    "timeout": ("b.timeout_count", "timed out ones; NULL: it has not ended"),
    "cancelled": ("b.cancelled_count", "cancelled ones; NULL: it has not ended"),
    "success_rate": (
        success_rate("b.success_count", "(b.success_count + b.failed_count + b.timeout_count)"),
        "percent of success in success, failed and timeout; NULL: none of them",
    ),
}
_DURATION = "CAST(extract(epoch FROM b.ended_at - b.created_at) AS double precision)"

BACKUPS = View(
    "a backup: one trigger for one or many devices; filter by created_at, which is indexed",
    {
        "task_id": ("b.task_id", "number of the backup"),
        "trigger": ("b.trigger", "`schedule`, `second_round`, `catch_up`, `api` or `command`"),
        "requested_by": ("b.requested_by", "who asked for it"),
        "comment": ("b.comment", "what the person noted"),
        "schedule": ("c.name", "name of its schedule; NULL: none"),
        "scheduled_at": ("b.scheduled_at", "planned time of its tick; NULL: none"),
        "created_at": ("b.created_at", "when it was started"),
        "ended_at": ("b.ended_at", "when its last execution had ended; NULL: it goes on"),
        "duration_seconds": (_DURATION, "from its start to its end; NULL: it goes on"),
        **_BACKUP_COUNTS,
    },
    "backups AS b LEFT JOIN backup_schedules AS c ON c.id = b.schedule_id",
)

SCHEDULE_TICKS = View(
    "a tick of a schedule that was fired, second rounds and catching up included",
    {
        "schedule_id": ("c.id", "number of the schedule"),
        "schedule": ("c.name", "name of the schedule"),
        "scheduled_at": ("b.scheduled_at", "planned time"),
        "trigger": ("b.trigger", "`schedule`, `second_round` or `catch_up`"),
        "created_at": ("b.created_at", "when it was fired"),
        "late_seconds": (
            "CAST(extract(epoch FROM b.created_at - b.scheduled_at) AS double precision)",
            "how much later than planned",
        ),
        "ended_at": ("b.ended_at", "when its last execution had ended; NULL: it goes on"),
        "duration_seconds": (_DURATION, "from its start to its end; NULL: it goes on"),
        "task_id": ("b.task_id", "its backup"),
        **_BACKUP_COUNTS,
    },
    """backups AS b JOIN backup_schedules AS c ON c.id = b.schedule_id
       WHERE b.scheduled_at IS NOT NULL""",
)

PROCESSES = View(
    "a daemon or worker process that has beaten in the last minutes",
    {
        "id": ("p.id", "number of the process"),
        "kind": ("p.kind", "`daemon` or `worker`"),
        "host": ("p.host", "machine"),
        "pid": ("p.pid", "process number there"),
        "zones": ("p.zones", "zones whose devices it reaches"),
        "version": ("p.version", "version of the program"),
        "started_at": ("p.started_at", "when it started"),
        "heartbeat_at": ("p.heartbeat_at", "its last heartbeat"),
        "is_leader": ("p.is_leader", "leads"),
        "is_draining": ("p.is_draining", "takes no new executions"),
        "sessions_limit": ("p.sessions_limit", "sessions at most"),
        "sessions_in_use": ("p.sessions_in_use", "sessions now"),
        "sessions_stuck": ("p.sessions_stuck", "sessions that do not end"),
        "handshakes_waiting": ("p.handshakes_waiting", "logins that wait for their turn"),
        "pool_limit": ("p.pool_limit", "database connections at most"),
        "pool_in_use": ("p.pool_in_use", "database connections in use"),
        "memory_bytes": ("p.memory_bytes", "resident memory"),
        "cpu_seconds": ("p.cpu_seconds", "processor time since its start"),
        "open_files": ("p.open_files", "open files and sockets"),
        "maximum_files": ("p.maximum_files", "limit of them"),
    },
    "processes AS p",
)

PUBLISHING = View(
    "the one row about Git",
    {
        "last_publish_at": ("p.last_publish_at", "when something was last committed"),
        "last_error": ("p.last_error", "why publishing fails; NULL: it works"),
        "failing_since": ("p.failing_since", "since when; NULL: it works"),
        "waiting": (
            "(SELECT count(*) FROM configurations WHERE git_commit_id IS NULL)",
            "versions that are not in Git yet",
        ),
        "waiting_since": (
            "(SELECT min(created_at) FROM configurations WHERE git_commit_id IS NULL)",
            "when the oldest of them was stored",
        ),
        "last_push_at": ("p.last_push_at", "when the remote last took everything"),
        "push_error": ("p.push_error", "why pushing fails; NULL: it works, or there is no remote"),
        "push_failing_since": ("p.push_failing_since", "since when"),
        "repository_bytes": ("p.repository_bytes", "size of the repository"),
    },
    "publishing_state AS p",
)

STORAGE = View(
    "a store and what it occupies",
    {
        "store": ("t.store", "`configurations`, `log`, `archive`, `statistics` or `git`"),
        "bytes": ("CAST(t.bytes AS bigint)", "with its indexes"),
    },
    """(
        SELECT 'configurations' AS store, pg_total_relation_size('configuration_texts')
            + pg_total_relation_size('configurations') AS bytes
        UNION ALL SELECT 'log', (SELECT sum(pg_total_relation_size(relid))
            FROM pg_partition_tree('backup_execution_logs'))
        UNION ALL SELECT 'archive', (SELECT sum(pg_total_relation_size(relid))
            FROM pg_partition_tree('backup_execution_history'))
        UNION ALL SELECT 'statistics', pg_total_relation_size('daily_statistics')
            + pg_total_relation_size('execution_counters')
        UNION ALL SELECT 'git', coalesce(repository_bytes, 0) FROM publishing_state
    ) AS t""",
)

REASONS = View(
    "a reason why executions fail, and what to do",
    {
        "reason": ("t.reason", "reason, as in executions"),
        "meaning": ("t.meaning", "what it means"),
        "action": ("t.action", "what the person on call should do"),
        "is_retried": ("t.is_retried", "a retry can help"),
        "is_devices_fault": ("t.is_devices_fault", "the device or its network is at fault, not us"),
    },
    "(VALUES "
    + ", ".join(
        f"({_literal(reason)}, {_literal(advice.meaning)}, {_literal(advice.action)},"
        f" {advice.is_retried}, {advice.is_devices_fault})"
        for reason, advice in ADVICE.items()
    )
    + ") AS t (reason, meaning, action, is_retried, is_devices_fault)",
)

SETTINGS = View(
    "the one row of settings that dashboards need",
    {
        "public_url": ("i.public_url", "address of the pages, without a slash at its end"),
        "time_zone": ("i.time_zone", "time zone of the days, now"),
        "today": (
            "CAST(now() AT TIME ZONE i.time_zone AS date)",
            "the present day of that time zone",
        ),
        "healthy_from": (str(health.HEALTHY_FROM_PERCENT), "success rate: healthy from here"),
        "fair_from": (str(health.FAIR_FROM_PERCENT), "success rate: fair from here, else abnormal"),
        "device_good_from": (str(health.DEVICE_GOOD_FROM_PERCENT), "a device's bar: green"),
        "device_fair_from": (str(health.DEVICE_FAIR_FROM_PERCENT), "a device's bar: amber"),
        "integrity_checked_at": ("i.integrity_checked_at", "when the numbers were last recomputed"),
        "integrity_differences": ("i.integrity_differences", "differences found then"),
        "damaged_configurations": ("i.damaged_configurations", "versions that no copy can heal"),
    },
    "installation AS i",
)

VIEWS: Mapping[str, View] = {
    "devices": DEVICES,
    "failing_devices": FAILING_DEVICES,
    "executions": EXECUTIONS,
    "open_executions": OPEN_EXECUTIONS,
    "daily_statistics": DAILY_STATISTICS,
    "daily_totals": DAILY_TOTALS,
    "device_days": DEVICE_DAYS,
    "configuration_changes": CONFIGURATION_CHANGES,
    "schedules": SCHEDULES,
    "schedule_ticks": SCHEDULE_TICKS,
    "backups": BACKUPS,
    "processes": PROCESSES,
    "publishing": PUBLISHING,
    "storage": STORAGE,
    "reasons": REASONS,
    "settings": SETTINGS,
}
