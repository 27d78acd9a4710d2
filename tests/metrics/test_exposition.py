import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text

from exporter.errors import Reason
from exporter.inventory.people import pause_device, purge_device
from exporter.metrics import Exposition
from exporter.settings import Settings
from tests.conftest import MakeSettings
from tests.fleets import add_devices, rows
from tests.metrics.conftest import Samples, Scrape, samples_of, series, total
from tests.metrics.endings import back_up, failure


def execute(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


def add(engine: Engine, *names: str, **columns: object) -> None:
    with engine.begin() as connection:
        add_devices(connection, *names, **columns)


def wait_until(scrape: Scrape, is_so: Callable[[Samples], bool]) -> Samples:
    deadline = time.monotonic() + 5
    while not is_so(samples := scrape()):
        assert time.monotonic() < deadline
    return samples


@contextmanager
def closed_database(superuser: Engine) -> Iterator[None]:
    """Sessions of the test's database are ended, and none is let in."""
    name = superuser.url.database
    elsewhere = create_engine(superuser.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with elsewhere.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS FALSE"))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )
        yield
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS TRUE"))
    elsewhere.dispose()


def test_counters_are_there_with_0_from_the_moment_their_device_is(
    engine: Engine, scrape: Scrape
) -> None:
    assert not series(scrape(), "executions_total")
    add(engine, "a")
    samples = scrape()
    assert len(series(samples, "executions_total", site="berlin", platform="ios")) == 4 * 5
    assert len(series(samples, "execution_failures_total", site="berlin")) == len(Reason)
    assert len(series(samples, "device_executions_total", device="a")) == 4
    assert len(series(samples, "execution_duration_seconds_bucket", platform="ios")) == 4 * 11
    assert total(samples, "executions_total") == 0


def test_a_scrape_shows_what_ended_since_the_last_one(engine: Engine, scrape: Scrape) -> None:
    add(engine, "a", "b")
    scrape()
    back_up(engine, "a")
    back_up(engine, "b", ending=failure())
    samples = scrape()
    assert total(samples, "executions_total", status="success", trigger="api") == 1
    assert total(samples, "execution_failures_total", reason="auth") == 1
    assert total(samples, "execution_duration_seconds_count") == 2
    assert total(samples, "execution_duration_seconds_bucket", status="failed", le="1.0") == 1
    assert total(samples, "device_state", device="a", state="normal") == 1
    assert total(samples, "device_state", device="b", state="abnormal") == 1
    assert series(samples, "device_last_failure_info", device="b")[0]["reason"] == "auth"
    assert not series(samples, "device_last_success_timestamp_seconds", device="b")
    assert total(samples, "exposition_rendered_devices") == 2
    assert total(scrape(), "exposition_rendered_devices") == 0


def test_what_commits_after_a_scrape_that_it_began_before_is_not_missed(
    engine: Engine, scrape: Scrape
) -> None:
    add(engine, "a", "b")
    scrape()
    with engine.begin() as slow:
        slow.execute(text("UPDATE devices SET enabled = FALSE WHERE name = 'a'"))
        execute(engine, "UPDATE devices SET enabled = FALSE WHERE name = 'b'")
        assert total(scrape(), "device_enabled") == 1
        assert total(scrape(), "device_enabled") == 1
    assert total(scrape(), "device_enabled") == 0


def test_time_alone_makes_a_device_stale_and_ends_a_pause(engine: Engine, scrape: Scrape) -> None:
    add(engine, "a", interval_seconds=0.2)
    back_up(engine, "a")
    with engine.begin() as connection:
        until = datetime.now(UTC) + timedelta(seconds=0.4)
        pause_device(connection, "a", until=until, note=None, by="test")
    assert total(scrape(), "device_paused_until_timestamp_seconds") > 0
    samples = wait_until(scrape, lambda s: total(s, "device_state", state="stale") == 1)
    assert total(samples, "device_state") == 1
    assert total(samples, "devices", state="stale") == 1
    wait_until(scrape, lambda s: not series(s, "device_paused_until_timestamp_seconds"))


def test_states_are_those_that_sql_says(engine: Engine, scrape: Scrape) -> None:
    add(engine, "never")
    add(engine, "stale", "normal", "abnormal", interval_seconds=3600)
    back_up(engine, "stale", "normal")
    back_up(engine, "abnormal", ending=failure())
    execute(
        engine,
        "UPDATE device_states SET last_success_at = now() - interval '3 hours' FROM devices"
        " WHERE id = device_id AND name = 'stale'",
    )
    samples = scrape()
    for name in ("never", "stale", "normal", "abnormal"):
        assert total(samples, "device_state", device=name, state=name) == 1
        assert total(samples, "devices", state=name) == 1


def test_no_sum_falls_and_no_series_doubles_whatever_happens_to_devices(
    engine: Engine, scrape: Scrape
) -> None:
    add(engine, "a", "b", "c")
    back_up(engine, "a", "b", "c", "a")
    changes = [
        "UPDATE devices SET name = 'renamed' WHERE name = 'a'",
        "UPDATE devices SET site = 'hamburg' WHERE name = 'renamed'",
        "UPDATE devices SET retired_at = now() WHERE name = 'b'",
        "UPDATE devices SET retired_at = NULL WHERE name = 'b'",
        "UPDATE devices SET retired_at = now()",
        "DO $$ DECLARE name text; BEGIN FOR name IN SELECT relid::regclass FROM"
        " pg_partition_tree('backup_execution_logs') WHERE isleaf LOOP"
        " EXECUTE 'DROP TABLE ' || name; END LOOP; END $$",
    ]
    assert total(scrape(), "executions_total") == 4
    for change in changes:
        execute(engine, change)
        samples = scrape()
        assert total(samples, "executions_total") == 4
        assert total(samples, "execution_duration_seconds_count") == 4
    assert not series(samples, "device_info")


def test_a_purged_device_stays_counted_and_one_of_its_name_begins_with_0(
    engine: Engine, scrape: Scrape
) -> None:
    add(engine, "a")
    scrape()
    back_up(engine, "a", "a")
    with engine.begin() as connection:
        purge_device(connection, "a")
    samples = scrape()
    assert not series(samples, "device_info")
    assert total(samples, "executions_total") == 2
    add(engine, "a", site="hamburg")
    samples = scrape()
    assert [labels["site"] for labels in series(samples, "device_info")] == ["hamburg"]
    assert total(samples, "device_executions_total", device="a") == 0
    assert total(samples, "executions_total") == 2


def test_the_series_of_a_schedule_go_with_it(engine: Engine, scrape: Scrape) -> None:
    execute(
        engine,
        "INSERT INTO backup_schedules (name, interval_seconds, time_zone, selection, missed_ticks)"
        " VALUES ('nightly', 60, 'UTC', '{}', 3)",
    )
    assert total(scrape(), "schedule_missed_ticks_total", schedule="nightly") == 3
    execute(engine, "UPDATE backup_schedules SET retired_at = now()")
    samples = scrape()
    assert not series(samples, "schedule_missed_ticks_total")
    assert total(samples, "schedules") == 0


def test_a_proof_finds_what_was_missed(
    engine: Engine, superuser_engine: Engine, settings: Settings
) -> None:
    add(engine, "a")
    exposition = Exposition(settings.database, proof_seconds=0)

    def scrape() -> Samples:
        return samples_of(exposition.scrape().body.decode())

    wait_until(scrape, lambda s: bool(series(s, "exposition_last_proof_timestamp_seconds")))
    execute(superuser_engine, "ALTER TABLE devices DISABLE TRIGGER remember_transaction")
    execute(superuser_engine, "UPDATE devices SET enabled = FALSE")
    samples = wait_until(scrape, lambda s: total(s, "device_enabled") == 0)
    assert total(samples, "exposition_missed_changes") == 1
    wait_until(scrape, lambda s: total(s, "exposition_missed_changes") == 0)
    exposition.stop()


def test_without_postgresql_the_last_known_is_served_and_what_was_momentary_is_not(
    engine: Engine, superuser_engine: Engine, scrape: Scrape
) -> None:
    add(engine, "a")
    back_up(engine, "a")
    before = scrape()
    assert total(before, "database_up") == 1
    with closed_database(superuser_engine):
        samples = scrape()
    assert total(samples, "database_up") == 0
    lasting = ("device_last_success_timestamp_seconds", "executions_total", "device_state")
    for metric in lasting:
        assert total(samples, metric) == total(before, metric) > 0
    assert series(before, "executions_queued")
    assert not series(samples, "executions_queued")
    assert total(scrape(), "database_up") == 1


def test_a_frozen_postgresql_holds_no_scrape_up(
    make_settings: MakeSettings, frozen_port: int
) -> None:
    url = SecretStr(f"postgresql://nobody@127.0.0.1:{frozen_port}/nothing")
    exposition = Exposition(make_settings(database={"url": url}).database)
    began = time.monotonic()
    with ThreadPoolExecutor(10) as scrapers:
        answers = list(scrapers.map(lambda _: exposition.scrape().body.decode(), range(10)))
    assert time.monotonic() - began < 3
    assert {total(samples_of(answer), "database_up") for answer in answers} == {0}
    # Those who come later do not even wait.
    began = time.monotonic()
    exposition.scrape()
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("number", [1, 70])
def test_sums_agree_with_the_rows_after_any_number_of_executions(
    engine: Engine, scrape: Scrape, number: int
) -> None:
    names = [f"device-{n}" for n in range(number)]
    add(engine, *names)
    scrape()
    back_up(engine, *names[::2])
    back_up(engine, *names[1::2], ending=failure(Reason.REFUSED))
    samples = scrape()
    counted = rows(engine, "SELECT status, count(*) FROM backup_execution_logs GROUP BY status")
    for status, count in counted:
        assert total(samples, "executions_total", status=status) == count
        assert total(samples, "device_executions_total", status=status) == count
