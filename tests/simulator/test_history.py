"""The past that the demo writes: plausible, and right to the unit."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from exporter.executions.endings import end_running
from exporter.integrity.configurations import verify_configurations
from exporter.integrity.numbers import verify_numbers
from exporter.publishing import Publisher
from exporter.simulator.history import HistoryExists, Past, fill_history
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup

SITES = ("berlin", "oslo", "rome")


@pytest.fixture
def past(engine):
    with engine.begin() as connection:
        for site in SITES:
            names = [f"{site}-{number}" for number in range(20)]
            add_devices(connection, *names, site=site, interval_seconds=86400, is_scheduled=True)
        connection.execute(
            text("""
                INSERT INTO backup_schedules (name, cron, time_zone, selection)
                VALUES ('nightly', '0 1 * * *', 'UTC', '{"all": true}')
            """)
        )
    return Past(
        span=timedelta(days=70), executions=20_000, time_zone="Asia/Shanghai", config_bytes=3_000
    )


def test_every_number_of_the_past_is_right_and_it_goes_on(engine, settings, past):
    written = fill_history(engine, past)

    assert verify_numbers(engine) == []
    assert written == pytest.approx(20_000, rel=0.05)
    trigger_backup(engine, "oslo-1")
    assert end_running(engine, claim_next(engine), success(), time_zone="Asia/Shanghai")
    assert verify_numbers(engine) == []


def test_the_past_has_what_dashboards_are_to_show(engine, past):
    fill_history(engine, past)

    days = rows(engine, "SELECT * FROM reporting.daily_totals ORDER BY date")
    assert len(days) >= 70
    assert days[-5].total > 1.3 * days[3].total  # the fleet grew
    assert min(day.success_rate for day in days) < 90 < sorted(d.success_rate for d in days)[35]
    causes = {r.reason for r in rows(engine, "SELECT DISTINCT reason FROM reporting.executions")}
    assert {None, "timeout", "unreachable", "auth", "disconnected"} <= causes
    cut_off = row(
        engine,
        """SELECT site, count(*) AS devices FROM reporting.executions
           WHERE reason = 'unreachable' GROUP BY site ORDER BY count(*) DESC LIMIT 1""",
    )
    assert cut_off.site == "berlin"
    changes = rows(engine, "SELECT * FROM reporting.configuration_changes")
    assert len(changes) > 2 * 60
    assert all(change.lines_added for change in changes)


def test_versions_of_the_past_are_published_in_their_order(engine, settings, past):
    fill_history(engine, past)
    publisher = Publisher(engine, settings.git, lambda: None)
    while publisher.publish():
        pass

    assert rows(engine, "SELECT FROM configurations WHERE git_commit_id IS NULL") == []
    assert verify_configurations(engine, settings.git).damages == []


def test_a_past_is_written_once(engine, past):
    fill_history(engine, past)

    with pytest.raises(HistoryExists):
        fill_history(engine, past)
