"""Alembic's environment; `database.migrations` hands it the connection."""

from typing import Any

from alembic import context

from exporter.models import Base


def _is_ours(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    """Leave out Procrastinate's tables (frozen SQL of theirs) and the monthly partitions."""
    return not (
        kind == "table"
        and name is not None
        and name.startswith(("procrastinate_", "backup_execution_logs_"))
    )


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_object=_is_ours,
    transaction_per_migration=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
