"""The tables: columns and constraints, no behaviour.

All times are UTC with time zone and come from the database's clock (`now()`); durations are
seconds from a monotonic clock. Partitions of the two log tables are made by `database.partitions`.
"""

import uuid
from datetime import date, datetime
from typing import Annotated, Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import conv

from exporter.errors import Reason

ENDED_STATUSES = ("success", "failed", "timeout", "cancelled")
TRIGGERS = ("schedule", "second_round", "catch_up", "api", "command")
#: Triggers by a person or a pipeline: they go before a schedule's.
PEOPLES_TRIGGERS = ("api", "command")
#: Upper bounds (seconds) of the histograms of duration and wait; one more bucket is +Inf.
HISTOGRAM_BOUNDS_SECONDS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Rows that keep ending executions apart: shard = device_id % SHARDS.
SHARDS = 16

Timestamp = Annotated[datetime, mapped_column(DateTime(timezone=True))]
CreatedAt = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=text("now()"))
]
#: Without an index, which would make each update of device_states write it too.
ChangedIn = Annotated[
    int,
    mapped_column(
        BigInteger, server_default="0", comment="transaction that wrote the row; set by a trigger"
    ),
]
BigId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
DeviceKey = Annotated[
    int, mapped_column(BigInteger, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
]
DeviceReference = Annotated[
    int, mapped_column(BigInteger, ForeignKey("devices.id", ondelete="CASCADE"))
]


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), bytes: LargeBinary(), float: Double(), uuid.UUID: Uuid()}  # noqa: RUF012


class Device(Base):
    """A network element of the inventory; one that left it is retired, never deleted."""

    __tablename__ = "devices"

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(unique=True)
    address: Mapped[str]
    port: Mapped[int | None] = mapped_column(comment="NULL: the driver's default port")
    platform: Mapped[str]
    driver: Mapped[str] = mapped_column(comment="NAPALM driver that fetches it")
    vendor: Mapped[str]
    site: Mapped[str]
    zone: Mapped[str]
    groups: Mapped[list[str]] = mapped_column(ARRAY(Text()), server_default="{}")
    enabled: Mapped[bool] = mapped_column(server_default="true")
    deadline_seconds: Mapped[float] = mapped_column(comment="limit of one try")
    paused_until: Mapped[Timestamp | None] = mapped_column(comment="NULL: not paused by a person")
    paused_note: Mapped[str | None]
    paused_by: Mapped[str | None]
    interval_seconds: Mapped[float | None] = mapped_column(
        comment="longest gap between planned backups, paused schedules included; NULL: unscheduled"
    )
    is_scheduled: Mapped[bool] = mapped_column(
        server_default="false", comment="in at least one active schedule"
    )
    created_at: Mapped[CreatedAt]
    retired_at: Mapped[Timestamp | None] = mapped_column(comment="NULL: in the inventory")
    changed_in: Mapped[ChangedIn]

    __table_args__ = (
        CheckConstraint("deadline_seconds > 0", name="deadline_positive"),
        CheckConstraint("(paused_until IS NULL) = (paused_by IS NULL)", name="pause_has_a_person"),
        # The fleet's lists and selections by site read only what is in the inventory.
        Index("ix_devices_site", "site", postgresql_where=text("retired_at IS NULL")),
    )


