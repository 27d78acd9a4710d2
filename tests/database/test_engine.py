import socket

import psycopg
import pytest
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy import text

from exporter.database.engine import (
    create_engine,
    database_errors,
    database_url,
    psycopg_conninfo,
    require_supported,
)
from exporter.errors import DatabaseProblem
from exporter.settings import DatabaseSettings

PASSWORD = "s3cret"


def settings_for(url: str, **keys: object) -> DatabaseSettings:
    return DatabaseSettings(url=SecretStr(url), **keys)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_a_url_means_psycopg2(scheme):
    url = database_url(settings_for(f"{scheme}://user:{PASSWORD}@host:5433/name?sslmode=require"))

    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.host, url.port, url.database) == ("user", "host", 5433, "name")
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize("url", ["sqlite:///file", f"postgresql//user:{PASSWORD}@host/name", ""])
def test_what_is_no_url_of_postgresql_is_refused_without_showing_it(url):
    with pytest.raises(DatabaseProblem, match=r"database\.url is neither") as raised:
        database_url(settings_for(url))

    assert PASSWORD not in str(raised.value)


def test_sessions_are_in_utc_and_every_wait_has_a_limit(make_settings):
    settings = make_settings(
        database={"statement_timeout_seconds": 7, "lock_timeout_seconds": 2.5}
    ).database
    engine = create_engine(settings, application_name="limits")
    names = (
        "timezone",
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "application_name",
    )

    with engine.connect() as connection:
        shown = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    assert shown == ["UTC", "7s", "2500ms", "1min", "limits"]
    engine.dispose()


def test_psycopg_3_reaches_the_same_database_with_the_same_limits(settings):
    conninfo = psycopg_conninfo(settings.database, application_name="queue")

    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT current_database(), current_setting('timezone'),"
            " current_setting('lock_timeout'), current_setting('application_name')"
        ).fetchone()

    assert row == (database_url(settings.database).database, "UTC", "10s", "queue")


def test_options_of_the_url_are_kept(database_url, make_settings):
    url = sqlalchemy.make_url(database_url).update_query_dict({"options": "-c work_mem=3MB"})
    settings = make_settings(database={"url": SecretStr(url.render_as_string(False))})
    engine = create_engine(settings.database, application_name="options")

    with engine.connect() as connection:
        assert connection.execute(text("SHOW work_mem")).scalar_one() == "3MB"
        assert connection.execute(text("SHOW timezone")).scalar_one() == "UTC"
    engine.dispose()


def test_the_pool_is_bounded_and_says_so(make_settings):
    settings = make_settings(database={"pool_size": 2, "pool_timeout_seconds": 0.1})
    engine = create_engine(settings.database, application_name="pool")

    complaint = pytest.raises(DatabaseProblem, match=r"hint: .*pool_size")
    with engine.connect(), engine.connect(), complaint, database_errors():
        engine.connect()
    engine.dispose()


def test_a_connection_that_broke_in_the_pool_is_replaced(engine, superuser_engine):
    with engine.connect() as connection:
        before = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with superuser_engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before})

    with engine.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != before


def test_a_server_that_is_away_is_a_problem_that_names_no_password(free_port):
    url = f"postgresql://user:{PASSWORD}@127.0.0.1:{free_port}/name"
    engine = create_engine(settings_for(url), application_name="away")

    with pytest.raises(DatabaseProblem, match="Connection refused") as raised, database_errors():
        engine.connect()

    assert PASSWORD not in str(raised.value)


def test_a_wrong_password_is_a_problem_that_does_not_show_it(settings):
    url = database_url(settings.database).set(password=PASSWORD).render_as_string(False)
    engine = create_engine(settings_for(url), application_name="wrong")

    with pytest.raises(DatabaseProblem, match="authentication failed") as raised, database_errors():
        engine.connect()

    assert PASSWORD not in str(raised.value)


def test_a_silent_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://user@127.0.0.1:{port}/name?connect_timeout=2"
        engine = create_engine(settings_for(url), application_name="silent")

        with pytest.raises(DatabaseProblem, match="timeout expired"), database_errors():
            engine.connect()


def test_values_of_a_failing_statement_are_not_in_its_error(engine):
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError) as raised:
        connection.execute(text("SELECT :value / 0"), {"value": PASSWORD})

    assert PASSWORD not in str(raised.value).split("parameters hidden")[-1]


@pytest.mark.parametrize("version", [90_624, 130_022])
def test_a_server_older_than_14_is_refused(version):
    with pytest.raises(DatabaseProblem, match="expected 14 or newer"):
        require_supported(version)


@pytest.mark.parametrize("version", [140_000, 180_006])
def test_a_server_from_14_on_is_accepted(version):
    require_supported(version)
