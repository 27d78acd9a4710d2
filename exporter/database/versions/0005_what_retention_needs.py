"""What retention needs: how the night's duties went, what was exported, vacuum of hot tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "maintenance_runs",
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: it runs, or was cut off",
        ),
        sa.Column(
            "succeeded_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="end of the last that did",
        ),
        sa.Column("error", sa.Text(), nullable=True, comment="NULL: the last that ended succeeded"),
        sa.Column(
            "counts",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="what the last that succeeded did",
        ),
        sa.Column(
            "done_until",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="time (UTC) up to which each part of it is done",
        ),
        sa.PrimaryKeyConstraint("duty", name=op.f("pk_maintenance_runs")),
    )
    op.create_table(
        "exported_months",
        sa.Column("name", sa.Text(), nullable=False, comment="of the month's table"),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column(
            "checksum",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of the rows' values, in order",
        ),
        sa.Column("file_sha256", sa.Text(), nullable=False),
        sa.Column(
            "exported_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_exported_months")),
    )
    # Every job is inserted, updated and deleted within minutes: a fleet's tick leaves three dead
    # rows a device, and the search for the next job reads over them until they are vacuumed.
    op.execute("""
        ALTER TABLE procrastinate_jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,
            autovacuum_vacuum_threshold = 500)
    """)
    # Every backup of a device rewrites its row; without this a fifth of them must be dead first.
    op.execute("""
        ALTER TABLE device_states SET (autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_threshold = 500)
    """)
    # Deleted from their oldest end each night, and appended to all day.
    op.execute("ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.05)")
