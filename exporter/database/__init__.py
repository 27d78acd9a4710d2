"""PostgreSQL: the embedded server, the engine and its pool, migrations and partitions."""