class DeviceState(Base):
    """A device's present and its own lifetime counts; one row a device, written by its endings."""

    __tablename__ = "device_states"

    device_id: Mapped[DeviceKey]
    last_execution_id: Mapped[uuid.UUID | None]
    last_started_at: Mapped[Timestamp | None]
    last_end_at: Mapped[Timestamp | None] = mapped_column(comment="last end of any status")
    last_status: Mapped[str | None] = mapped_column(comment="of the last end, cancelled included")
    last_reason: Mapped[str | None] = mapped_column(comment="NULL: not failing")
    last_error_message: Mapped[str | None] = mapped_column(comment="NULL: not failing")
    last_duration_seconds: Mapped[float | None]
    last_success_at: Mapped[Timestamp | None]
    last_failure_at: Mapped[Timestamp | None]
    failing_since: Mapped[Timestamp | None] = mapped_column(comment="first failure in a row")
    last_change_at: Mapped[Timestamp | None]
    consecutive_failures: Mapped[int] = mapped_column(server_default="0")
    configuration_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("configurations.id", ondelete="SET NULL")
    )
    config_size: Mapped[int | None] = mapped_column(BigInteger, comment="bytes")
    success_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    failed_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    timeout_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cancelled_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    change_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    duration_sum_seconds: Mapped[float] = mapped_column(server_default="0")
    changed_in: Mapped[ChangedIn]

    # Half-empty pages and no index on what an ending changes: most updates are then HOT.
    __table_args__ = (
        {
            "postgresql_with": {
                "fillfactor": "50",
                "autovacuum_vacuum_scale_factor": "0.05",
                "autovacuum_vacuum_threshold": "500",
            }
        },
    )


class BackupSchedule(Base):
    """When, and which devices; written in the configuration file and synchronised."""

    __tablename__ = "backup_schedules"

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(unique=True)
    cron: Mapped[str | None] = mapped_column(comment="five fields; NULL: interval_seconds is set")
    interval_seconds: Mapped[float | None]
    time_zone: Mapped[str]
    spread_seconds: Mapped[float] = mapped_column(server_default="0")
    selection: Mapped[dict[str, Any]] = mapped_column(JSONB)
    second_round: Mapped[bool] = mapped_column(server_default="true")
    is_active: Mapped[bool] = mapped_column(
        server_default="true", comment="false: paused by a person; survives a reload"
    )
    paused_at: Mapped[Timestamp | None]
    paused_by: Mapped[str | None]
    paused_note: Mapped[str | None]
    last_tick_at: Mapped[Timestamp | None] = mapped_column(
        comment="scheduled time of the last tick"
    )
    next_tick_at: Mapped[Timestamp | None]
    missed_ticks: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[CreatedAt]
    retired_at: Mapped[Timestamp | None] = mapped_column(comment="when it left the file")

    __table_args__ = (
        CheckConstraint("(cron IS NULL) <> (interval_seconds IS NULL)", name="cron_or_interval"),
        CheckConstraint("interval_seconds > 0", name="interval_positive"),
        CheckConstraint("spread_seconds >= 0", name="spread_not_negative"),
        CheckConstraint("is_active OR paused_at IS NOT NULL", name="pause_has_a_time"),
    )


class Backup(Base):
    """One trigger for one or many devices; its id is the task_id that people see."""

    __tablename__ = "backups"

    task_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trigger: Mapped[str]
    requested_by: Mapped[str]
    comment: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    schedule_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("backup_schedules.id", ondelete="SET NULL")
    )
    scheduled_at: Mapped[Timestamp | None] = mapped_column(comment="the tick's planned time")
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[Timestamp | None] = mapped_column(
        comment="set by the leader soon after the last execution ended"
    )
    # Counted once, when it ended; NULL until then. Executions that it joined are counted too.
    device_count: Mapped[int | None]
    success_count: Mapped[int | None]
    failed_count: Mapped[int | None]
    timeout_count: Mapped[int | None]
    cancelled_count: Mapped[int | None]

    __table_args__ = (
        CheckConstraint(_one_of("trigger", TRIGGERS), name="trigger_known"),
        # Two leaders cannot fire one tick twice; a tick and its second round are two backups.
        Index(
            "uq_backups_tick",
            "schedule_id",
            "scheduled_at",
            text("(trigger = 'second_round')"),
            unique=True,
        ),
        Index(
            "uq_backups_idempotency",
            "requested_by",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # The leader's search for backups whose last execution has ended.
        Index("ix_backups_open", "created_at", postgresql_where=text("ended_at IS NULL")),
        Index("ix_backups_created_at", "created_at"),
    )


class BackupDevice(Base):
    """That a backup wants a device, and which execution serves it (its own or one it joined)."""

    __tablename__ = "backup_devices"

    task_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("backups.task_id", ondelete="CASCADE"), primary_key=True
    )
    device_id: Mapped[DeviceKey]
    execution_id: Mapped[uuid.UUID]

    __table_args__ = (
        # From an execution to the backups that wait for it.
        Index("ix_backup_devices_execution_id", "execution_id"),
        Index("ix_backup_devices_device_id", "device_id"),
    )


