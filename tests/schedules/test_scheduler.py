"""Ticks fire once, are caught up once, and get a second round for what may do better."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from exporter.backups import BackupRequest, StartedBackup, start_backup
from exporter.errors import LeadershipLost
from exporter.models import (
    Backup,
    BackupDevice,
    BackupExecutionLog,
    BackupSchedule,
    Device,
    DeviceState,
    OpenExecution,
)
from exporter.scheduler import Scheduler, due_ticks
from exporter.schedules import Timing, next_ticks, pause_schedule, synchronise_schedules
from exporter.settings import Settings
from tests.fleets import add_devices
from tests.schedules.rows import schedule_named

MakeSettings = Callable[..., Settings]
EVERY_10_MINUTES = {"name": "often", "every_seconds": 600}


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self, connection: Connection) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(engine: Engine, clock: Clock) -> Scheduler:
    return Scheduler(engine, lambda: None, start_backup=start_backup, clock=clock)


@pytest.fixture
def schedule(engine: Engine, make_settings: MakeSettings) -> Callable[..., datetime]:
    """Write one schedule for the devices a and b; returns its next tick."""

    def write(**values: Any) -> datetime:
        with engine.begin() as connection:
            add_devices(connection, "a", "b")
            settings = make_settings(schedules=[{**EVERY_10_MINUTES, **values}])
            synchronise_schedules(connection, settings)
            tick: datetime = schedule_named(connection, "often").next_tick_at
            return tick

    return write


def backups(engine: Engine) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(
            connection.execute(select(Backup.__table__).order_by(Backup.created_at, Backup.trigger))
        )


def row(engine: Engine) -> Row[Any]:
    with engine.connect() as connection:
        return schedule_named(connection, "often")


def end_executions(engine: Engine, **outcomes: tuple[str, str | None]) -> None:
    """End what waits as its device's (status, reason); success where none is given."""
    with engine.begin() as connection:
        open_rows = connection.execute(
            select(OpenExecution.__table__, Device.name).join(
                Device, Device.id == OpenExecution.device_id
            )
        ).all()
        connection.execute(delete(OpenExecution))
        for execution in open_rows:
            status, reason = outcomes.get(execution.name, ("success", None))
            connection.execute(
                insert(BackupExecutionLog).values(
                    id=execution.id,
                    task_id=execution.task_id,
                    device_id=execution.device_id,
                    status=status,
                    reason=reason,
                    queued_at=execution.queued_at,
                    extra_info={},
                    site="s",
                    platform="ios",
                    zone="z",
                    trigger=execution.trigger,
                )
            )
            connection.execute(
                update(DeviceState)
                .where(DeviceState.device_id == execution.device_id)
                .values(failing_since=func.now() if reason else None)
            )


def test_a_tick_fires_when_it_is_due_and_only_once(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = schedule(spread_seconds=60)
    clock.now = tick - timedelta(seconds=1)
    assert scheduler.turn() == 0

    clock.now = tick + timedelta(seconds=1)
    assert scheduler.turn() == 1
    assert scheduler.turn() == 0

    [backup] = backups(engine)
    assert (backup.trigger, backup.scheduled_at) == ("schedule", tick)
    assert backup.requested_by == "schedule often"
    standing = row(engine)
    assert (standing.last_tick_at, standing.next_tick_at) == (tick, tick + timedelta(seconds=600))
    assert standing.missed_ticks == 0
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(BackupDevice)) == 2


