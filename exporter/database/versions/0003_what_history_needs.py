"""What verifying and reporting need: the day of an execution, remainders, counts of backups."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("public_url", sa.Text(), server_default="", nullable=False),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column(
            "integrity_checked_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when statistics, states and counters were last recomputed",
        ),
        sa.Column(
            "integrity_differences",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="that the last check found",
        ),
        sa.Column(
            "damaged_configurations",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="stored versions that no copy could heal",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "remaining_counters",
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="empty: none"),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("retry_sum", sa.BigInteger(), nullable=False),
        sa.Column("duration_sum_seconds", sa.Double(), nullable=False),
        sa.Column("duration_buckets", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("wait_sum_seconds", sa.Double(), nullable=False),
        sa.Column("wait_buckets", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint(
            "site", "platform", "status", "reason", "trigger", name=op.f("pk_remaining_counters")
        ),
    )
    op.create_table(
        "remaining_statistics",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("timed_count", sa.BigInteger(), nullable=False),
        sa.Column("duration_sum_seconds", sa.Double(), nullable=False),
        sa.Column("size_sum_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "site", "platform", "status", name=op.f("pk_remaining_statistics")
        ),
    )
    op.create_table(
        "remaining_devices",
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("success_count", sa.BigInteger(), nullable=False),
        sa.Column("failed_count", sa.BigInteger(), nullable=False),
        sa.Column("timeout_count", sa.BigInteger(), nullable=False),
        sa.Column("cancelled_count", sa.BigInteger(), nullable=False),
        sa.Column("duration_sum_seconds", sa.Double(), nullable=False),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "failing_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="as of the last dropped row",
        ),
        sa.Column(
            "consecutive_failures",
            sa.Integer(),
            nullable=False,
            comment="as of the last dropped row",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.id"],
            name=op.f("fk_remaining_devices_device_id_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_remaining_devices")),
    )
    op.add_column(
        "backup_execution_history",
        sa.Column(
            "day",
            sa.Date(),
            server_default=sa.text("CURRENT_DATE"),
            nullable=False,
            comment="that it is counted under in daily_statistics: of the time zone then configured",
        ),
    )
    op.add_column(
        "backup_execution_logs",
        sa.Column(
            "day",
            sa.Date(),
            server_default=sa.text("CURRENT_DATE"),
            nullable=False,
            comment="that it is counted under in daily_statistics: of the time zone then configured",
        ),
    )
    op.add_column("backups", sa.Column("device_count", sa.Integer(), nullable=True))
    op.add_column("backups", sa.Column("success_count", sa.Integer(), nullable=True))
    op.add_column("backups", sa.Column("failed_count", sa.Integer(), nullable=True))
    op.add_column("backups", sa.Column("timeout_count", sa.Integer(), nullable=True))
    op.add_column("backups", sa.Column("cancelled_count", sa.Integer(), nullable=True))
    op.add_column(
        "configuration_texts",
        sa.Column(
            "verified_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it was last read again and its hash found right; NULL: never",
        ),
    )
    op.add_column(
        "configuration_texts",
        sa.Column(
            "is_damaged",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="no copy was whole when it was last checked",
        ),
    )
    op.create_index(
        "ix_configuration_texts_verified_at",
        "configuration_texts",
        [sa.literal_column("verified_at NULLS FIRST")],
        unique=False,
        postgresql_where=sa.text("compressed IS NOT NULL"),
    )
    op.execute("INSERT INTO installation DEFAULT VALUES")
    # The zone of the newest statistics; where it never changed every day is exact.
    for log in ("backup_execution_logs", "backup_execution_history"):
        op.execute(f"""
            UPDATE {log} SET day = CAST(created_at AT TIME ZONE coalesce(
                (SELECT time_zone FROM daily_statistics ORDER BY day DESC LIMIT 1), 'UTC') AS date)
        """)
