"""The reader's role, made by the command, tried against everything that it must not do."""

import uuid

import psycopg2
import pytest
import sqlalchemy
import yaml
from click.testing import CliRunner
from sqlalchemy import make_url, text
from sqlalchemy.exc import DatabaseError, OperationalError

from exporter.cli import cli
from exporter.database import migrations
from exporter.database.reporting import end_long_readers
from tests.fleets import add_devices, rows


@pytest.fixture
def role(superuser_engine):
    """A name of this test's own: roles belong to the whole server."""
    name = f"reader_{uuid.uuid4().hex}"
    yield name
    with superuser_engine.connect() as connection:
        if connection.scalar(text("SELECT to_regrole(:name)"), {"name": name}):
            connection.execute(text(f"DROP OWNED BY {name}"))
            connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def run_reader(role, database_url, superuser_engine, tmp_path):
    """Run `configbackup database reader`; as a superuser unless said otherwise."""
    settings_file = tmp_path / "configbackup.yaml"
    database = {"url": database_url, "reader_role": role, "reader_timeout_seconds": 0.5}
    settings_file.write_text(yaml.safe_dump({"database": database}))
    url_file = tmp_path / "administrator"
    url_file.write_text(superuser_engine.url.render_as_string(hide_password=False))

    def run(*, as_superuser=True):
        arguments = ["--administrator-url-file", str(url_file)] if as_superuser else []
        return CliRunner().invoke(
            cli, ["--settings", str(settings_file), "database", "reader", *arguments]
        )

    return run


@pytest.fixture
def reader(run_reader, database_url):
    """An engine that is logged in as the reader, with what the command printed."""
    result = run_reader()
    assert result.exit_code == 0, (result.output, result.exception)
    engine = engine_of(result, database_url)
    yield engine
    engine.dispose()


def environment_of(result):
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def engine_of(result, database_url):
    environment = environment_of(result)
    url = make_url(database_url).set(
        username=environment["GRAFANA_POSTGRES_USER"],
        password=environment["GRAFANA_POSTGRES_PASSWORD"],
        host=environment["GRAFANA_POSTGRES_HOST"],
        port=int(environment["GRAFANA_POSTGRES_PORT"]),
        database=environment["GRAFANA_POSTGRES_DATABASE"],
    )
    return sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")


def refused(reader, statement):
    """What PostgreSQL answers; the session has lifted its own default of reading only."""
    with reader.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        if statement.startswith("LOCK"):
            connection.exec_driver_sql("BEGIN")
        try:
            connection.exec_driver_sql(statement)
        except DatabaseError as error:
            return str(error.orig)
        finally:
            connection.exec_driver_sql("ROLLBACK")
    return "done"


def test_the_reader_reads_every_view(engine, reader):
    with engine.begin() as connection:
        add_devices(connection, "a")
    assert [r.device for r in rows(reader, "SELECT device FROM reporting.devices")] == ["a"]
    views = rows(engine, "SELECT viewname FROM pg_views WHERE schemaname = 'reporting'")
    for view in views:
        rows(reader, f"SELECT * FROM {view.viewname}")
    assert len(views) > 10


FORBIDDEN = """
SELECT * FROM public.devices
SELECT * FROM public.configuration_texts
SELECT * FROM public.host_keys
SELECT * FROM public.procrastinate_jobs
SELECT * FROM public.alembic_version
SELECT * FROM public.backup_execution_logs
SELECT rolpassword FROM pg_authid
SELECT * FROM pg_statistic
SELECT public.procrastinate_prune_stalled_workers_v1(1)
INSERT INTO reporting.settings (public_url) VALUES ('https://evil.example')
UPDATE reporting.settings SET public_url = 'https://evil.example'
UPDATE reporting.processes SET is_leader = false
DELETE FROM reporting.processes
SELECT * FROM reporting.devices FOR UPDATE
TRUNCATE public.devices
LOCK TABLE public.devices
LOCK TABLE reporting.devices IN EXCLUSIVE MODE
CREATE TABLE reporting.mine (a int)
CREATE TABLE public.mine (a int)
CREATE TEMPORARY TABLE mine (a int)
CREATE SCHEMA mine
CREATE FUNCTION reporting.f() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE OR REPLACE VIEW reporting.settings AS SELECT 1
DROP VIEW reporting.settings
SELECT pg_advisory_lock(1)
SELECT pg_try_advisory_lock(1)
SELECT pg_advisory_xact_lock_shared(1, 1)
SELECT pg_advisory_unlock_all()
SELECT lo_from_bytea(0, 'a')
SELECT lo_import('/etc/passwd')
SELECT pg_logical_emit_message(false, 'a', 'b')
SELECT pg_read_file('/etc/passwd')
SELECT pg_stat_file('/etc/passwd')
COPY (SELECT 1) TO PROGRAM 'true'
COPY (SELECT 1) TO '/tmp/mine'
CREATE EXTENSION dblink
SELECT pg_reload_conf()
ALTER SYSTEM SET work_mem = '1GB'
SET temp_file_limit = -1
ALTER ROLE CURRENT_USER CREATEDB
ALTER ROLE CURRENT_USER CONNECTION LIMIT 1000
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
DO $$ BEGIN PERFORM 1 FROM public.devices; END $$
""".strip().splitlines()

