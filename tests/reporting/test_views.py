import re
from pathlib import Path

import pytest
from sqlalchemy import text

from exporter.backups import close_ended_backups
from exporter.database import migrations
from exporter.database.reporting import are_installed, describe_installation, documentation
from exporter.database.reporting.views import VIEWS
from exporter.errors import Reason
from exporter.executions.cancelling import cancel_executions
from exporter.executions.endings import Ending, end_running
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup

PAGE = Path(__file__).parents[2] / "docs" / "reporting.md"


@pytest.fixture
def fleet(engine):
    """a changed twice, b failed twice, c timed out, d was cancelled, e is new."""
    with engine.begin() as connection:
        add_devices(connection, "a", "b", "c", "d", "e", interval_seconds=3600, is_scheduled=True)
    for name, endings in {
        "a": [success(b"one\n"), success(b"two\n")],
        "b": [failed(), failed()],
        "c": [Ending("timeout", Reason.TIMEOUT, "too slow", try_seconds=60)],
    }.items():
        for ending in endings:
            trigger_backup(engine, name)
            assert end_running(engine, claim_next(engine), ending, time_zone="UTC")
    trigger_backup(engine, "d")
    waiting = [r.id for r in rows(engine, "SELECT id FROM open_executions")]
    cancel_executions(engine, waiting, time_zone="UTC")
    with engine.begin() as connection:
        close_ended_backups(connection)
    return engine


def failed():
    return Ending(
        "failed",
        Reason.AUTH,
        "login refused",
        details="SECRET TRACEBACK",
        try_seconds=2,
        extra={"last_screen": "SECRET SCREEN"},
    )


def test_the_page_says_what_the_views_have(engine):
    with engine.connect() as connection:
        assert (
            documentation(connection)
            == PAGE.read_text(encoding="utf-8").split("reporting_page.py`.\n\n")[1]
        )


def test_every_column_in_the_database_is_one_of_the_page_with_its_meaning(engine):
    found = {
        (r.view, r.column): r.meaning
        for r in rows(
            engine,
            """
            SELECT c.relname AS view, a.attname AS column,
                col_description(c.oid, a.attnum) AS meaning
            FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'reporting'::regnamespace AND a.attnum > 0
            """,
        )
    }
    page = PAGE.read_text(encoding="utf-8")
    written = {
        (section.split("\n")[0], column): meaning
        for section in page.split("## reporting.")[1:]
        for column, meaning in re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", section, re.M)
    }
    assert written == found


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_answers_with_and_without_rows(view, engine, request):
    rows(engine, f"SELECT * FROM reporting.{view}")
    request.getfixturevalue("fleet")
    found = rows(engine, f"SELECT * FROM reporting.{view}")
    assert found or view in ("open_executions", "schedules", "schedule_ticks", "processes")
    assert "SECRET" not in str(found)


def test_devices_are_shown_with_their_present(fleet):
    found = rows(fleet, "SELECT * FROM reporting.devices ORDER BY device")
    assert [r.state for r in found] == ["normal", "abnormal", "abnormal", "never", "never"]
    assert [r.success_rate for r in found] == [100, 0, 0, None, None]
    assert [r.total_backups for r in found] == [2, 2, 1, 1, 0]
    assert [r.is_fresh for r in found] == [True, False, False, False, False]
    assert found[0].version_count == 2


def test_failing_devices_say_since_when_and_why(fleet):
    b, c = rows(fleet, "SELECT * FROM reporting.failing_devices ORDER BY device")
    assert (b.consecutive_failures, b.failures_7d, b.last_reason) == (2, 2, "auth")
    assert (b.last_error_message, c.last_reason) == ("login refused", "timeout")
    assert b.failing_since < b.last_failure_at


