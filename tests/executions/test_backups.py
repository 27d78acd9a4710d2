"""Starting backups: who joins whom, and what is never done twice."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from exporter.backups import cancel_backup, close_ended_backups
from exporter.errors import NothingSelected, UnknownDevice
from exporter.executions.claims import PEOPLES_PRIORITY
from exporter.executions.endings import end_running
from exporter.settings import Selection
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup


@pytest.fixture
def fleet(engine: Engine) -> Engine:
    with engine.begin() as connection:
        add_devices(connection, "a", "b", "c")
    return engine


def test_each_device_gets_one_execution_and_one_job(fleet: Engine) -> None:
    started = trigger_backup(fleet)

    assert (started.queued, started.joined) == (3, 0)
    assert row(fleet, "SELECT count(*) FROM open_executions").count == 3
    assert row(fleet, "SELECT count(*) FROM procrastinate_jobs").count == 3
    assert row(fleet, "SELECT count(DISTINCT execution_id) FROM backup_devices").count == 3


def test_a_device_that_waits_is_joined_and_pulled_forward_by_a_person(fleet: Engine) -> None:
    trigger_backup(fleet, trigger="schedule", spread_seconds=1e6)
    waiting = row(
        fleet,
        "SELECT * FROM open_executions AS e JOIN devices AS d "
        "ON d.id = e.device_id WHERE d.name = 'a'",
    )

    started = trigger_backup(fleet, "a")

    pulled = row(
        fleet,
        "SELECT *, not_before <= now() AS is_due FROM open_executions "
        "WHERE id = (SELECT execution_id FROM backup_devices WHERE task_id = :task_id)",
        task_id=started.task_id,
    )
    assert (started.queued, started.joined) == (0, 1)
    assert (pulled.task_id, pulled.priority, pulled.is_due) == (
        waiting.task_id,
        PEOPLES_PRIORITY,
        True,
    )
    job = row(fleet, "SELECT queue_name FROM procrastinate_jobs WHERE scheduled_at IS NULL")
    assert job.queue_name == "default.people"


def test_a_schedule_joins_without_pulling_forward(fleet: Engine) -> None:
    trigger_backup(fleet, trigger="schedule", spread_seconds=1e6)

    started = trigger_backup(fleet, trigger="schedule")

    assert (started.queued, started.joined) == (0, 3)
    assert row(fleet, "SELECT count(*) FROM open_executions WHERE not_before > now()").count == 3


def test_a_running_execution_is_never_joined(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claim_next(fleet)

    started = trigger_backup(fleet, "a")

    assert (started.queued, started.joined) == (1, 0)


def test_an_unknown_device_starts_nothing(fleet: Engine) -> None:
    with pytest.raises(UnknownDevice, match="'nowhere'"):
        trigger_backup(fleet, "a", "nowhere")

    assert row(fleet, "SELECT count(*) FROM backups").count == 0


def test_a_selection_without_a_device_starts_nothing(fleet: Engine) -> None:
    with pytest.raises(NothingSelected):
        trigger_backup(fleet, selection=Selection(site=["nowhere"]))

    assert row(fleet, "SELECT count(*) FROM backups").count == 0


def test_the_same_idempotency_key_starts_one_backup(fleet: Engine) -> None:
    first = trigger_backup(fleet, "a", idempotency_key="deploy-1")
    second = trigger_backup(fleet, "a", idempotency_key="deploy-1")

    assert second.task_id == first.task_id
    assert (first.is_new, second.is_new) == (True, False)
    assert row(fleet, "SELECT count(*) FROM open_executions").count == 1


def test_two_leaders_fire_a_tick_once(fleet: Engine) -> None:
    with fleet.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO backup_schedules (name, cron, time_zone, selection) "
            "VALUES ('nightly', '0 1 * * *', 'UTC', '{\"all\": true}')"
        )
    schedule_id = row(fleet, "SELECT id FROM backup_schedules").id
    tick = datetime(2026, 11, 24, 1, tzinfo=UTC)

    with ThreadPoolExecutor(2) as threads:
        both = list(
            threads.map(
                lambda _: trigger_backup(
                    fleet, trigger="schedule", schedule_id=schedule_id, scheduled_at=tick
                ),
                range(2),
            )
        )

    assert len({started.task_id for started in both}) == 1
    assert sorted(started.is_new for started in both) == [False, True]


def test_simultaneous_triggers_share_the_executions(fleet: Engine) -> None:
    with ThreadPoolExecutor(6) as threads:
        started = list(threads.map(lambda _: trigger_backup(fleet), range(6)))

    assert sum(each.queued for each in started) == 3
    assert sum(each.joined for each in started) == 15
    assert row(fleet, "SELECT count(*) FROM open_executions").count == 3


def test_cancelling_ends_what_waits_but_for_what_another_backup_wants(fleet: Engine) -> None:
    first = trigger_backup(fleet)
    trigger_backup(fleet, "a")

    cancelled = cancel_backup(fleet, first.task_id, time_zone="UTC")

    assert (cancelled.ended, cancelled.stopping) == (2, 0)
    ended = rows(fleet, "SELECT status, reason, execution_time FROM backup_execution_logs")
    assert [tuple(each) for each in ended] == [("cancelled", None, None)] * 2
    assert row(fleet, "SELECT count(*) FROM open_executions").count == 1
    states = rows(
        fleet,
        "SELECT cancelled_count, consecutive_failures, last_status "
        "FROM device_states ORDER BY device_id",
    )
    assert [tuple(state) for state in states] == [
        (0, 0, None),
        (1, 0, "cancelled"),
        (1, 0, "cancelled"),
    ]


def test_cancelling_marks_what_runs_for_its_worker(fleet: Engine) -> None:
    started = trigger_backup(fleet, "a")
    claimed = claim_next(fleet)

    cancelled = cancel_backup(fleet, started.task_id, time_zone="UTC")

    assert (cancelled.ended, cancelled.stopping) == (0, 1)
    mark = row(
        fleet, "SELECT cancel_requested_at FROM open_executions WHERE id = :id", id=claimed.id
    )
    assert mark.cancel_requested_at is not None


def test_a_backup_ends_with_its_last_execution_joined_ones_included(fleet: Engine) -> None:
    trigger_backup(fleet, "a", trigger="schedule")
    joined = trigger_backup(fleet, "a")
    claimed = claim_next(fleet, uuid.uuid4())
    with fleet.begin() as connection:
        assert close_ended_backups(connection) == 0

    end_running(fleet, claimed, success(), time_zone="UTC")

    with fleet.begin() as connection:
        assert close_ended_backups(connection) == 2
    assert row(fleet, "SELECT ended_at FROM backups WHERE task_id = :id", id=joined.task_id)[0]
