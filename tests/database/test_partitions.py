import threading
import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from exporter.database.engine import create_engine
from exporter.database.history import moving_months
from exporter.database.months import ARCHIVE, move_month
from exporter.database.partitions import (
    ensure_partition_for,
    ensure_partitions,
    existing_partitions,
    months_ahead,
    partition_name,
)

FAR = datetime(2040, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.fixture
def device_id(engine) -> int:
    with engine.begin() as connection:
        identifier: int = connection.execute(
            text(
                "INSERT INTO devices (name, address, platform, driver, vendor, site, zone,"
                " deadline_seconds) VALUES ('core-1', '192.0.2.1', 'ios', 'ios', 'cisco',"
                " 'berlin', 'default', 60) RETURNING id"
            )
        ).scalar_one()
        return identifier


def insert_log(connection: Connection, device_id: int, moment: datetime) -> None:
    connection.execute(
        text(
            "INSERT INTO backup_execution_logs (id, created_at, task_id, device_id, status,"
            " queued_at, completed_at, extra_info, site, platform, zone, trigger)"
            " VALUES (:id, :moment, :id, :device_id, 'cancelled', :moment, :moment, '{}',"
            " 'berlin', 'ios', 'default', 'api')"
        ),
        {"id": uuid.uuid4(), "moment": moment, "device_id": device_id},
    )


def count_logs(engine: Engine) -> int:
    with engine.connect() as connection:
        count: int = connection.execute(
            text("SELECT count(*) FROM backup_execution_logs")
        ).scalar_one()
        return count


def test_a_new_database_has_partitions_for_this_and_three_more_months(engine):
    with engine.connect() as connection:
        names = existing_partitions(connection)
        present = connection.execute(text("SELECT now()")).scalar_one()

    assert len(names) == 4
    assert min(names) == partition_name(present.astimezone(UTC))


def test_missing_months_are_made_and_present_ones_left_alone(engine):
    with engine.begin() as connection:
        made = ensure_partitions(connection, months_ahead=5)
    with engine.begin() as connection:
        assert ensure_partitions(connection, months_ahead=5) == []
        assert len(existing_partitions(connection)) == 6
    assert len(made) == 2


def test_an_insert_that_found_no_partition_works_after_it_was_made(engine, device_id):
    with pytest.raises(IntegrityError, match="no partition"), engine.begin() as connection:
        insert_log(connection, device_id, FAR)

    assert ensure_partition_for(engine, FAR) == ["backup_execution_logs_2040_12"]

    with engine.begin() as connection:
        insert_log(connection, device_id, FAR)
    assert count_logs(engine) == 1


def test_a_moment_of_another_time_zone_belongs_to_the_month_in_utc(engine, device_id):
    moment = datetime.fromisoformat("2041-01-01T00:30:00+02:00")

    assert ensure_partition_for(engine, moment) == ["backup_execution_logs_2040_12"]
    with engine.begin() as connection:
        insert_log(connection, device_id, moment)


def test_many_that_find_it_missing_make_it_once(engine):
    barrier = threading.Barrier(6)
    made: list[list[str]] = []

    def run() -> None:
        barrier.wait()
        made.append(ensure_partition_for(engine, FAR))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(made) == [[]] * 5 + [[partition_name(FAR)]]


def test_a_partition_has_the_indexes_and_rules_of_the_log(engine, device_id):
    ensure_partition_for(engine, FAR)
    with engine.connect() as connection:
        counts = connection.execute(
            text(
                "SELECT (SELECT count(*) FROM pg_index WHERE indrelid = c.oid),"
                " (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid AND contype IN"
                " ('c', 'f', 'p')), reloptions FROM pg_class c"
                " WHERE relname IN ('backup_execution_logs', :partition) ORDER BY relname"
            ),
            {"partition": partition_name(FAR)},
        ).all()

    assert counts[0][:2] == counts[1][:2]
    assert counts[1].reloptions == ["autovacuum_vacuum_insert_scale_factor=0.02"]


def test_a_writer_of_devices_does_not_stop_it_for_ever(engine, device_id):
    writer = engine.connect()
    writer.execute(text("UPDATE devices SET vendor = 'x'"))
    made: list[list[str]] = []
    maker = threading.Thread(target=lambda: made.append(ensure_partition_for(engine, FAR)))

    maker.start()
    with engine.connect() as watcher:
        while not watcher.execute(
            text("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        ).scalar_one():
            watcher.rollback()
    writer.commit()
    maker.join()

    assert made == [[partition_name(FAR)]]
    writer.close()


def test_a_clock_that_went_back_takes_its_month_out_of_the_archive(engine, device_id):
    ensure_partition_for(engine, FAR)
    with engine.begin() as connection:
        insert_log(connection, device_id, FAR)
    with moving_months(engine) as connection:
        move_month(connection, partition_name(FAR), ARCHIVE)
    assert count_logs(engine) == 0

    ensure_partition_for(engine, FAR)

    with engine.begin() as connection:
        insert_log(connection, device_id, FAR)
    assert count_logs(engine) == 2


def test_a_clock_that_jumped_ahead_and_back_leaves_no_gap(engine):
    ensure_partition_for(engine, FAR)

    with engine.begin() as connection:
        ensure_partitions(connection, months_ahead=6)
        assert months_ahead(connection) == 6


def test_a_connection_that_commits_each_statement_makes_the_whole_partition(settings, device_id):
    engine = create_engine(settings.database, application_name="test", is_lean=True)

    assert ensure_partition_for(engine, FAR) == [partition_name(FAR)]

    with engine.begin() as connection:
        insert_log(connection, device_id, FAR)
    engine.dispose()
