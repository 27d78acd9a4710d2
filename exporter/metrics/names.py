"""Every metric: name, type, labels and meaning. Dashboards, rules, docs and tests read this table.

Names begin with `configbackup_`; seconds and bytes are the units; a `_timestamp_seconds` is Unix
time. A metric that may be absent says when.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

PREFIX = "configbackup_"

Kind = Literal["gauge", "counter", "info", "histogram"]
_SUFFIXES = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True)
class Name:
    """A row of the table. `name` is that of its samples; a histogram's have suffixes besides."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def family(self) -> str:
        """The name in OpenMetrics, which leaves the suffix to the samples."""
        return self.name.removesuffix(_SUFFIXES.get(self.kind, ""))

    def header(self, *, openmetrics: bool) -> bytes:
        """HELP and TYPE; the classic text format knows no info."""
        name = self.family if openmetrics else self.name
        kind = "gauge" if self.kind == "info" and not openmetrics else self.kind
        return f"# HELP {name} {self.help}\n# TYPE {name} {kind}\n".encode()

    def gauge(self, *values: tuple[Sequence[str], float | None]) -> GaugeMetricFamily:
        """The gauge with these values by labels; None leaves one out."""
        family = GaugeMetricFamily(self.family, self.help, labels=self.labels)
        for labels, value in values:
            if value is not None:
                family.add_metric(labels, value)
        return family

    def counter(self, *values: tuple[Sequence[str], float]) -> CounterMetricFamily:
        family = CounterMetricFamily(self.family, self.help, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family

    def info(self, *values: Sequence[str]) -> InfoMetricFamily:
        family = InfoMetricFamily(self.family, self.help)
        for labels in values:
            family.add_metric([], dict(zip(self.labels, labels, strict=True)))
        return family

    def histogram(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.family, self.help, labels=self.labels)


NAMES: dict[str, Name] = {}


def _name(kind: Kind, name: str, help_text: str, *labels: str) -> Name:
    row = Name(PREFIX + name, kind, help_text, labels)
    assert row.name not in NAMES, f"{row.name} is there twice"
    NAMES[row.name] = row
    return row


def _gauge(name: str, help_text: str, *labels: str) -> Name:
    return _name("gauge", name, help_text, *labels)


def _device(name: str, help_text: str, *labels: str, kind: Kind = "gauge") -> Name:
    return _name(kind, f"device_{name}", help_text, "device", "site", *labels)


def _process(name: str, help_text: str, *labels: str, kind: Kind = "gauge") -> Name:
    return _name(kind, f"process_{name}", help_text, "host", "kind", "pid", *labels)


# Devices: the series of one go when it is retired.
DEVICE_INFO = _device(
    "info",
    "Facts of the inventory, for joins.",
    "address",
    "vendor",
    "platform",
    "zone",
    "groups",
    kind="info",
)
DEVICE_ENABLED = _device("enabled", "1 where the inventory lets it be backed up.")
DEVICE_SCHEDULED = _device("scheduled", "1 where it is in an active schedule.")
DEVICE_PAUSED_UNTIL = _device(
    "paused_until_timestamp_seconds", "End of a person's pause; absent where there is none."
)
DEVICE_STATE = _device("state", "1 for its state: never, abnormal, stale or normal.", "state")
DEVICE_CREATED = _device("created_timestamp_seconds", "When it entered the inventory.")
DEVICE_LAST_ATTEMPT = _device(
    "last_attempt_timestamp_seconds",
    "End of the last execution that was not cancelled; absent before the first.",
)
DEVICE_LAST_SUCCESS = _device(
    "last_success_timestamp_seconds", "End of the last success; absent before the first."
)
DEVICE_LAST_CHANGE = _device(
    "last_change_timestamp_seconds", "When its configuration last changed; absent before the first."
)
DEVICE_LAST_EXECUTION_SUCCESS = _device(
    "last_execution_success", "1 where the last attempt succeeded; absent before the first."
)
DEVICE_LAST_DURATION = _device(
    "last_execution_duration_seconds",
    "How long the last attempt ran, waits excluded; absent before the first.",
)
DEVICE_LAST_FAILURE = _device(
    "last_failure_info", "Why the last attempt failed; only while failing.", "reason", kind="info"
)
DEVICE_FAILING_SINCE = _device(
    "failing_since_timestamp_seconds", "First failure in a row; only while failing."
)
DEVICE_CONSECUTIVE_FAILURES = _device("consecutive_failures", "Failures in a row.")
DEVICE_INTERVAL = _device(
    "backup_interval_seconds",
    "Longest gap between planned backups, paused schedules included; absent where unscheduled.",
)
DEVICE_DEADLINE = _device("deadline_seconds", "Limit of one try.")
DEVICE_CONFIG_SIZE = _device(
    "config_size_bytes", "Size of the current configuration; absent before the first."
)
DEVICE_EXECUTIONS = _device(
    "executions_total", "Ended executions of this device.", "status", kind="counter"
)
DEVICE_CHANGES = _device(
    "config_changes_total", "Versions of its configuration that were stored.", kind="counter"
)

# Sums that belong to no device and never fall.
EXECUTIONS = _name(
    "counter", "executions_total", "Ended executions.", "site", "platform", "status", "trigger"
)
EXECUTION_FAILURES = _name(
    "counter",
    "execution_failures_total",
    "Executions that failed or timed out, by reason.",
    "site",
    "platform",
    "reason",
)
EXECUTION_RETRIES = _name(
    "counter",
    "execution_retries_total",
    "Further tries inside ended executions.",
    "site",
    "platform",
)
EXECUTION_DURATION = _name(
    "histogram",
    "execution_duration_seconds",
    "How long executions ran, waits excluded; those cancelled before they ran are left out.",
    "platform",
    "status",
)
EXECUTION_WAIT = _name(
    "histogram",
    "execution_queue_wait_seconds",
    "From when an execution was due to its first start.",
    "trigger",
)

# The fleet and its queue.
DEVICES = _gauge("devices", "Enabled devices by state.", "state")
DEVICES_DISABLED = _gauge("devices_disabled", "Devices that the inventory disables.")
DEVICES_UNSCHEDULED = _gauge("devices_unscheduled", "Enabled devices in no active schedule.")
DEVICES_PAUSED = _gauge("devices_paused", "Enabled devices that a person paused.")
QUEUED = _gauge("executions_queued", "Executions that wait, those that are not due too.", "zone")
DUE = _gauge("executions_due", "Waiting executions whose time has come.", "zone")
RUNNING = _gauge("executions_running", "Executions that run.", "zone")
OLDEST_DUE = _gauge(
    "executions_oldest_due_age_seconds",
    "For how long the oldest waiting execution has been due; 0: none.",
    "zone",
)
OLDEST_RUNNING = _gauge(
    "executions_oldest_running_age_seconds", "Age of the oldest running try; 0: none.", "zone"
)

# Processes that wrote their heartbeat within half a minute.
PROCESSES = _gauge("processes", "Live processes.", "kind")
WORKERS = _gauge("workers", "Live worker processes that take new executions.", "zone")
LEADERS = _gauge("leaders", "Live processes that say they lead: one, unless something is wrong.")
PROCESS_INFO = _process("info", "Version of each live process.", "version", kind="info")
PROCESS_START = _process("start_timestamp_seconds", "When it began.")
PROCESS_HEARTBEAT = _process("heartbeat_timestamp_seconds", "Its last heartbeat.")
PROCESS_CPU = _process("cpu_seconds_total", "User and system time.", kind="counter")
PROCESS_MEMORY = _process("resident_memory_bytes", "Resident memory.")
PROCESS_OPEN_FILES = _process("open_fds", "Open file descriptors.")
PROCESS_MAXIMUM_FILES = _process("max_fds", "Limit of open file descriptors.")
PROCESS_SESSIONS = _process("sessions_in_use", "Sessions with devices.")
PROCESS_SESSIONS_LIMIT = _process("sessions_limit", "Limit of sessions.")
PROCESS_STUCK = _process("sessions_stuck", "Sessions past deadline and grace.")
PROCESS_HANDSHAKES = _process("handshakes_waiting", "Sessions that wait for their handshake.")
PROCESS_POOL = _process("pool_in_use", "Connections of the pool in use.")
PROCESS_POOL_LIMIT = _process("pool_limit", "Connections that the pool may hold.")
PROCESS_FAILED_STATEMENTS = _process(
    "failed_statements_total", "SQL statements that failed.", kind="counter"
)
PROCESS_SLOW_STATEMENTS = _process(
    "slow_statements_total", "SQL statements that took over a second.", kind="counter"
)
PROCESS_RELOAD_SUCCESS = _process(
    "settings_reload_success", "0 where the last reload of the settings was refused; daemons only."
)
PROCESS_RELOADED = _process(
    "settings_reload_timestamp_seconds", "The last start or reload; daemons only."
)
SCHEDULER_TURN = _gauge(
    "scheduler_last_turn_timestamp_seconds",
    "Last turn of the leader's scheduler that worked; absent without a leader.",
)

# Schedules of the configuration file.
SCHEDULES = _gauge("schedules", "Schedules by state.", "state")
SCHEDULE_ACTIVE = _gauge("schedule_active", "0 while a person pauses it.", "schedule")
SCHEDULE_PAUSED = _gauge(
    "schedule_paused_timestamp_seconds", "Since when it is paused; only while it is.", "schedule"
)
SCHEDULE_LAST_TICK = _gauge(
    "schedule_last_tick_timestamp_seconds", "Its last tick; absent before the first.", "schedule"
)
SCHEDULE_NEXT_TICK = _gauge(
    "schedule_next_tick_timestamp_seconds", "Its next tick; absent while paused.", "schedule"
)
SCHEDULE_MISSED = _name(
    "counter", "schedule_missed_ticks_total", "Ticks that were not fired.", "schedule"
)

# Git.
GIT_UNPUBLISHED = _gauge("git_unpublished_configurations", "Configurations not yet in Git.")
GIT_OLDEST_UNPUBLISHED = _gauge(
    "git_oldest_unpublished_timestamp_seconds", "The oldest of them; absent where there is none."
)
GIT_LAST_PUBLISH = _gauge(
    "git_last_publish_timestamp_seconds", "Last commit; absent before the first."
)
GIT_FAILING_SINCE = _gauge(
    "git_publish_failing_since_timestamp_seconds",
    "Since when publishing fails; only while it does.",
)
GIT_LAST_PUSH = _gauge("git_last_push_timestamp_seconds", "Last push; absent before the first.")
GIT_PUSH_LAG = _gauge(
    "git_push_lag_seconds",
    "For how long the remote has been behind; 0: it is not; absent without a remote.",
)
GIT_PUSH_FAILURES = _gauge("git_push_consecutive_failures", "Pushes that failed in a row.")
GIT_REPOSITORY_BYTES = _gauge("git_repository_bytes", "Size of the repository; absent until known.")

# PostgreSQL and the disks.
DATABASE_UP = _gauge("database_up", "1 where PostgreSQL answered this scrape.")
PARTITIONS_AHEAD = _gauge(
    "database_partitions_ahead", "Months after the present one that have their partition."
)
OLDEST_MONTH = _gauge(
    "log_oldest_month_timestamp_seconds",
    "Begin of the oldest month that is not in the archive yet.",
)
STORE_USED = _gauge("store_used_bytes", "What a store takes: the whole database too.", "store")
STORE_FREE = _gauge(
    "store_free_bytes", "Free on its file system; absent where that is on another machine.", "store"
)
STORE_SIZE = _gauge("store_size_bytes", "Size of its file system; absent likewise.", "store")
STORE_MEASURED = _gauge("store_measured_timestamp_seconds", "When it was measured.", "store")

# What the nightly checks found.
INTEGRITY_CHECKED = _gauge(
    "integrity_last_check_timestamp_seconds",
    "When statistics, states and counters were last recomputed; absent before the first.",
)
INTEGRITY_DIFFERENCES = _gauge("integrity_differences", "Differences that the last check found.")
INTEGRITY_DAMAGED = _gauge(
    "integrity_damaged_configurations", "Stored versions that no copy could heal."
)

# The process that answers.
BUILD_INFO = _name("info", "build_info", "What answers.", "version", "python")
EXPOSITION_READ = _gauge(
    "exposition_read_timestamp_seconds",
    "Database time of the rows served; absent before the first.",
)
EXPOSITION_SECONDS = _gauge(
    "exposition_refresh_seconds", "How long the last refresh took: reading and rendering."
)
EXPOSITION_RENDERED = _gauge(
    "exposition_rendered_devices", "Devices that the last refresh rendered anew."
)
EXPOSITION_PROVED = _gauge(
    "exposition_last_proof_timestamp_seconds",
    "When all rows were last read to prove that no change was missed; absent before the first.",
)
EXPOSITION_MISSED = _gauge("exposition_missed_changes", "Changes that the last proof found missed.")
