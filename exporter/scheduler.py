"""Fires the schedules' ticks and their second rounds, on the leader alone.

The rows of `backup_schedules` are the truth and are read in each turn: a pause, a reload, another
leader need no word to this module. A tick and the step to the next are one transaction, the tick
is unique by (schedule, scheduled time), and an outage leaves `next_tick_at` where it was: nothing
is fired twice, nothing forgotten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection, Engine, Row, func, select, text, update

from exporter.backups import BackupRequest, StartedBackup
from exporter.errors import ADVICE, NothingSelected
from exporter.logs import get_logger
from exporter.models import BackupSchedule
from exporter.schedules import HORIZON, Timing, next_ticks, ticks, timing_of
from exporter.settings import Selection

log = get_logger(__name__)

StartBackup = Callable[[Connection, BackupRequest], StartedBackup]

TURN_SECONDS = 1.0
#: A tick that fires later than this was missed and is caught up.
ON_TIME_SECONDS = 30.0

_INSTANT = timedelta(microseconds=1)
_NOT_RETRIED = [reason for reason, advice in ADVICE.items() if not advice.is_retried]


@dataclass(frozen=True)
class DueTicks:
    """The one tick to fire, and what was missed before it."""

    tick: datetime
    is_late: bool
    #: Ticks before it that are not fired any more.
    missed: int
    next_tick: datetime


@dataclass(frozen=True)
class SchedulerStatus:
    """For metrics: a scheduler whose last turn is minutes ago does not work."""

    #: End of the last turn without an error, UTC; None: none yet.
    last_turn_at: datetime | None = None
    #: What the last turn failed with; None: it did not.
    last_error: str | None = None


def due_ticks(timing: Timing, next_tick_at: datetime, now: datetime) -> DueTicks | None:
    """What is due of a schedule that stands at `next_tick_at`; None: nothing yet.

    Ticks missed for longer than 35 days are not counted.
    """
    if next_tick_at > now:
        return None
    if timing.interval_seconds is not None:
        # No walk through the ticks: there may be one each second, for days.
        start = max(next_tick_at, now - timedelta(seconds=2 * timing.interval_seconds))
    else:
        start = max(next_tick_at, now - HORIZON)
    due = next_ticks(timing, start - _INSTANT, until=now) or [next_tick_at]
    missed = len(due) - 1
    if timing.interval_seconds is not None:
        missed = round((due[-1] - next_tick_at).total_seconds() / timing.interval_seconds)
    return DueTicks(
        tick=due[-1],
        is_late=now - due[-1] > timedelta(seconds=ON_TIME_SECONDS),
        missed=missed,
        next_tick=next(ticks(timing, now)),
    )


def fire_tick(
    connection: Connection, schedule_id: int, now: datetime, start_backup: StartBackup
) -> bool:
    """Start what is due of the schedule and step on to its next tick; the caller commits.

    False: nothing is due, another leader is at it, or no device is selected.
    """
    schedule = connection.execute(
        select(BackupSchedule.__table__)
        .where(BackupSchedule.id == schedule_id, *_is_due(now))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if schedule is None:
        return False
    due = due_ticks(timing_of(schedule), schedule.next_tick_at, now)
    if due is None:
        return False
    is_started = _start(connection, _tick_request(schedule, due), start_backup)
    connection.execute(
        update(BackupSchedule)
        .where(BackupSchedule.id == schedule_id)
        .values(
            last_tick_at=due.tick,
            next_tick_at=due.next_tick,
            missed_ticks=BackupSchedule.missed_ticks + due.missed,
        )
    )
    if due.missed or due.is_late:
        log.warning(
            "ticks were missed; the last is caught up" if due.is_late else "ticks were missed",
            schedule=schedule.name,
            tick=due.tick.isoformat(),
            missed=due.missed,
        )
    return is_started


def _is_due(now: datetime) -> tuple[Any, ...]:
    return (
        BackupSchedule.is_active,
        BackupSchedule.retired_at.is_(None),
        BackupSchedule.next_tick_at <= now,
    )


def _tick_request(schedule: Row[Any], due: DueTicks) -> BackupRequest:
    first = f"{schedule.next_tick_at:%Y-%m-%d %H:%M:%S}Z"
    return BackupRequest(
        selection=Selection(**schedule.selection),
        trigger="catch_up" if due.is_late else "schedule",
        requested_by=f"schedule {schedule.name}",
        comment=f"{due.missed} earlier ticks were missed since {first}" if due.missed else None,
        schedule_id=schedule.id,
        scheduled_at=due.tick,
        spread_seconds=schedule.spread_seconds,
    )


def _start(connection: Connection, request: BackupRequest, start_backup: StartBackup) -> bool:
    try:
        # What was begun of a backup without devices must not be committed with the step.
        with connection.begin_nested():
            return start_backup(connection, request).is_new
    except NothingSelected:
        log.warning("a schedule selects no device", by=request.requested_by)
        return False


#: Schedules whose last tick is over (its window and each of its executions) before the next one.
_FINISHED_FIRST_ROUNDS = text("""
    SELECT s.id, s.name, s.last_tick_at, b.task_id, b.created_at
    FROM backup_schedules AS s
    JOIN backups AS b ON b.schedule_id = s.id AND b.scheduled_at = s.last_tick_at
    WHERE s.second_round AND s.is_active AND s.retired_at IS NULL AND s.next_tick_at > :now
        AND b.trigger <> 'second_round'
        AND b.created_at + make_interval(secs => s.spread_seconds) <= :now
        AND NOT EXISTS (
            SELECT FROM backups AS second WHERE second.schedule_id = s.id
                AND second.scheduled_at = s.last_tick_at AND second.trigger = 'second_round')
        AND NOT EXISTS (
            SELECT FROM backup_devices AS d JOIN open_executions AS e ON e.id = d.execution_id
            WHERE d.task_id = b.task_id)
