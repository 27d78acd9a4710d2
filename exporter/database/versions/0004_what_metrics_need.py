"""What metrics need: which transaction wrote a row, more of each process, what stores take."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION remember_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.changed_in := pg_current_xact_id()::text::bigint;
            RETURN NEW;
        END
        $$
    """)
    for table in ("devices", "device_states"):
        op.add_column(
            table,
            sa.Column(
                "changed_in",
                sa.BigInteger(),
                server_default="0",
                nullable=False,
                comment="transaction that wrote the row; set by a trigger",
            ),
        )
        op.execute(f"""
            CREATE TRIGGER remember_transaction BEFORE INSERT OR UPDATE ON {table}
            FOR EACH ROW EXECUTE FUNCTION remember_transaction()
        """)
    op.create_index("ix_events_transaction_id", "events", ["transaction_id"])
    for column in (
        sa.Column("failed_statements", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("slow_statements", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "settings_read_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: not a daemon",
        ),
        sa.Column(
            "settings_error",
            sa.Text(),
            nullable=True,
            comment="NULL: the last reload was taken",
        ),
        sa.Column(
            "scheduler_turn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: does not lead",
        ),
    ):
        op.add_column("processes", column)
    op.create_table(
        "stores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "free_bytes",
            sa.BigInteger(),
            nullable=True,
            comment="of its file system; NULL: on another machine",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="of its file system"),
        sa.Column(
            "measured_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stores")),
    )
