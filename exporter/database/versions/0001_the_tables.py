"""The tables, and the partitions of the first months."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from exporter.database.partitions import ensure_partitions

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backup_schedules",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "cron", sa.Text(), nullable=True, comment="five fields; NULL: interval_seconds is set"
        ),
        sa.Column("interval_seconds", sa.Double(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("spread_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("selection", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("second_round", sa.Boolean(), server_default="true", nullable=False),
        sa.Column(
            "is_active",
            sa.Boolean(),
            server_default="true",
            nullable=False,
            comment="false: paused by a person; survives a reload",
        ),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("paused_note", sa.Text(), nullable=True),
        sa.Column(
            "last_tick_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="scheduled time of the last tick",
        ),
        sa.Column("next_tick_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("missed_ticks", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "retired_at", sa.DateTime(timezone=True), nullable=True, comment="when it left the file"
        ),
        sa.CheckConstraint(
            "(cron IS NULL) <> (interval_seconds IS NULL)",
            name=op.f("ck_backup_schedules_cron_or_interval"),
        ),
        sa.CheckConstraint(
            "interval_seconds > 0", name=op.f("ck_backup_schedules_interval_positive")
        ),
        sa.CheckConstraint(
            "is_active OR paused_at IS NOT NULL", name=op.f("ck_backup_schedules_pause_has_a_time")
        ),
        sa.CheckConstraint(
            "spread_seconds >= 0", name=op.f("ck_backup_schedules_spread_not_negative")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backup_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_backup_schedules_name")),
    )
    op.create_table(
        "configuration_texts",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("compressed", sa.LargeBinary(), nullable=True, comment="NULL: thinned out"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_configuration_texts")),
    )
    op.create_table(
        "daily_statistics",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column(
            "timed_count",
            sa.BigInteger(),
            nullable=False,
            comment="executions that ran: the divisor of the average duration",
        ),
        sa.Column("duration_sum_seconds", sa.Double(), nullable=False),
        sa.Column("size_sum_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day",
            "time_zone",
            "site",
            "platform",
            "status",
            "shard",
            name=op.f("pk_daily_statistics"),
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=True, comment="NULL: the driver's default port"),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False, comment="NAPALM driver that fetches it"),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("groups", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("deadline_seconds", sa.Double(), nullable=False, comment="limit of one try"),
        sa.Column(
            "paused_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: not paused by a person",
        ),
        sa.Column("paused_note", sa.Text(), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column(
            "interval_seconds",
            sa.Double(),
            nullable=True,
            comment="longest gap between planned backups, paused schedules included; NULL: unscheduled",
        ),
        sa.Column(
            "is_scheduled",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="in at least one active schedule",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "retired_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: in the inventory",
        ),
        sa.CheckConstraint(
            "(paused_until IS NULL) = (paused_by IS NULL)",
            name=op.f("ck_devices_pause_has_a_person"),
        ),
        sa.CheckConstraint("deadline_seconds > 0", name=op.f("ck_devices_deadline_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("name", name=op.f("uq_devices_name")),
    )
    op.create_index(
        "ix_devices_site",
        "devices",
        ["site"],
        unique=False,
        postgresql_where=sa.text("retired_at IS NULL"),
    )
    op.create_table(
        "execution_counters",
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False, comment="empty: none"),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("retry_sum", sa.BigInteger(), nullable=False),
        sa.Column("duration_sum_seconds", sa.Double(), nullable=False),
        sa.Column("duration_buckets", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("duration_exemplar_tasks", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("duration_exemplar_values", sa.ARRAY(sa.Double()), nullable=False),
        sa.Column("duration_exemplar_times", sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("wait_sum_seconds", sa.Double(), nullable=False),
        sa.Column("wait_buckets", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("wait_exemplar_tasks", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("wait_exemplar_values", sa.ARRAY(sa.Double()), nullable=False),
        sa.Column("wait_exemplar_times", sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.PrimaryKeyConstraint(
            "site",
            "platform",
            "status",
            "reason",
            "trigger",
            "shard",
            name=op.f("pk_execution_counters"),
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("zones", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "heartbeat_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("is_leader", sa.Boolean(), server_default="false", nullable=False),
        sa.Column(
            "is_draining",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="takes no new executions",
        ),
        sa.Column("sessions_limit", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sessions_in_use", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sessions_stuck", sa.Integer(), server_default="0", nullable=False),
        sa.Column("handshakes_waiting", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pool_limit", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pool_in_use", sa.Integer(), server_default="0", nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cpu_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("open_files", sa.Integer(), server_default="0", nullable=False),
        sa.Column("maximum_files", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("kind IN ('daemon', 'worker')", name=op.f("ck_processes_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_table(
        "publishing_state",
        sa.Column("id", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column(
            "head_commit_id", sa.Text(), nullable=True, comment="what the branch must point at"
        ),
        sa.Column("last_publish_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "last_error", sa.Text(), nullable=True, comment="NULL: the last publish succeeded"
        ),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pushed_commit_id", sa.Text(), nullable=True),
        sa.Column("last_push_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("push_error", sa.Text(), nullable=True),
        sa.Column("push_failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("push_failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("repository_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_publishing_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publishing_state")),
    )
    op.create_table(
        "backups",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("schedule_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "scheduled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the tick's planned time",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="set by the leader soon after the last execution ended",
        ),
        sa.CheckConstraint(
            "trigger IN ('schedule', 'second_round', 'catch_up', 'api', 'command')",
            name=op.f("ck_backups_trigger_known"),
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["backup_schedules.id"],
            name=op.f("fk_backups_schedule_id_backup_schedules"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_backups")),
    )
    op.create_index("ix_backups_created_at", "backups", ["created_at"], unique=False)
    op.create_index(
        "ix_backups_open",
        "backups",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "uq_backups_idempotency",
        "backups",
        ["requested_by", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "uq_backups_tick",
        "backups",
        ["schedule_id", "scheduled_at", sa.literal_column("(trigger = 'second_round')")],
        unique=True,
    )
    op.create_table(
        "configurations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "stable_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 without volatile lines",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("lines_added", sa.Integer(), nullable=False),
        sa.Column("lines_removed", sa.Integer(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was stored: author time in Git",
        ),
        sa.Column("git_commit_id", sa.Text(), nullable=True, comment="NULL: not yet published"),
        sa.Column(
            "thinned_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when its text was emptied",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_configurations_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["configuration_texts.sha256"],
            name=op.f("fk_configurations_sha256_configuration_texts"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_configurations")),
    )
    op.create_index(
        "ix_configurations_device_id",
        "configurations",
        ["device_id", sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index("ix_configurations_sha256", "configurations", ["sha256"], unique=False)
    op.create_index(
        "ix_configurations_unpublished",
        "configurations",
        ["id"],
        unique=False,
        postgresql_where=sa.text("git_commit_id IS NULL"),
    )
    op.create_table(
        "device_paths",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "device_name",
            sa.Text(),
            nullable=False,
            comment="its name at that time, for the messages",
        ),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("git_commit_id", sa.Text(), nullable=True, comment="NULL: not yet published"),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_device_paths_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_paths")),
    )
    op.create_index(
        "ix_device_paths_device_id",
        "device_paths",
        ["device_id", sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "transaction_id",
            sa.BigInteger(),
            server_default=sa.text("(pg_current_xact_id()::text::bigint)"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=True),
        sa.Column("device_id", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('backup_started', 'backup_ended', 'execution_started', 'execution_ended')",
            name=op.f("ck_events_kind_known"),
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_events_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_created_at", "events", ["created_at"], unique=False)
    op.create_table(
        "host_keys",
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("key_type", sa.Text(), nullable=False),
        sa.Column("key_base64", sa.Text(), nullable=False),
        sa.Column(
            "accepted_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("accepted_by", sa.Text(), nullable=False, comment="'first use' or a person"),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_host_keys_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_host_keys")),
    )
    op.create_table(
        "open_executions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("schedule_id", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column(
            "queued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="spread and back-off end here",
        ),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="higher goes first"),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column(
            "accept_shrunk",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="a person says that the configuration really shrank",
        ),
        sa.Column("worker_id", sa.Uuid(), nullable=True, comment="the process that runs it"),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="start of the first try",
        ),
        sa.Column("try_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "deadline_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="end of the present try at most",
        ),
        sa.Column(
            "ran_seconds",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="what earlier tries took, waits excluded",
        ),
        sa.Column(
            "waited_seconds",
            sa.Double(),
            nullable=True,
            comment="from when it was due to its first start; NULL: not started",
        ),
        sa.Column(
            "failed_tries",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
        ),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'running') = (worker_id IS NOT NULL AND deadline_at IS NOT NULL)",
            name=op.f("ck_open_executions_running_has_a_worker"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running')", name=op.f("ck_open_executions_status_known")
        ),
        sa.CheckConstraint(
            "trigger IN ('schedule', 'second_round', 'catch_up', 'api', 'command')",
            name=op.f("ck_open_executions_trigger_known"),
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_open_executions_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_open_executions")),
        postgresql_with={
            "fillfactor": "70",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_threshold": "500",
        },
    )
    op.create_index("ix_open_executions_task_id", "open_executions", ["task_id"], unique=False)
    op.create_index("ix_open_executions_worker_id", "open_executions", ["worker_id"], unique=False)
    op.create_index(
        "uq_open_executions_queued",
        "open_executions",
        ["device_id"],
        unique=True,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "uq_open_executions_running",
        "open_executions",
        ["device_id"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "backup_devices",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_backup_devices_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["backups.task_id"],
            name=op.f("fk_backup_devices_task_id_backups"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_id", "device_id", name=op.f("pk_backup_devices")),
    )
    op.create_index("ix_backup_devices_device_id", "backup_devices", ["device_id"], unique=False)
    op.create_index(
        "ix_backup_devices_execution_id", "backup_devices", ["execution_id"], unique=False
    )
    op.create_table(
        "backup_execution_history",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("schedule_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "config_id",
            sa.BigInteger(),
            nullable=True,
            comment="the version fetched, or the unchanged current one",
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="NULL for success and cancelled"),
        sa.Column(
            "execution_time",
            sa.Double(),
            nullable=True,
            comment="seconds that its tries ran, waits excluded; NULL: it never ran",
        ),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_details", sa.Text(), nullable=True, comment="traceback, redacted"),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=True, comment="NULL: it never ran"
        ),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("config_size", sa.BigInteger(), nullable=True, comment="bytes"),
        sa.Column(
            "git_commit_id",
            sa.Text(),
            nullable=True,
            comment="set when a new version was published; the one later write",
        ),
        sa.Column(
            "extra_info",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="times of the steps, errors of earlier tries, last screen, worker",
        ),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "CASE status WHEN 'timeout' THEN reason IS NOT DISTINCT FROM 'timeout' WHEN 'failed' THEN reason IS NOT NULL AND reason <> 'timeout' ELSE reason IS NULL END",
            name=op.f("ck_backup_execution_reason_fits_status"),
        ),
        sa.CheckConstraint(
            "reason IN ('unreachable', 'refused', 'auth', 'host_key', 'timeout', 'disconnected', 'command', 'empty', 'truncated', 'unsupported', 'storage', 'interrupted', 'guarded', 'internal')",
            name=op.f("ck_backup_execution_reason_known"),
        ),
        sa.CheckConstraint(
            "status IN ('success', 'failed', 'timeout', 'cancelled')",
            name=op.f("ck_backup_execution_status_known"),
        ),
        sa.CheckConstraint(
            "completed_at >= started_at", name=op.f("ck_backup_execution_ends_after_start")
        ),
        sa.CheckConstraint(
            "config_size >= 0", name=op.f("ck_backup_execution_config_size_not_negative")
        ),
        sa.CheckConstraint(
            "execution_time >= 0", name=op.f("ck_backup_execution_execution_time_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["config_id"],
            ["configurations.id"],
            name=op.f("fk_backup_execution_history_config_id_configurations"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_backup_execution_history_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["backup_schedules.id"],
            name=op.f("fk_backup_execution_history_schedule_id_backup_schedules"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", "created_at", name=op.f("pk_backup_execution_history")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index(
        "idx_backup_history_device_time",
        "backup_execution_history",
        ["device_id", sa.literal_column("created_at DESC")],
        unique=False,
        postgresql_include=["status"],
    )
    op.create_index(
        "idx_backup_history_schedule_time",
        "backup_execution_history",
        ["schedule_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "idx_backup_history_status_time",
        "backup_execution_history",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "idx_backup_history_task", "backup_execution_history", ["task_id"], unique=False
    )
    op.create_index(
        "idx_backup_history_time",
        "backup_execution_history",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_include=["status"],
    )
    op.create_table(
        "backup_execution_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("schedule_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "config_id",
            sa.BigInteger(),
            nullable=True,
            comment="the version fetched, or the unchanged current one",
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="NULL for success and cancelled"),
        sa.Column(
            "execution_time",
            sa.Double(),
            nullable=True,
            comment="seconds that its tries ran, waits excluded; NULL: it never ran",
        ),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_details", sa.Text(), nullable=True, comment="traceback, redacted"),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=True, comment="NULL: it never ran"
        ),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("config_size", sa.BigInteger(), nullable=True, comment="bytes"),
        sa.Column(
            "git_commit_id",
            sa.Text(),
            nullable=True,
            comment="set when a new version was published; the one later write",
        ),
        sa.Column(
            "extra_info",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="times of the steps, errors of earlier tries, last screen, worker",
        ),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "CASE status WHEN 'timeout' THEN reason IS NOT DISTINCT FROM 'timeout' WHEN 'failed' THEN reason IS NOT NULL AND reason <> 'timeout' ELSE reason IS NULL END",
            name=op.f("ck_backup_execution_reason_fits_status"),
        ),
        sa.CheckConstraint(
            "reason IN ('unreachable', 'refused', 'auth', 'host_key', 'timeout', 'disconnected', 'command', 'empty', 'truncated', 'unsupported', 'storage', 'interrupted', 'guarded', 'internal')",
            name=op.f("ck_backup_execution_reason_known"),
        ),
        sa.CheckConstraint(
            "status IN ('success', 'failed', 'timeout', 'cancelled')",
            name=op.f("ck_backup_execution_status_known"),
        ),
        sa.CheckConstraint(
            "completed_at >= started_at", name=op.f("ck_backup_execution_ends_after_start")
        ),
        sa.CheckConstraint(
            "config_size >= 0", name=op.f("ck_backup_execution_config_size_not_negative")
        ),
        sa.CheckConstraint(
            "execution_time >= 0", name=op.f("ck_backup_execution_execution_time_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["config_id"],
            ["configurations.id"],
            name=op.f("fk_backup_execution_logs_config_id_configurations"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_backup_execution_logs_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["backup_schedules.id"],
            name=op.f("fk_backup_execution_logs_schedule_id_backup_schedules"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", "created_at", name=op.f("pk_backup_execution_logs")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index(
        "idx_backup_log_device_time",
        "backup_execution_logs",
        ["device_id", sa.literal_column("created_at DESC")],
        unique=False,
        postgresql_include=["status"],
    )
    op.create_index(
        "idx_backup_log_schedule_time",
        "backup_execution_logs",
        ["schedule_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "idx_backup_log_status_time",
        "backup_execution_logs",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index("idx_backup_log_task", "backup_execution_logs", ["task_id"], unique=False)
    op.create_index(
        "idx_backup_log_time",
        "backup_execution_logs",
        [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_include=["status"],
    )
    op.create_table(
        "device_states",
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("last_execution_id", sa.Uuid(), nullable=True),
        sa.Column("last_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "last_end_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="last end of any status",
        ),
        sa.Column(
            "last_status", sa.Text(), nullable=True, comment="of the last end, cancelled included"
        ),
        sa.Column("last_reason", sa.Text(), nullable=True, comment="NULL: not failing"),
        sa.Column("last_error_message", sa.Text(), nullable=True, comment="NULL: not failing"),
        sa.Column("last_duration_seconds", sa.Double(), nullable=True),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "failing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="first failure in a row",
        ),
        sa.Column("last_change_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("consecutive_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("configuration_id", sa.BigInteger(), nullable=True),
        sa.Column("config_size", sa.BigInteger(), nullable=True, comment="bytes"),
        sa.Column("success_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("timeout_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancelled_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("change_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("duration_sum_seconds", sa.Double(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["configuration_id"],
            ["configurations.id"],
            name=op.f("fk_device_states_configuration_id_configurations"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_device_states_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_states")),
        postgresql_with={"fillfactor": "50"},
    )
    op.execute("INSERT INTO publishing_state DEFAULT VALUES")
    ensure_partitions(op.get_bind())