REFUSALS = (
    "permission denied",
    "must be owner",
    "must be superuser",
    "cannot insert",
    "cannot update",
    "cannot delete",
)


def test_the_reader_is_refused_everything_but_reading_its_views(reader):
    answers = {statement: refused(reader, statement) for statement in FORBIDDEN}
    assert {
        statement: answer
        for statement, answer in answers.items()
        if not any(refusal in answer.lower() for refusal in REFUSALS)
    } == {}
    assert len(answers) > 40


def test_the_reader_cannot_end_sessions_of_the_program(engine, reader):
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        assert "permission denied" in refused(reader, f"SELECT pg_terminate_backend({pid})")
        assert "permission denied" in refused(reader, f"SELECT pg_cancel_backend({pid})")


def test_the_reader_sees_nothing_of_what_the_program_asks(engine, reader):
    with engine.connect() as connection:
        connection.execute(text("SELECT 'secret'"))
        found = rows(reader, "SELECT query FROM pg_stat_activity WHERE usename <> current_user")
    assert "secret" not in str(found)


def test_a_session_of_the_reader_begins_read_only(reader):
    with reader.connect() as connection, pytest.raises(DatabaseError, match="read-only"):
        connection.exec_driver_sql("CREATE TABLE a (b int)")


def test_a_long_query_is_cut_off(reader):
    with reader.connect() as connection, pytest.raises(OperationalError, match="timeout"):
        connection.exec_driver_sql("SELECT count(*) FROM generate_series(1, 10000000000)")


def test_a_query_that_lifted_its_limit_is_cut_off_by_the_leader(
    reader, role, engine, make_settings
):
    settings = make_settings(database={"reader_role": role, "reader_timeout_seconds": 0.1}).database
    raw = reader.raw_connection()
    cursor = raw.cursor()
    cursor.execute("SET statement_timeout = 0")
    cursor.execute("SET idle_in_transaction_session_timeout = 0")
    cursor.execute("BEGIN")
    cursor.execute("SELECT pg_sleep(0.3)")

    with engine.begin() as connection:
        assert end_long_readers(connection, settings) == 1

    with pytest.raises(psycopg2.Error, match="terminat"):
        cursor.execute("SELECT 1")
    raw.invalidate()


def test_the_reader_has_a_bounded_number_of_sessions(reader):
    reader.dispose()
    engines = [sqlalchemy.create_engine(reader.url) for _ in range(21)]
    connections = [engine.connect() for engine in engines[:20]]

    with pytest.raises(OperationalError, match="too many connections"):
        engines[20].connect()

    for connection, engine in zip(connections, engines, strict=False):
        connection.close()
        engine.dispose()


def test_rotating_the_password_shuts_the_old_one_out(reader, run_reader, database_url):
    second = engine_of(run_reader(), database_url)
    reader.dispose()

    with pytest.raises(OperationalError, match="password"):
        reader.connect()
    assert rows(second, "SELECT * FROM reporting.settings")
    second.dispose()


def test_the_reader_may_read_views_that_come_later(reader, engine):
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW reporting.settings"))
    migrations.upgrade(engine)
    assert rows(reader, "SELECT * FROM reporting.settings")


def test_the_program_keeps_what_the_reader_lost(reader, engine):
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        connection.execute(text("CREATE TEMPORARY TABLE a (b int) ON COMMIT DROP"))
        add_devices(connection, "a")


def test_without_the_right_to_create_roles_the_command_says_what_helps(run_reader):
    result = run_reader(as_superuser=False)
    assert "--administrator-url-file" in str(result.exception)
    assert "may not create the role" in str(result.exception)


def test_a_role_that_is_more_than_a_reader_is_refused(run_reader, role, superuser_engine):
    with superuser_engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} SUPERUSER"))
    assert "may more than read" in str(run_reader().exception)
