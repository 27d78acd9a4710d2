"""Months moved, exported and dropped: under load, and killed at every step."""

import threading
from datetime import UTC, date, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from exporter.database.engine import create_engine
from exporter.database.history import counting, executions_of, months, moving_months
from exporter.database.months import (
    ARCHIVE,
    LOG,
    Month,
    find_month,
    find_months,
    move_month,
    partition_name,
)
from exporter.database.partitions import ensure_partition_for
from exporter.errors import ExportProblem
from exporter.executions.endings import end_running
from exporter.integrity.numbers import mend_numbers, verify_numbers
from exporter.retention import archive, exporting
from exporter.retention.archiving import Action, Step, believed_present, plan
from exporter.settings import HistorySettings
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup

NOW = datetime(2026, 7, 15, tzinfo=UTC)
DEFAULTS = HistorySettings()


def month(text_of_month, parent, *, is_leaving=False):
    return Month(f"{LOG}_{text_of_month}", parent, is_leaving)


def test_a_month_moves_when_its_last_execution_is_older_than_the_hot_period():
    steps = plan([month("2026_05", LOG), month("2026_06", LOG)], NOW, DEFAULTS)

    assert steps == [Step(f"{LOG}_2026_05", Action.MOVE)]


def test_a_month_leaves_when_its_last_execution_is_older_than_the_archive_period():
    found = [month("2025_05", ARCHIVE), month("2025_06", ARCHIVE), month("2024_01", LOG)]

    assert plan(found, NOW, DEFAULTS) == [
        Step(f"{LOG}_2025_05", Action.DROP),
        Step(f"{LOG}_2024_01", Action.DROP),
    ]


@pytest.mark.parametrize(
    "half_way", [month("2026_07", None), month("2026_07", LOG, is_leaving=True)]
)
def test_what_was_left_half_way_is_finished_whatever_its_age(half_way):
    assert plan([half_way], NOW, DEFAULTS) == [Step(half_way.name, Action.MOVE)]


def test_a_clock_that_jumped_ahead_makes_no_month_older():
    jumped = NOW + timedelta(days=900)
    days = [jumped.date(), (jumped - timedelta(days=1)).date(), NOW.date()]

    assert believed_present(jumped, days) == NOW + timedelta(days=7)
    assert believed_present(NOW, [date(2026, 7, d) for d in (15, 14, 13)]) == NOW


@pytest.fixture
def old(engine):
    """The first moment of a month of 300 days ago, with 60 executions; 3 more are of today."""
    moment = row(
        engine, "SELECT date_trunc('month', now() - interval '300 days') AS moment"
    ).moment.astimezone(UTC)
    ensure_partition_for(engine, moment)
    with engine.begin() as connection:
        add_devices(connection, "a", "b")
        connection.execute(
            text("""
                INSERT INTO backup_execution_logs (id, created_at, task_id, device_id, status,
                    reason, execution_time, queued_at, started_at, completed_at, extra_info,
                    error_details, site, platform, zone, trigger, day)
                SELECT gen_random_uuid(), :t + n * interval '1 hour', gen_random_uuid(), d.id,
                    CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'success' END,
                    CASE WHEN n % 3 = 0 THEN 'auth' END, n / 7.0, :t, :t, :t,
                    '{"waited_seconds": 0.25, "é": [1, null]}', CASE WHEN n % 3 = 0 THEN 'tb' END,
                    'berlin', 'ios', 'default', 'schedule', CAST(:t AS date)
                FROM generate_series(1, 30) AS n, devices AS d
            """),
            {"t": moment},
        )
        # The last three days bear the clock out.
        connection.execute(
            text("""
                INSERT INTO backup_execution_logs (id, task_id, device_id, status, queued_at,
                    extra_info, site, platform, zone, trigger, day)
                SELECT gen_random_uuid(), gen_random_uuid(), id, 'cancelled', now(), '{}',
                    'berlin', 'ios', 'default', 'schedule', CURRENT_DATE - n
                FROM generate_series(0, 2) AS n, devices WHERE name = 'a'
            """)
        )
    mend_numbers(engine, verify_numbers(engine))
    return moment


MOVING = HistorySettings(hot_days=30, archive_days=10_000)


def dropping(directory=None):
    return HistorySettings(hot_days=30, archive_days=200, export_directory=directory)


def count_all(engine):
    with counting(engine) as connection:
        return connection.scalar(
            text(f"SELECT count(*) FROM ({executions_of(months(connection))}) AS e")
        )


def where(engine, moment):
    with engine.connect() as connection:
        return find_month(connection, partition_name(moment))


def test_an_old_month_is_in_the_archive_afterwards_with_every_row(engine, old):
    assert archive(engine, MOVING) == {"moved": 1, "exported": 0, "dropped": 0}

    assert where(engine, old).parent == ARCHIVE
    assert row(engine, f"SELECT count(*) AS n FROM {ARCHIVE}").n == 60
    assert archive(engine, MOVING) == {"moved": 0, "exported": 0, "dropped": 0}
    assert verify_numbers(engine) == []