class OpenExecution(Base):
    """An execution that waits or runs; deleting the row is what ends it, exactly once."""

    __tablename__ = "open_executions"

    id: Mapped[uuid.UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()")
    )
    task_id: Mapped[uuid.UUID]
    device_id: Mapped[DeviceReference]
    schedule_id: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(server_default="queued")
    queued_at: Mapped[CreatedAt]
    not_before: Mapped[CreatedAt] = mapped_column(comment="spread and back-off end here")
    priority: Mapped[int] = mapped_column(SmallInteger, comment="higher goes first")
    site: Mapped[str]
    platform: Mapped[str]
    zone: Mapped[str]
    trigger: Mapped[str]
    accept_shrunk: Mapped[bool] = mapped_column(
        server_default="false", comment="a person says that the configuration really shrank"
    )
    worker_id: Mapped[uuid.UUID | None] = mapped_column(comment="the process that runs it")
    started_at: Mapped[Timestamp | None] = mapped_column(comment="start of the first try")
    try_started_at: Mapped[Timestamp | None]
    deadline_at: Mapped[Timestamp | None] = mapped_column(comment="end of the present try at most")
    ran_seconds: Mapped[float] = mapped_column(
        server_default="0", comment="what earlier tries took, waits excluded"
    )
    waited_seconds: Mapped[float | None] = mapped_column(
        comment="from when it was due to its first start; NULL: not started"
    )
    failed_tries: Mapped[list[Any]] = mapped_column(JSONB, server_default="[]")
    cancel_requested_at: Mapped[Timestamp | None]

    __table_args__ = (
        CheckConstraint(_one_of("status", ("queued", "running")), name="status_known"),
        CheckConstraint(_one_of("trigger", TRIGGERS), name="trigger_known"),
        CheckConstraint(
            "(status = 'running') = (worker_id IS NOT NULL AND deadline_at IS NOT NULL)",
            name="running_has_a_worker",
        ),
        # At most one waiting and one running execution a device: joining depends on it.
        Index(
            "uq_open_executions_queued",
            "device_id",
            unique=True,
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "uq_open_executions_running",
            "device_id",
            unique=True,
            postgresql_where=text("status = 'running'"),
        ),
        Index("ix_open_executions_task_id", "task_id"),
        Index("ix_open_executions_worker_id", "worker_id"),
        {
            "postgresql_with": {
                "fillfactor": "70",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_threshold": "500",
            }
        },
    )


