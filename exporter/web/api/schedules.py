"""The schedules: list, pause, resume, run now."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from exporter.backups import BackupRequest
from exporter.errors import UnknownSchedule
from exporter.queries.rows import Row
from exporter.queries.schedules import list_schedules
from exporter.schedules import pause_schedule, resume_schedule
from exporter.settings import Selection
from exporter.web.access import caller
from exporter.web.api.backups import StartedAnswer, start_for_caller
from exporter.web.api.context import Answer, Api, Asked, Word


class ScheduleAnswer(Answer):
    id: int
    name: str
    cron: str | None
    interval_seconds: float | None
    time_zone: str
    is_active: bool
    paused_at: datetime | None
    paused_by: str | None
    paused_note: str | None
    last_tick_at: datetime | None
    next_tick_at: datetime | None
    missed_ticks: int


class SchedulesAnswer(Answer):
    schedules: list[ScheduleAnswer]


class Note(Asked):
    note: Word


def add_schedules(api: Api) -> None:
    app = api.app

    @app.get("/schedules")
    @app.output(SchedulesAnswer)
    def schedules() -> dict[str, Any]:
        """The schedules with their ticks."""
        with api.reading() as connection:
            return {"schedules": list_schedules(connection)}

    @app.post("/schedules/<name>/pause")
    @app.input(Note, arg_name="asked")
    @app.output(ScheduleAnswer)
    @api.change
    def pause_schedule_now(name: str, asked: Note) -> Row:
        """Let a schedule rest until it is resumed, also over restarts and reloads."""
        with api.changing("pause schedule", name, note=asked.note) as connection:
            pause_schedule(connection, name, by=caller().name, note=asked.note)
            return _schedule(connection, name)

    @app.post("/schedules/<name>/resume")
    @app.output(ScheduleAnswer)
    @api.change
    def resume_schedule_now(name: str) -> Row:
        """Let a schedule fire again, from its next tick on."""
        with api.changing("resume schedule", name) as connection:
            resume_schedule(connection, name)
            return _schedule(connection, name)

    @app.post("/schedules/<name>/run")
    @app.output(StartedAnswer, 202)
    @api.change
    def run_schedule(name: str) -> tuple[dict[str, Any], int]:
        """Back up now what the schedule selects; its ticks stay as they are."""
        with api.reading() as connection:
            schedule = _schedule(connection, name)
        request = BackupRequest(
            selection=Selection(**schedule["selection"]),
            trigger="api",
            requested_by=caller().name,
            comment=f"schedule {name}, run by hand",
            schedule_id=schedule["id"],
        )
        return start_for_caller(api, request), 202


def _schedule(connection: Connection, name: str) -> Row:
    for row in list_schedules(connection):
        if row["name"] == name:
            return row
    raise UnknownSchedule(f"the configuration file has no schedule {name!r}")
