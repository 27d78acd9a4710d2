import difflib
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from exporter.database import migrations
from exporter.errors import DatabaseProblem
from exporter.models import Base

COLUMNS = """
SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || ' identity=' || a.attidentity::text
    || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    || coalesce(' -- ' || col_description(c.oid, a.attnum), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND {ours}
"""
CONSTRAINTS = """
SELECT c.relname || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE {ours}
"""
INDEXES = "SELECT indexdef FROM pg_indexes JOIN pg_class c ON c.relname = tablename WHERE {ours}"
TABLES = """
SELECT c.relname || ' ' || c.relkind::text
    || ' ' || coalesce(array_to_string(c.reloptions, ','), '')
    || ' ' || coalesce(pg_get_partkeydef(c.oid), '')
FROM pg_class c WHERE c.relkind IN ('r', 'p') AND {ours}
"""
OURS = (
    "c.relnamespace = 'public'::regnamespace AND NOT c.relispartition"
    " AND c.relname NOT LIKE 'procrastinate%' AND c.relname <> 'alembic_version'"
)


def describe(engine: Engine) -> list[str]:
    """Everything that PostgreSQL knows about our tables, a line each."""
    with engine.connect() as connection:
        return sorted(
            line
            for query in (TABLES, COLUMNS, CONSTRAINTS, INDEXES)
            for line in connection.execute(text(query.format(ours=OURS))).scalars()
        )


def unmigrate(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def test_there_is_one_head():
    assert len(migrations.heads()) == 1


def test_migrations_and_models_end_in_the_same_schema(engine):
    migrated = describe(engine)
    unmigrate(engine)
    Base.metadata.create_all(engine)

    assert "\n".join(difflib.unified_diff(describe(engine), migrated, n=0)) == ""
    assert len(migrated) > 300


def test_alembic_finds_nothing_to_generate(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=dict(migrations.COMPARISON))
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_is_current_and_has_its_one_row_of_publishing(engine):
    assert migrations.is_current(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM publishing_state")).scalars().all() == [1]


def test_an_empty_database_is_not_current_until_it_is_migrated(engine):
    unmigrate(engine)
    assert not migrations.is_current(engine)

    migrations.upgrade(engine)

    assert migrations.is_current(engine)


def test_processes_that_migrate_at_once_take_turns(engine):
    unmigrate(engine)

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(migrations.upgrade, engine) for _ in range(4)]

    assert [result.result() for result in results] == [None] * 4
    assert migrations.is_current(engine)


def test_the_schema_of_a_newer_program_is_refused(engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert not migrations.is_current(engine)
    with pytest.raises(DatabaseProblem, match="9999 of a newer program\nhint: install"):
        migrations.upgrade(engine)


def test_a_migration_leaves_no_settings_in_the_pool(engine):
    migrations.upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "1min"


def test_the_queue_of_procrastinate_is_part_of_the_schema(engine):
    tables = sqlalchemy.inspect(engine).get_table_names()

    assert {"procrastinate_jobs", "procrastinate_events", "procrastinate_workers"} <= set(tables)