class _EndedExecution:
    """The layout that the log and its archive share."""

    id: Mapped[uuid.UUID]
    created_at: Mapped[CreatedAt]
    task_id: Mapped[uuid.UUID]
    device_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("devices.id", ondelete="CASCADE"))
    schedule_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("backup_schedules.id", ondelete="SET NULL")
    )
    config_id: Mapped[int | None] = mapped_column(
        BigInteger,
        ForeignKey("configurations.id", ondelete="SET NULL"),
        comment="the version fetched, or the unchanged current one",
    )
    status: Mapped[str]
    reason: Mapped[str | None] = mapped_column(comment="NULL for success and cancelled")
    execution_time: Mapped[float | None] = mapped_column(
        comment="seconds that its tries ran, waits excluded; NULL: it never ran"
    )
    error_message: Mapped[str | None]
    error_details: Mapped[str | None] = mapped_column(comment="traceback, redacted")
    queued_at: Mapped[Timestamp]
    started_at: Mapped[Timestamp | None] = mapped_column(comment="NULL: it never ran")
    completed_at: Mapped[CreatedAt]
    config_size: Mapped[int | None] = mapped_column(BigInteger, comment="bytes")
    git_commit_id: Mapped[str | None] = mapped_column(
        comment="set when a new version was published; the one later write"
    )
    extra_info: Mapped[dict[str, Any]] = mapped_column(
        JSONB, comment="times of the steps, errors of earlier tries, last screen, worker"
    )
    retry_count: Mapped[int] = mapped_column(server_default="0")
    site: Mapped[str]
    platform: Mapped[str]
    zone: Mapped[str]
    trigger: Mapped[str]
    day: Mapped[date] = mapped_column(
        server_default=text("CURRENT_DATE"),
        comment="that it is counted under in daily_statistics: of the time zone then configured",
    )


def _ended_execution_arguments(prefix: str) -> tuple[Any, ...]:
    return (
        PrimaryKeyConstraint("id", "created_at"),
        # Named alike in both tables: ATTACH to the archive finds them in a partition by name.
        CheckConstraint(
            _one_of("status", ENDED_STATUSES), name=conv("ck_backup_execution_status_known")
        ),
        CheckConstraint(
            _one_of("reason", tuple(Reason)), name=conv("ck_backup_execution_reason_known")
        ),
        CheckConstraint(
            "CASE status WHEN 'timeout' THEN reason IS NOT DISTINCT FROM 'timeout'"
            " WHEN 'failed' THEN reason IS NOT NULL AND reason <> 'timeout'"
            " ELSE reason IS NULL END",
            name=conv("ck_backup_execution_reason_fits_status"),
        ),
        CheckConstraint(
            "execution_time >= 0", name=conv("ck_backup_execution_execution_time_not_negative")
        ),
        CheckConstraint(
            "completed_at >= started_at", name=conv("ck_backup_execution_ends_after_start")
        ),
        CheckConstraint(
            "config_size >= 0", name=conv("ck_backup_execution_config_size_not_negative")
        ),
        # A backup's executions.
        Index(f"idx_{prefix}_task", "task_id"),
        # A device's executions, newest first, and its counts per status.
        Index(
            f"idx_{prefix}_device_time",
            "device_id",
            text("created_at DESC"),
            postgresql_include=["status"],
        ),
        # Recent executions of one status.
        Index(f"idx_{prefix}_status_time", "status", text("created_at DESC")),
        # A schedule's executions.
        Index(f"idx_{prefix}_schedule_time", "schedule_id", text("created_at DESC")),
        # The unfiltered page of recent executions, by keyset.
        Index(
            f"idx_{prefix}_time",
            text("created_at DESC"),
            text("id DESC"),
            postgresql_include=["status"],
        ),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )


class BackupExecutionLog(_EndedExecution, Base):
    """An ended execution: append-only, partitioned by month of created_at."""

    __tablename__ = "backup_execution_logs"
    __table_args__ = _ended_execution_arguments("backup_log")


class BackupExecutionHistory(_EndedExecution, Base):
    """The archive, fed by detaching partitions of the log and attaching them here."""

    __tablename__ = "backup_execution_history"
    __table_args__ = _ended_execution_arguments("backup_history")


