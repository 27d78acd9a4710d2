"""The schedules: their rows, their ticks, and the intervals that follow for devices.

Written in the configuration file and synchronised; a person's pause survives a reload. A schedule
that leaves the file is retired, never deleted. `next_tick_at` is where a schedule stands: the
scheduler fires what is due from there on. A pause forgets it, so nothing is caught up after one.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import merge
from itertools import groupby, islice, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Double,
    Row,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    literal,
    select,
    update,
    values,
)

from exporter.cron import cron_trigger
from exporter.errors import UnknownSchedule
from exporter.models import BackupSchedule, Device
from exporter.queries import matches_selection
from exporter.settings import ScheduleSettings, Selection, Settings

#: Intervals of devices look ahead this far (design page, "interval").
HORIZON = timedelta(days=35)
#: More ticks than this are not walked through for an interval; see `longest_gap_seconds`.
WALKED_TICKS = 200_000
#: One synchronisation at a time; "schsync" in ASCII.
LOCK_KEY = 0x73636873796E63

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)
#: Longer than any clock change of a time zone.
_CLOCK_CHANGE = timedelta(hours=2)


@dataclass(frozen=True)
class Timing:
    """When a schedule ticks: one of cron (five fields, in the time zone) and interval."""

    cron: str | None
    interval_seconds: float | None
    time_zone: str


@dataclass(frozen=True)
class ScheduleChanges:
    """Names of schedules that a synchronisation wrote."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    retired: tuple[str, ...]
    returned: tuple[str, ...]


def timing_of(schedule: Row[Any] | BackupSchedule) -> Timing:
    return Timing(schedule.cron, schedule.interval_seconds, schedule.time_zone)


def ticks(timing: Timing, after: datetime) -> Iterator[datetime]:
    """The ticks later than `after` in UTC, without end.

    Intervals count from 1970-01-01 UTC, so a restart does not shift them. A cron time that the
    spring's clock change skips comes as much later; one that autumn's repeats comes once, unless
    the hours are `*` or `*/n`: who asks for every hour gets every hour.
    """
    if timing.cron is not None:
        yield from _cron_ticks(timing.cron, timing.time_zone, after)
    elif timing.interval_seconds is not None:
        yield from _interval_ticks(timing.interval_seconds, after)


