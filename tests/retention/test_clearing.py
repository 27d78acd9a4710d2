"""What is deleted and emptied by its age, and which versions thin out."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
import yaml
from sqlalchemy import text

from exporter.database.partitions import ensure_partition_for
from exporter.executions.endings import end_running
from exporter.integrity.numbers import verify_numbers
from exporter.publishing import Publisher
from exporter.retention import clear, plan_archive, retain_nightly, thin
from exporter.retention import clearing as clearing_module
from exporter.settings import HistorySettings
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup


def execute(engine, sql, **values):
    with engine.begin() as connection:
        connection.execute(text(sql), values)


def end(engine, content=b"a", **fields):
    trigger_backup(engine, "a")
    assert end_running(engine, claim_next(engine), success(content, **fields), time_zone="UTC")


@pytest.fixture
def device(engine):
    with engine.begin() as connection:
        add_devices(connection, "a")


def test_events_go_after_their_days_in_batches(engine, device, monkeypatch):
    monkeypatch.setattr(clearing_module, "_BATCH", 2)
    for _ in range(3):
        end(engine)
    old = row(engine, "SELECT count(*) AS number FROM events").number
    execute(engine, "UPDATE events SET created_at = now() - interval '8 days'")
    end(engine)
    new = row(engine, "SELECT count(*) AS number FROM events").number - old

    assert clear(engine, HistorySettings())["events"] == old
    assert row(engine, "SELECT count(*) AS number FROM events").number == new


def test_an_ended_backup_goes_and_its_executions_stay(engine, device):
    end(engine)
    execute(
        engine,
        "UPDATE backups SET created_at = now() - interval '500 days', ended_at = now(),"
        " device_count = 1",
    )
    trigger_backup(engine, "a")
    execute(engine, "UPDATE backups SET created_at = created_at - interval '401 days'")

    cleared = clear(engine, HistorySettings())

    assert (cleared["backups"], cleared["backup_devices"]) == (1, 1)
    # The one that has not ended stays, however old it is.
    assert row(engine, "SELECT count(*) AS number FROM backups").number == 1
    assert row(engine, "SELECT count(*) AS number FROM backup_execution_logs").number == 1


def test_details_are_emptied_once_old_and_every_number_stays_right(engine, device, monkeypatch):
    monkeypatch.setattr(clearing_module, "_BATCH", 1)
    for _ in range(3):
        end(engine, details="traceback", extra={"last_screen": "x"})
    moment = row(engine, "SELECT now() - interval '100 days' AS moment").moment
    ensure_partition_for(engine, moment.astimezone(UTC))
    execute(
        engine,
        "UPDATE backup_execution_logs SET created_at = now() - interval '100 days'"
        " WHERE id IN (SELECT id FROM backup_execution_logs ORDER BY created_at LIMIT 2)",
    )

    settings = HistorySettings(extra_info_days=99)
    cleared = clear(engine, settings)

    assert (cleared["error_details"], cleared["extra_info"]) == (2, 2)
    kept = rows(
        engine,
        "SELECT error_details, extra_info FROM backup_execution_logs ORDER BY created_at",
    )
    assert [(k.error_details, sorted(k.extra_info)) for k in kept[:2]] == [
        (None, ["waited_seconds"])
    ] * 2
    assert kept[2].error_details == "traceback"
    assert "last_screen" in kept[2].extra_info
    assert clear(engine, settings)["error_details"] == 0
    assert {d.table for d in verify_numbers(engine)} <= {"device_states"}


@pytest.fixture
def versions(engine, settings, device):
    """Six published versions: two in each of three weeks long ago; the fourth is the second."""
    for content in (b"1", b"2", b"3", b"2", b"5", b"6"):
        end(engine, content)
    Publisher(engine, settings.git, lambda: None).publish()
    execute(
        engine,
        """
        UPDATE configurations SET created_at = date_trunc('week', now() - interval '500 days')
            + (id - 1) / 2 * interval '7 days' + id * interval '1 hour'
        """,
    )


def texts(engine):
    return [
        r.has_text
        for r in rows(
            engine,
            """
            SELECT compressed IS NOT NULL AS has_text FROM configurations AS c
            JOIN configuration_texts USING (sha256) ORDER BY c.id
            """,
        )
    ]


def test_first_newest_and_one_a_week_keep_their_text_and_what_they_share(engine, versions):
    assert thin(engine, HistorySettings()) == {"versions": 2}

    assert texts(engine) == [True, True, False, True, False, True]
    assert [
        r.id
        for r in rows(
            engine,
            "SELECT id FROM configurations WHERE thinned_at > now()"
            " - interval '1 minute' ORDER BY id",
        )
    ] == [3, 5]
    assert thin(engine, HistorySettings()) == {"versions": 0}


@pytest.mark.parametrize(
    ("change", "days"),
    [
        ("UPDATE configurations SET git_commit_id = NULL", 365),
        ("UPDATE configurations SET created_at = now() - interval '10 days'", 365),
        ("UPDATE configuration_texts SET is_damaged = TRUE", 365),
        ("SELECT 1", None),
    ],
    ids=["not in Git", "young", "damaged", "switched off"],
)
def test_no_text_goes_that_is(engine, versions, change, days):
    execute(engine, change)

    assert thin(engine, HistorySettings(all_versions_days=days)) == {"versions": 0}
    assert all(texts(engine))


def test_a_text_that_is_stored_anew_while_it_would_go_stays(engine, versions):
    trigger_backup(engine, "a")
    running = claim_next(engine)
    storing = engine.connect()
    # As an ending does, which then takes its time before the commit.
    storing.execute(
        text("""
            INSERT INTO configuration_texts AS t (sha256, compressed)
            SELECT sha256, compressed FROM configurations JOIN configuration_texts USING (sha256)
            WHERE id = 3
            ON CONFLICT (sha256) DO UPDATE SET compressed = excluded.compressed
                WHERE t.compressed IS NULL
        """)
    )
    thinning = threading.Thread(target=thin, args=(engine, HistorySettings()))
    thinning.start()
    with engine.connect() as watcher:
        while not watcher.scalar(text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")):
            watcher.rollback()
    storing.execute(
        text("""
            INSERT INTO configurations (device_id, sha256, stable_hash, size_bytes, lines_added,
                lines_removed, execution_id, task_id, trigger)
            SELECT device_id, sha256, stable_hash, size_bytes, 0, 0, :id, task_id, trigger
            FROM configurations WHERE id = 3
        """),
        {"id": running.id},
    )
    storing.commit()
    storing.close()
    thinning.join()

    assert texts(engine)[2] is True


def test_the_night_records_each_duty_once(engine, settings, versions):
    retain_nightly(engine, settings)
    retain_nightly(engine, settings)

    runs = rows(engine, "SELECT * FROM maintenance_runs ORDER BY duty")
    assert [(r.duty, r.error, r.succeeded_at is not None) for r in runs] == [
        ("archive", None, True),
        ("clear", None, True),
        ("thin", None, True),
    ]
    assert runs[2].counts == {"versions": 2}


def test_a_duty_that_fails_is_recorded_and_the_others_go_on(engine, settings, versions):
    execute(engine, "ALTER TABLE exported_months RENAME TO gone")
    execute(engine, "ALTER TABLE events RENAME TO gone_too")

    with pytest.raises(Exception, match="events"):
        retain_nightly(engine, settings)

    runs = {r.duty: r for r in rows(engine, "SELECT * FROM maintenance_runs")}
    assert "events" in runs["clear"].error
    assert runs["thin"].succeeded_at is not None


def test_what_if_shows_the_months_and_changes_nothing(engine, database_url, tmp_path):
    ensure_partition_for(engine, datetime(2020, 5, 1, tzinfo=UTC))
    file = tmp_path / "configbackup.yaml"
    file.write_text(yaml.safe_dump({"database": {"url": database_url}}))

    program = [sys.executable, "-c", "from exporter.cli import main; main()"]

    def run(*arguments):
        return subprocess.run(
            [*program, "--settings", str(file), "history", "archive", "--json", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    steps = [{"month": "backup_execution_logs_2020_05", "action": "drop"}]
    assert json.loads(run("--dry-run")) == steps
    assert json.loads(run()) == steps
    with engine.connect() as connection:
        assert plan_archive(connection, HistorySettings()) == []
    assert row(engine, "SELECT counts FROM maintenance_runs").counts["dropped"] == 1