def test_missed_ticks_are_caught_up_once_and_counted(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = schedule()
    clock.now = tick + timedelta(minutes=35)

    assert scheduler.turn() == 1

    [backup] = backups(engine)
    assert (backup.trigger, backup.scheduled_at) == ("catch_up", tick + timedelta(minutes=30))
    assert backup.comment.startswith("3 earlier ticks were missed since 20")
    assert row(engine).missed_ticks == 3
    assert row(engine).next_tick_at == tick + timedelta(minutes=40)


def test_a_tick_on_time_counts_what_was_missed_before_it(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = schedule()
    clock.now = tick + timedelta(minutes=20, seconds=2)

    scheduler.turn()

    assert [backup.trigger for backup in backups(engine)] == ["schedule"]
    assert row(engine).missed_ticks == 2


def test_two_daemons_never_fire_one_tick_twice(engine: Engine, schedule: Any, clock: Clock) -> None:
    clock.now = schedule()
    barrier = Barrier(4)

    def take_turn(_: int) -> int:
        daemon = Scheduler(engine, barrier.wait, start_backup=start_backup, clock=clock)
        return daemon.turn()

    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(take_turn, range(4)))

    assert sorted(started) == [0, 0, 0, 1]
    assert len(backups(engine)) == 1


def test_a_tick_that_another_daemon_fired_is_stepped_over(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = clock.now = schedule()
    scheduler.turn()
    with engine.begin() as connection:
        # As after a restore of an older row.
        connection.execute(update(BackupSchedule).values(next_tick_at=tick))

    assert scheduler.turn() == 0
    assert row(engine).next_tick_at > tick


def test_a_paused_schedule_fires_nothing(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    clock.now = schedule() + timedelta(days=1)
    with engine.begin() as connection:
        pause_schedule(connection, "often", by="ann")

    assert scheduler.turn() == 0


def test_who_does_not_lead_fires_nothing(engine: Engine, schedule: Any, clock: Clock) -> None:
    clock.now = schedule()

    def refuse() -> None:
        raise LeadershipLost("somebody else leads")

    with pytest.raises(LeadershipLost):
        Scheduler(engine, refuse, start_backup=start_backup, clock=clock).turn()
    assert backups(engine) == []


def test_a_schedule_without_devices_steps_on(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = clock.now = schedule(selection={"site": ["nowhere"]})

    assert scheduler.turn() == 0
    assert (backups(engine), row(engine).last_tick_at) == ([], tick)


def test_a_schedule_that_cannot_start_keeps_no_other_from_it(
    engine: Engine, make_settings: MakeSettings, clock: Clock
) -> None:
    with engine.begin() as connection:
        add_devices(connection, "a")
        names = ("broken", "well")
        synchronise_schedules(
            connection, make_settings(schedules=[{**EVERY_10_MINUTES, "name": n} for n in names])
        )
        clock.now = schedule_named(connection, "well").next_tick_at

    def start(connection: Connection, request: BackupRequest) -> StartedBackup:
        if request.requested_by == "schedule broken":
            connection.execute(text("SELECT 1 / 0"))
        return start_backup(connection, request)

    with pytest.raises(Exception, match="division by zero"):
        Scheduler(engine, lambda: None, start_backup=start, clock=clock).turn()

    assert [backup.requested_by for backup in backups(engine)] == ["schedule well"]
    with engine.connect() as connection:
        assert schedule_named(connection, "broken").next_tick_at == clock.now


def test_what_may_do_better_gets_one_second_round(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    tick = clock.now = schedule()
    scheduler.turn()
    clock.now += timedelta(seconds=30)
    assert scheduler.turn() == 0  # its executions still wait

    end_executions(engine, a=("timeout", "timeout"), b=("failed", "auth"))
    assert scheduler.turn() == 1
    assert scheduler.turn() == 0

    second = backups(engine)[-1]
    assert (second.trigger, second.scheduled_at) == ("second_round", tick)
    with engine.connect() as connection:
        names = connection.scalars(
            select(Device.name).join(BackupDevice).where(BackupDevice.task_id == second.task_id)
        ).all()
    assert names == ["a"]

    end_executions(engine, a=("timeout", "timeout"))
    assert scheduler.turn() == 0


@pytest.mark.parametrize(
    ("values", "after", "outcome"),
    [
        ({}, timedelta(seconds=30), ("success", None)),
        ({}, timedelta(seconds=30), ("failed", "host_key")),
        ({"second_round": False}, timedelta(seconds=30), ("timeout", "timeout")),
        ({"spread_seconds": 300}, timedelta(seconds=30), ("timeout", "timeout")),
    ],
    ids=["nothing failed", "a retry cannot help", "not wanted", "in the window"],
)
def test_there_is_no_second_round(
    engine: Engine,
    schedule: Any,
    scheduler: Scheduler,
    clock: Clock,
    values: Any,
    after: Any,
    outcome: Any,
) -> None:
    clock.now = schedule(**values)
    scheduler.turn()
    end_executions(engine, a=outcome)
    with engine.begin() as connection:
        connection.execute(update(Backup).values(created_at=clock.now))

    clock.now += after

    assert scheduler.turn() == 0


def test_the_next_tick_ends_the_wait_for_a_second_round(
    engine: Engine, schedule: Any, scheduler: Scheduler, clock: Clock
) -> None:
    clock.now = schedule()
    scheduler.turn()
    clock.now += timedelta(minutes=10)
    scheduler.turn()
    end_executions(engine, a=("timeout", "timeout"))
    scheduler.turn()

    # The first tick's execution of a served the second tick too.
    triggers = [backup.trigger for backup in backups(engine)]
    assert sorted(triggers) == ["schedule", "schedule", "second_round"]
    assert backups(engine)[-1].scheduled_at == clock.now


def test_a_running_scheduler_survives_an_outage_and_fires_after_it(
    engine: Engine, schedule: Any
) -> None:
    schedule(every_seconds=1)
    outages = iter(range(2))
    done = Barrier(2, timeout=30)

    def clock(connection: Connection) -> datetime:
        if next(outages, None) is not None:
            raise OperationalError("SELECT", {}, Exception("the server closed the connection"))
        return datetime.now(UTC)

    def start(connection: Connection, request: BackupRequest) -> StartedBackup:
        if not done.broken and done.n_waiting:
            done.wait()
        return start_backup(connection, request)

    scheduler = Scheduler(engine, lambda: None, start_backup=start, clock=clock)
    scheduler.start()
    try:
        done.wait()
    finally:
        done.abort()
        scheduler.stop()

    assert backups(engine)[0].trigger == "schedule"
    assert scheduler.status.last_error is None
    assert scheduler.status.last_turn_at is not None


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [
            Timing(None, 1, "UTC"),
            Timing(None, 700.5, "UTC"),
            Timing("30 2 * * *", None, "Europe/Berlin"),
        ]
    ),
    st.integers(0, 40_000),
)
def test_no_tick_is_lost_or_counted_twice(timing: Timing, late_seconds: int) -> None:
    start = datetime(2026, 3, 28, 20, tzinfo=UTC)
    [first] = next_ticks(timing, start, count=1)
    now = start + timedelta(seconds=late_seconds)

    due = due_ticks(timing, first, now)

    expected = next_ticks(timing, start, until=now)
    if due is None:
        assert expected == []
        return
    assert (due.tick, due.missed) == (expected[-1], len(expected) - 1)
    assert next_ticks(timing, due.tick, count=1) == [due.next_tick]
    assert due.is_late == (now - due.tick > timedelta(seconds=30))


def test_days_of_missed_seconds_are_counted_without_walking_them() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)

    due = due_ticks(Timing(None, 1, "UTC"), now - timedelta(days=300), now)

    assert due is not None
    assert (due.tick, due.missed) == (now, 300 * 86_400)