class ExecutionCounter(Base):
    """Lifetime counts that belong to no device, so that they never fall.

    Arrays have one element a bucket of HISTOGRAM_BOUNDS_SECONDS and one for +Inf; counts are not
    cumulative. An exemplar is each bucket's last task_id, value and time.
    """

    __tablename__ = "execution_counters"

    site: Mapped[str]
    platform: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="", comment="empty: none")
    trigger: Mapped[str]
    shard: Mapped[int] = mapped_column(SmallInteger)
    count: Mapped[int] = mapped_column(BigInteger)
    retry_sum: Mapped[int] = mapped_column(BigInteger)
    duration_sum_seconds: Mapped[float]
    duration_buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    duration_exemplar_tasks: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid()))
    duration_exemplar_values: Mapped[list[float]] = mapped_column(ARRAY(Double()))
    duration_exemplar_times: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    wait_sum_seconds: Mapped[float]
    wait_buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    wait_exemplar_tasks: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid()))
    wait_exemplar_values: Mapped[list[float]] = mapped_column(ARRAY(Double()))
    wait_exemplar_times: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))

    __table_args__ = (
        PrimaryKeyConstraint("site", "platform", "status", "reason", "trigger", "shard"),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class DailyStatistic(Base):
    """A day (of the time zone in the row) of ended executions."""

    __tablename__ = "daily_statistics"

    day: Mapped[date]
    time_zone: Mapped[str]
    site: Mapped[str]
    platform: Mapped[str]
    status: Mapped[str]
    shard: Mapped[int] = mapped_column(SmallInteger)
    count: Mapped[int] = mapped_column(BigInteger)
    timed_count: Mapped[int] = mapped_column(
        BigInteger, comment="executions that ran: the divisor of the average duration"
    )
    duration_sum_seconds: Mapped[float]
    size_sum_bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        PrimaryKeyConstraint("day", "time_zone", "site", "platform", "status", "shard"),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class RemainingStatistic(Base):
    """What executions that were deleted (dropped months, purged devices) leave in the statistics.

    Statistics are the rows that are there and these; `integrity` recomputes them from both.
    """

    __tablename__ = "remaining_statistics"

    day: Mapped[date] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    platform: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    timed_count: Mapped[int] = mapped_column(BigInteger)
    duration_sum_seconds: Mapped[float]
    size_sum_bytes: Mapped[int] = mapped_column(BigInteger)


class RemainingCounter(Base):
    """What deleted executions leave in the lifetime counters."""

    __tablename__ = "remaining_counters"

    site: Mapped[str] = mapped_column(primary_key=True)
    platform: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True, comment="empty: none")
    trigger: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    retry_sum: Mapped[int] = mapped_column(BigInteger)
    duration_sum_seconds: Mapped[float]
    duration_buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    wait_sum_seconds: Mapped[float]
    wait_buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class RemainingDevice(Base):
    """What executions in dropped months leave in a device's state."""

    __tablename__ = "remaining_devices"

    device_id: Mapped[DeviceKey]
    success_count: Mapped[int] = mapped_column(BigInteger)
    failed_count: Mapped[int] = mapped_column(BigInteger)
    timeout_count: Mapped[int] = mapped_column(BigInteger)
    cancelled_count: Mapped[int] = mapped_column(BigInteger)
    duration_sum_seconds: Mapped[float]
    last_success_at: Mapped[Timestamp | None]
    last_failure_at: Mapped[Timestamp | None]
    failing_since: Mapped[Timestamp | None] = mapped_column(comment="as of the last dropped row")
    consecutive_failures: Mapped[int] = mapped_column(comment="as of the last dropped row")


