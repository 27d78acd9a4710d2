"""Alembic's environment; `database.migrations` hands it the connection."""

from alembic import context

from exporter.database.migrations import COMPARISON
from exporter.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=True,
    **COMPARISON,
)
with context.begin_transaction():
    context.run_migrations()