def test_a_day_is_counted_by_site_and_platform_alike_in_every_view(fleet):
    (day,) = rows(fleet, "SELECT * FROM reporting.daily_statistics")
    (total,) = rows(fleet, "SELECT * FROM reporting.daily_totals")
    assert (day.total, day.success, day.failed, day.timeout, day.cancelled) == (6, 2, 2, 1, 1)
    assert day.success_rate == 40
    assert day.avg_execution_time == pytest.approx((1.5 * 2 + 2 * 2 + 60) / 5)
    assert (total.total, total.success_rate) == (6, 40)
    by_device = row(
        fleet,
        """SELECT sum(total) AS total, sum(success) AS success, min(date) AS date
           FROM reporting.device_days""",
    )
    assert (by_device.total, by_device.success, by_device.date) == (6, 2, day.date)


def test_executions_of_archive_and_hot_period_are_one(fleet):
    move_log_to_archive(fleet)
    trigger_backup(fleet, "a")
    end_running(fleet, claim_next(fleet), success(b"three\n"), time_zone="UTC")

    found = rows(fleet, "SELECT * FROM reporting.executions ORDER BY created_at")

    assert [r.device for r in found] == ["a", "a", "b", "b", "c", "d", "a"]
    assert found[0].waited_seconds >= 0
    assert len({r.id for r in found}) == 7


def move_log_to_archive(engine):
    with engine.begin() as connection:
        (name,) = connection.scalars(
            text("SELECT DISTINCT tableoid::regclass::text FROM backup_execution_logs")
        )
        (bounds,) = connection.scalars(
            text("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = :name"),
            {"name": name},
        )
        for statement in (
            f"ALTER TABLE backup_execution_logs DETACH PARTITION {name}",
            f"ALTER TABLE {name} RENAME TO archived",
            f"ALTER TABLE backup_execution_history ATTACH PARTITION archived {bounds}",
        ):
            connection.execute(text(statement))


def test_a_change_leads_to_the_version_before(fleet):
    first, second = rows(fleet, "SELECT * FROM reporting.configuration_changes ORDER BY id")
    assert (first.previous_id, second.previous_id) == (None, first.id)
    assert (first.is_current, second.is_current) == (False, True)
    assert (second.device, second.requested_by) == ("a", "test")


def test_a_backup_is_counted_when_it_ended(fleet):
    found = rows(fleet, "SELECT * FROM reporting.backups ORDER BY created_at")
    counts = [(r.devices, r.success, r.failed, r.timeout, r.cancelled) for r in found]
    assert counts == [
        (1, 1, 0, 0, 0),
        (1, 1, 0, 0, 0),
        (1, 0, 1, 0, 0),
        (1, 0, 1, 0, 0),
        (1, 0, 0, 1, 0),
        (1, 0, 0, 0, 1),
    ]
    started = trigger_backup(fleet)
    last = row(fleet, "SELECT * FROM reporting.backups WHERE ended_at IS NULL")
    assert (last.task_id, last.devices, last.success) == (started.task_id, 5, None)


def test_the_settings_say_where_our_pages_are(engine, make_settings):
    settings = make_settings(
        http={"public_url": "https://backup.example/"}, time_zone="Asia/Shanghai"
    )
    with engine.begin() as connection:
        describe_installation(connection, settings)
    found = row(engine, "SELECT * FROM reporting.settings")
    assert (found.public_url, found.time_zone) == ("https://backup.example", "Asia/Shanghai")
    assert (found.healthy_from, found.fair_from) == (95, 80)


def test_every_reason_has_its_action(engine):
    found = {r.reason: r.action for r in rows(engine, "SELECT * FROM reporting.reasons")}
    assert set(found) == set(Reason)
    assert "trust DEVICE" in found["host_key"]


def test_views_that_changed_are_written_again_and_kept_ones_keep_their_dependents(engine):
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW reporting.settings"))
        connection.execute(text("CREATE VIEW reporting.settings AS SELECT 1 AS other"))
        connection.execute(text("CREATE VIEW reporting.gone AS SELECT 1 AS one"))
        connection.execute(text("CREATE VIEW mine AS SELECT device FROM reporting.devices"))
        assert not are_installed(connection)
    assert not migrations.is_current(engine)

    migrations.upgrade(engine)

    assert migrations.is_current(engine)
    assert rows(engine, "SELECT public_url FROM reporting.settings")
    assert rows(engine, "SELECT * FROM mine") == []