class Installation(Base):
    """The one row of settings that people's tools need; the leader writes it."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, server_default="1")
    public_url: Mapped[str] = mapped_column(server_default="")
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    integrity_checked_at: Mapped[Timestamp | None] = mapped_column(
        comment="when statistics, states and counters were last recomputed"
    )
    integrity_differences: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="that the last check found"
    )
    damaged_configurations: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="stored versions that no copy could heal"
    )

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class MaintenanceRun(Base):
    """How a duty of the night (`archive`, `clear`, `thin`) went when it last ran."""

    __tablename__ = "maintenance_runs"

    duty: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[Timestamp | None] = mapped_column(comment="NULL: it runs, or was cut off")
    succeeded_at: Mapped[Timestamp | None] = mapped_column(comment="end of the last that did")
    error: Mapped[str | None] = mapped_column(comment="NULL: the last that ended succeeded")
    counts: Mapped[dict[str, Any]] = mapped_column(
        JSONB, server_default="{}", comment="what the last that succeeded did"
    )
    done_until: Mapped[dict[str, Any]] = mapped_column(
        JSONB, server_default="{}", comment="time (UTC) up to which each part of it is done"
    )


class ExportedMonth(Base):
    """A month that was written to a file and read back; its rows may be gone since."""

    __tablename__ = "exported_months"

    name: Mapped[str] = mapped_column(primary_key=True, comment="of the month's table")
    file: Mapped[str]
    row_count: Mapped[int] = mapped_column(BigInteger)
    checksum: Mapped[str] = mapped_column(comment="SHA-256 of the rows' values, in order")
    file_sha256: Mapped[str]
    exported_at: Mapped[CreatedAt]
    dropped_at: Mapped[Timestamp | None]


class ConfigurationText(Base):
    """A configuration's bytes, once per content, compressed with zstandard."""

    __tablename__ = "configuration_texts"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    compressed: Mapped[bytes | None] = mapped_column(comment="NULL: thinned out")
    verified_at: Mapped[Timestamp | None] = mapped_column(
        comment="when it was last read again and its hash found right; NULL: never"
    )
    is_damaged: Mapped[bool] = mapped_column(
        server_default="false", comment="no copy was whole when it was last checked"
    )

    __table_args__ = (
        # The nightly share: those longest not verified.
        Index(
            "ix_configuration_texts_verified_at",
            text("verified_at NULLS FIRST"),
            postgresql_where=text("compressed IS NOT NULL"),
        ),
    )


class Configuration(Base):
    """A version of a device's configuration; a new one only when the text changed."""

    __tablename__ = "configurations"

    id: Mapped[BigId]
    device_id: Mapped[DeviceReference]
    sha256: Mapped[bytes] = mapped_column(ForeignKey("configuration_texts.sha256"))
    stable_hash: Mapped[bytes] = mapped_column(comment="SHA-256 without volatile lines")
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    lines_added: Mapped[int]
    lines_removed: Mapped[int]
    execution_id: Mapped[uuid.UUID]
    task_id: Mapped[uuid.UUID]
    trigger: Mapped[str]
    created_at: Mapped[CreatedAt] = mapped_column(comment="when it was stored: author time in Git")
    git_commit_id: Mapped[str | None] = mapped_column(comment="NULL: not yet published")
    thinned_at: Mapped[Timestamp | None] = mapped_column(comment="when its text was emptied")

    __table_args__ = (
        # A device's versions, newest first.
        Index("ix_configurations_device_id", "device_id", text("id DESC")),
        Index("ix_configurations_sha256", "sha256"),
        # The publisher's outbox.
        Index(
            "ix_configurations_unpublished", "id", postgresql_where=text("git_commit_id IS NULL")
        ),
    )


class DevicePath(Base):
    """Where a device's file lies in Git from a time on; NULL: the file was removed (retired)."""

    __tablename__ = "device_paths"

    id: Mapped[BigId]
    device_id: Mapped[DeviceReference]
    device_name: Mapped[str] = mapped_column(comment="its name at that time, for the messages")
    path: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    git_commit_id: Mapped[str | None] = mapped_column(comment="NULL: not yet published")

    __table_args__ = (Index("ix_device_paths_device_id", "device_id", text("id DESC")),)