def test_a_month_is_read_back_from_its_file_before_it_is_dropped(engine, old, tmp_path):
    expected = rows(
        engine,
        f"""SELECT CAST(id AS text), status, execution_time, created_at, error_details
            FROM {partition_name(old)} ORDER BY created_at, id""",
    )

    assert archive(engine, dropping(tmp_path / "out"))["dropped"] == 1

    (file,) = (tmp_path / "out").iterdir()
    content = pq.read_table(file)
    names = ["id", "status", "execution_time", "created_at", "error_details"]
    assert [tuple(r[n] for n in names) for r in content.to_pylist()] == [tuple(r) for r in expected]
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"
    assert where(engine, old) is None
    assert row(engine, "SELECT row_count, dropped_at FROM exported_months").row_count == 60
    assert verify_numbers(engine) == []


def test_nothing_is_dropped_whose_file_does_not_say_what_the_rows_say(
    engine, old, tmp_path, monkeypatch
):
    monkeypatch.setattr(exporting, "_read_back", lambda file: (60, "another checksum"))

    with pytest.raises(ExportProblem, match="does not say what the database does"):
        archive(engine, dropping(tmp_path))

    assert count_all(engine) == 63
    assert [file.suffix for file in tmp_path.iterdir()] == [".unfinished"]


def test_a_file_that_was_damaged_since_is_written_anew(engine, old, tmp_path):
    exporting.ensure_exported(engine, partition_name(old), tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")

    assert archive(engine, dropping(tmp_path)) == {"moved": 0, "exported": 1, "dropped": 1}
    assert pq.read_table(file).num_rows == 60


def test_an_export_into_a_place_that_cannot_be_written_drops_nothing(engine, old, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ExportProblem, match="could not be written"):
        archive(engine, dropping(tmp_path / "file" / "out"))

    assert count_all(engine) == 63


class Killed(BaseException):
    """As a kill of the process: nothing after it is run, and the server sees the session end."""


def kill_before_statement(engine, number):
    """Cut the session off before its statement of this number that changes something."""
    seen = 0

    def before(connection, _cursor, statement, _values, _context, _many):
        nonlocal seen
        seen += statement.strip().startswith(
            ("ALTER TABLE", "DROP TABLE", "COMMIT", "INSERT INTO", "UPDATE exported")
        )
        if seen == number:
            connection.connection.dbapi_connection.close()
            connection.invalidate()
            raise Killed

    event.listen(engine, "before_cursor_execute", before)


def test_killed_before_every_statement_the_next_run_finishes(settings, engine, old, tmp_path):
    number = 0
    while where(engine, old) is not None:
        number += 1
        mortal = create_engine(settings.database, application_name="mortal")
        kill_before_statement(mortal, number)
        with pytest.raises((Killed, OperationalError)):
            archive(mortal, dropping(tmp_path))
        mortal.dispose()
        assert count_all(engine) in (63, 3)
    archive(engine, dropping(tmp_path))

    # The detach, the export's record, the sums of the month, the drop, its commit.
    assert number >= 5
    assert row(engine, "SELECT count(*) AS n FROM exported_months").n == 1
    assert pq.read_table(tmp_path / f"{partition_name(old)}.parquet").num_rows == 60
    assert verify_numbers(engine) == []


def test_a_detach_that_was_cut_off_is_finished(engine, old):
    name = partition_name(old)
    reader = engine.connect()
    reader.execute(text(f"SELECT 1 FROM {LOG}"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            connection.execute(text(f"ALTER TABLE {LOG} DETACH PARTITION {name} CONCURRENTLY"))
        connection.invalidate()
    reader.close()
    assert where(engine, old).is_leaving
    assert count_all(engine) == 63

    assert archive(engine, MOVING)["moved"] == 1
    assert where(engine, old) == Month(name, ARCHIVE, False)


def test_a_reader_and_endings_go_on_while_a_month_moves_and_every_count_is_right(engine, old):
    """Acceptance 2 of the history, small: totals never dip, nothing ends twice."""
    totals, ended, done = [], [], threading.Event()

    def end() -> None:
        for _ in range(20):
            trigger_backup(engine, "a")
            assert end_running(engine, claim_next(engine), success(), time_zone="UTC")
            ended.append(1)

    def count() -> None:
        while not done.is_set():
            before = len(ended)
            total = count_all(engine)
            totals.append(63 + before <= total <= 63 + len(ended) + 1)

    def read() -> None:
        while not done.is_set():
            with engine.connect() as connection:
                connection.execute(text("SELECT count(*) FROM devices"))
                done.wait(0.4)

    threads = [threading.Thread(target=work) for work in (end, count, read)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        archive(engine, MOVING)
        with moving_months(engine) as connection:
            move_month(connection, partition_name(old), LOG)
    archive(engine, MOVING)
    threads[0].join()
    done.set()
    for thread in threads[1:]:
        thread.join()

    assert len(totals) > 2
    assert all(totals)
    assert count_all(engine) == 83
    assert verify_numbers(engine) == []


def test_a_month_that_was_moved_by_another_process_in_between_is_left_alone(engine, old):
    with moving_months(engine) as connection:
        move_month(connection, partition_name(old), ARCHIVE)
        move_month(connection, partition_name(old), ARCHIVE)
    with engine.connect() as connection:
        assert [m.parent for m in find_months(connection)].count(ARCHIVE) == 1