""")

#: Devices that failed in it, may do better, and have not done so since.
_WORTH_A_SECOND_ROUND = text("""
    SELECT device.name
    FROM backup_devices AS d
    JOIN backup_execution_logs AS l ON l.id = d.execution_id AND l.created_at >= :created_at
    JOIN device_states AS state ON state.device_id = d.device_id
    JOIN devices AS device ON device.id = d.device_id
    WHERE d.task_id = :task_id AND l.status IN ('failed', 'timeout')
        AND l.reason <> ALL(:not_retried) AND state.failing_since IS NOT NULL
    ORDER BY device.name
""")


def finished_first_rounds(connection: Connection, now: datetime) -> list[Row[Any]]:
    """Schedules (id, name, last_tick_at) with that tick's backup, ready for a second round."""
    return list(connection.execute(_FINISHED_FIRST_ROUNDS, {"now": now}))


def start_second_round(
    connection: Connection, first_round: Row[Any], start_backup: StartBackup
) -> bool:
    """Back up once more what failed in the first round; False: nothing is worth it."""
    names = connection.scalars(
        _WORTH_A_SECOND_ROUND,
        {
            "task_id": first_round.task_id,
            "created_at": first_round.created_at,
            "not_retried": [str(reason) for reason in _NOT_RETRIED],
        },
    ).all()
    if not names:
        return False
    request = BackupRequest(
        selection=Selection(devices=list(names)),
        trigger="second_round",
        requested_by=f"schedule {first_round.name}",
        schedule_id=first_round.id,
        scheduled_at=first_round.last_tick_at,
    )
    return _start(connection, request, start_backup)


def database_clock(connection: Connection) -> datetime:
    """The one clock that all leaders share."""
    now: datetime = connection.scalars(select(func.clock_timestamp())).one()
    return now


class Scheduler:
    """Takes a turn each second, in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        require_leadership: Callable[[], object],
        *,
        start_backup: StartBackup,
        clock: Callable[[Connection], datetime] = database_clock,
    ) -> None:
        self._engine = engine
        self._require_leadership = require_leadership
        self._start_backup = start_backup
        self._clock = clock
        #: Schedule -> the tick whose first round needs no second look.
        self._settled: dict[int, datetime] = {}
        self._timer = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self.status = SchedulerStatus()

    def start(self) -> None:
        self._timer.add_job(
            self._guarded_turn, "interval", seconds=TURN_SECONDS, next_run_time=datetime.now(UTC)
        )
        self._timer.start()

    def stop(self) -> None:
        """Wait for the turn that runs, and take no other."""
        if self._timer.running:
            self._timer.shutdown(wait=True)

    def turn(self) -> int:
        """Fire what is due now; returns how many backups were started.

        Raises LeadershipLost before anything is fired by one who does not lead any more.
        """
        with self._engine.begin() as connection:
            now = self._clock(connection)
            due = connection.scalars(select(BackupSchedule.id).where(*_is_due(now))).all()
            first_rounds = [
                row
                for row in finished_first_rounds(connection, now)
                if self._settled.get(row.id) != row.last_tick_at
            ]
        if due or first_rounds:
            self._require_leadership()
        # One schedule that cannot be started must not keep the others from it.
        errors: list[Exception] = []
        fired = [self._try(errors, self._fire, schedule_id, now) for schedule_id in due]
        second = [self._try(errors, self._second_round, row) for row in first_rounds]
        if errors:
            raise errors[0]
        return sum(fired) + sum(second)

    def _fire(self, schedule_id: int, now: datetime) -> bool:
        with self._engine.begin() as connection:
            return fire_tick(connection, schedule_id, now, self._start_backup)

    def _second_round(self, first_round: Row[Any]) -> bool:
        with self._engine.begin() as connection:
            is_started = start_second_round(connection, first_round, self._start_backup)
        self._settled[first_round.id] = first_round.last_tick_at
        return is_started

    def _try(self, errors: list[Exception], act: Callable[..., bool], *arguments: Any) -> bool:
        try:
            return act(*arguments)
        except Exception as error:  # noqa: BLE001 - raised by the turn, after the others
            errors.append(error)
            return False

    def _guarded_turn(self) -> None:
        """A turn that fails, because PostgreSQL is away or else, is tried again in the next."""
        try:
            self.turn()
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if message != self.status.last_error:
                log.exception("a turn of the scheduler failed; it is tried again")
            self.status = SchedulerStatus(self.status.last_turn_at, message)
        else:
            self.status = SchedulerStatus(datetime.now(UTC))