def _cron_ticks(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    trigger = _cron_trigger(cron, time_zone)
    repeats = cron.split()[1].startswith("*")
    start = after
    # Inside the change a skipped tick is only seen by who comes from before it.
    if trigger.timezone.utcoffset(after) != trigger.timezone.utcoffset(after - _CLOCK_CHANGE):
        start = after - _CLOCK_CHANGE
    while fire_time := trigger.get_next_fire_time(None, start + _INSTANT):
        start = fire_time.astimezone(UTC)
        if start > after and (repeats or not fire_time.fold):
            yield start


def _interval_ticks(interval_seconds: float, after: datetime) -> Iterator[datetime]:
    trigger = IntervalTrigger(seconds=interval_seconds, start_date=_EPOCH, timezone=UTC)
    while True:
        after = trigger.get_next_fire_time(None, after + _INSTANT)
        yield after


@lru_cache(maxsize=1000)
def _cron_trigger(cron: str, time_zone: str) -> CronTrigger:
    return cron_trigger(cron, ZoneInfo(time_zone))


def next_ticks(
    timing: Timing, after: datetime, *, until: datetime | None = None, count: int | None = None
) -> list[datetime]:
    """The ticks later than `after`, up to and with `until`, at most `count`; give one of them."""
    found = ticks(timing, after)
    return list(islice(takewhile(lambda tick: until is None or tick <= until, found), count))


@lru_cache(maxsize=1000)
def longest_gap_seconds(timings: frozenset[Timing], start: datetime) -> float:
    """The longest gap between ticks of the union in the 35 days from `start`.

    A gap that begins in them counts whole; of rare schedules, that between the next two ticks.
    """
    intervals = sorted({t.interval_seconds for t in timings if t.interval_seconds is not None})
    if intervals:
        horizon_seconds = HORIZON.total_seconds()
        # Cron ticks fall on minutes, whatever their number.
        others = sum(horizon_seconds / interval for interval in intervals[1:])
        others += horizon_seconds / 60 if any(timing.cron for timing in timings) else 0
        shortest_ticks = horizon_seconds / intervals[0]
        # Fewer ticks of others than gaps: one gap is whole. And no gap is longer, so that where
        # walking would take seconds, it is a close answer too.
        if shortest_ticks > min(others, WALKED_TICKS):
            return intervals[0]
    return max((b - a).total_seconds() for a, b in pairwise(_planned(timings, start)))


def _planned(timings: Collection[Timing], start: datetime) -> Iterator[datetime]:
    union = merge(*(ticks(timing, start - _INSTANT) for timing in timings))
    for number, (tick, _) in enumerate(groupby(union), 1):
        yield tick
        if tick > start + HORIZON and number >= 2:
            return


def synchronise_schedules(connection: Connection, settings: Settings) -> ScheduleChanges:
    """Bring the rows in line with the configuration file; the caller commits.

    A new, returned or retimed schedule ticks from now on: nothing is caught up for it. Call
    `refresh_intervals` after it.
    """
    connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
    now: datetime = connection.scalars(select(func.now())).one()
    wanted = {
        schedule.name: _values(schedule, settings.time_zone) for schedule in settings.schedules
    }
    rows = {row.name: row for row in connection.execute(select(BackupSchedule.__table__))}
    added = [name for name in wanted if name not in rows]
    returned = [name for name in wanted if name in rows and rows[name].retired_at]
    changed = [
        name
        for name, fields in wanted.items()
        if name in rows and any(getattr(rows[name], key) != fields[key] for key in fields)
    ]
    retired = [name for name, row in rows.items() if name not in wanted and not row.retired_at]
    if added:
        new = [{"name": n, **wanted[n], "next_tick_at": _first(wanted[n], now)} for n in added]
        connection.execute(insert(BackupSchedule), new)
    if written := sorted({*changed, *returned}):
        connection.execute(
            update(BackupSchedule).where(BackupSchedule.name == bindparam("row_name")),
            [{"row_name": n, **_revised(rows[n], wanted[n], now)} for n in written],
        )
    if retired:
        connection.execute(
            update(BackupSchedule)
            .where(BackupSchedule.name.in_(retired))
            .values(retired_at=func.now(), next_tick_at=None)
        )
    return ScheduleChanges(tuple(added), tuple(changed), tuple(retired), tuple(returned))


def _values(schedule: ScheduleSettings, time_zone: str) -> dict[str, Any]:
    return {
        "cron": schedule.cron,
        "interval_seconds": schedule.every_seconds,
        "time_zone": schedule.time_zone or time_zone,
        "spread_seconds": schedule.spread_seconds,
        "second_round": schedule.second_round,
        "selection": schedule.selection.model_dump(mode="json", exclude_defaults=True),
    }


def _first(fields: Mapping[str, Any], now: datetime) -> datetime:
    timing = Timing(fields["cron"], fields["interval_seconds"], fields["time_zone"])
    return next(ticks(timing, now))


def _revised(row: Row[Any], fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    is_retimed = any(getattr(row, key) != fields[key] for key in Timing.__dataclass_fields__)
    next_tick_at = row.next_tick_at
    if row.is_active and (is_retimed or row.retired_at):
        next_tick_at = _first(fields, now)
    return {**fields, "next_tick_at": next_tick_at, "retired_at": None}


def pause_schedule(connection: Connection, name: str, *, by: str, note: str | None = None) -> None:
    """No tick of it fires until it is resumed, whatever the file says. Raises UnknownSchedule."""
    row = _locked(connection, name)
    connection.execute(
        update(BackupSchedule)
        .where(BackupSchedule.id == row.id)
        .values(
            is_active=False,
            paused_at=func.now(),
            paused_by=by,
            paused_note=note,
            next_tick_at=None,
        )
    )
    refresh_intervals(connection)


def resume_schedule(connection: Connection, name: str) -> None:
    """It ticks from now on; nothing happens where it does so already. Raises UnknownSchedule."""
    row = _locked(connection, name)
    if row.is_active:
        return
    connection.execute(
        update(BackupSchedule)
        .where(BackupSchedule.id == row.id)
        .values(
            is_active=True,
            paused_at=None,
            paused_by=None,
            paused_note=None,
            next_tick_at=next(ticks(timing_of(row), row.now)),
        )
    )
    refresh_intervals(connection)


def _locked(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(
        select(BackupSchedule.__table__, func.now().label("now"))
        .where(BackupSchedule.name == name, BackupSchedule.retired_at.is_(None))
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise UnknownSchedule(f"the configuration file has no schedule {name!r}")
    return row


def refresh_intervals(connection: Connection) -> int:
    """Write interval and is_scheduled of the devices where they changed; returns how many.

    To be called after a synchronisation of schedules or devices, and once a day: the horizon
    moves. Schedules of what is `failing` plan nothing for a device and are left out.
    """
    schedules = {
        row.id: row
        for row in connection.execute(
            select(BackupSchedule.__table__).where(BackupSchedule.retired_at.is_(None))
        )
        if not row.selection.get("failing")
    }
    key = _schedules_key(schedules)
    is_present = Device.retired_at.is_(None)
    keys = connection.scalars(select(key).where(is_present).distinct()).all()
    if not keys:
        return 0
    today: datetime = connection.scalars(select(func.now())).one()
    today = today.replace(hour=0, minute=0, second=0, microsecond=0)
    found = values(
        column("key", Text()),
        column("seconds", Double()),
        column("scheduled", Boolean()),
        name="found",
    ).data([(k, *_interval([schedules[int(i)] for i in k.split()], today)) for k in keys])
    # Where no device is scheduled, the column of NULLs has no type of its own.
    seconds: ColumnElement[float] = cast(found.c.seconds, Double())
    is_different = func.row(Device.interval_seconds, Device.is_scheduled).is_distinct_from(
        func.row(seconds, found.c.scheduled)
    )
    return connection.execute(
        update(Device)
        .where(is_present, key == found.c.key, is_different)
        .values(interval_seconds=seconds, is_scheduled=found.c.scheduled)
    ).rowcount


def _schedules_key(schedules: Mapping[int, Row[Any]]) -> ColumnElement[str]:
    """A device's schedules as text, such as `3 7`: devices with equal ones share an interval."""
    memberships = [
        case((matches_selection(Selection(**row.selection)), literal(str(row.id))))
        for row in schedules.values()
    ]
    return func.concat_ws(" ", *memberships) if memberships else literal("", Text())


def _interval(schedules: Collection[Row[Any]], today: datetime) -> tuple[float | None, bool]:
    """Paused schedules count: a pause must not make a device look well for longer."""
    if not schedules:
        return None, False
    seconds = longest_gap_seconds(frozenset(map(timing_of, schedules)), today)
    return seconds, any(schedule.is_active for schedule in schedules)