class PublishingState(Base):
    """The one row that says how publishing goes, for people and metrics."""

    __tablename__ = "publishing_state"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, server_default="1")
    head_commit_id: Mapped[str | None] = mapped_column(comment="what the branch must point at")
    last_publish_at: Mapped[Timestamp | None]
    last_error: Mapped[str | None] = mapped_column(comment="NULL: the last publish succeeded")
    failing_since: Mapped[Timestamp | None]
    pushed_commit_id: Mapped[str | None]
    last_push_at: Mapped[Timestamp | None]
    push_error: Mapped[str | None]
    push_failing_since: Mapped[Timestamp | None]
    push_failures: Mapped[int] = mapped_column(BigInteger, server_default="0")
    repository_bytes: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Process(Base):
    """The heartbeat of a daemon or a worker process."""

    __tablename__ = "processes"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    zones: Mapped[list[str]] = mapped_column(ARRAY(Text()), server_default="{}")
    version: Mapped[str]
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]
    is_leader: Mapped[bool] = mapped_column(server_default="false")
    is_draining: Mapped[bool] = mapped_column(
        server_default="false", comment="takes no new executions"
    )
    sessions_limit: Mapped[int] = mapped_column(server_default="0")
    sessions_in_use: Mapped[int] = mapped_column(server_default="0")
    sessions_stuck: Mapped[int] = mapped_column(server_default="0")
    handshakes_waiting: Mapped[int] = mapped_column(server_default="0")
    pool_limit: Mapped[int] = mapped_column(server_default="0")
    pool_in_use: Mapped[int] = mapped_column(server_default="0")
    memory_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cpu_seconds: Mapped[float] = mapped_column(server_default="0")
    open_files: Mapped[int] = mapped_column(server_default="0")
    maximum_files: Mapped[int] = mapped_column(server_default="0")
    failed_statements: Mapped[int] = mapped_column(BigInteger, server_default="0")
    slow_statements: Mapped[int] = mapped_column(BigInteger, server_default="0")
    settings_read_at: Mapped[Timestamp | None] = mapped_column(comment="NULL: not a daemon")
    settings_error: Mapped[str | None] = mapped_column(comment="NULL: the last reload was taken")
    scheduler_turn_at: Mapped[Timestamp | None] = mapped_column(comment="NULL: does not lead")

    __table_args__ = (CheckConstraint(_one_of("kind", ("daemon", "worker")), name="kind_known"),)


class HostKey(Base):
    """The host key pinned for a device at its first use, or accepted by a person later."""

    __tablename__ = "host_keys"

    device_id: Mapped[DeviceKey]
    key_type: Mapped[str]
    key_base64: Mapped[str]
    accepted_at: Mapped[CreatedAt]
    accepted_by: Mapped[str] = mapped_column(comment="'first use' or a person")


class Event(Base):
    """What began and ended, kept 7 days.

    Order of ids is not order of commits: a reader stays behind the oldest open transaction, by
    transaction_id < pg_snapshot_xmin(pg_current_snapshot()).
    """

    __tablename__ = "events"

    id: Mapped[BigId]
    transaction_id: Mapped[int] = mapped_column(
        BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)")
    )
    created_at: Mapped[CreatedAt]
    kind: Mapped[str]
    task_id: Mapped[uuid.UUID]
    execution_id: Mapped[uuid.UUID | None]
    device_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("devices.id", ondelete="CASCADE")
    )
    status: Mapped[str | None]
    reason: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(
            _one_of(
                "kind",
                ("backup_started", "backup_ended", "execution_started", "execution_ended"),
            ),
            name="kind_known",
        ),
        Index("ix_events_created_at", "created_at"),
        # What ended since a snapshot.
        Index("ix_events_transaction_id", "transaction_id"),
        {"postgresql_with": {"autovacuum_vacuum_scale_factor": "0.05"}},
    )


class Store(Base):
    """What a store (the database and its parts, Git) took when the leader last measured it."""

    __tablename__ = "stores"

    name: Mapped[str] = mapped_column(primary_key=True)
    used_bytes: Mapped[int] = mapped_column(BigInteger)
    free_bytes: Mapped[int | None] = mapped_column(
        BigInteger, comment="of its file system; NULL: on another machine"
    )
    size_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="of its file system")
    measured_at: Mapped[CreatedAt]
