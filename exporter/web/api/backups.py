"""Start, follow and cancel backups; single executions."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response, url_for
from pydantic import Field
from werkzeug.exceptions import NotFound

from exporter.backups import BackupRequest, cancel_backup, start_backup
from exporter.database.engine import database_errors
from exporter.queries.backups import (
    backup,
    backup_executions,
    is_backup_ended,
    joined_executions,
    list_backups,
    open_execution,
)
from exporter.queries.executions import execution
from exporter.settings import Selection
from exporter.web.access import caller
from exporter.web.api.context import Answer, Api, Asked, Word

_LOOK_SECONDS = 0.25
#: Often enough for the listener to notice a client that went away.
_SIGN_OF_LIFE_SECONDS = 10.0
#: What only operators see: it may show a device's text.
_SCREENS = frozenset({"last_screen", "details", "error_details"})

Words = Annotated[list[Word], Field(max_length=10_000)]
WaitSeconds = Annotated[float, Field(ge=0, le=3600)]


class BackupAsked(Selection):
    """Which devices: all that match every given key; and why."""

    devices: Words = Field(default_factory=list, description="Names.")
    site: Words = Field(default_factory=list, description="Sites.")
    platform: Words = Field(default_factory=list, description="Platforms.")
    group: Words = Field(default_factory=list, description="Groups of the inventory.")
    zone: Words = Field(default_factory=list, description="Zones.")
    comment: Word | None = Field(None, description="Why; it is kept with the backup.")
    idempotency_key: Word | None = Field(
        None, description="A second request of the same caller with it starts nothing new."
    )
    accept_shrunk: bool = Field(False, description="The configuration really shrank: store it.")

    @property
    def selection(self) -> Selection:
        return Selection(**{name: getattr(self, name) for name in Selection.model_fields})


class Wait(Asked):
    wait: WaitSeconds | None = Field(
        None, description="Seconds to wait for the end; answers as soon as it came."
    )


class Page(Asked):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0


class JoinedExecution(Answer):
    id: uuid.UUID
    task_id: uuid.UUID
    device_name: str


class StartedAnswer(Answer):
    task_id: uuid.UUID
    is_new: bool
    device_count: int
    queued: int
    joined: int
    joined_executions: list[JoinedExecution]


class Counts(Answer):
    queued: int
    running: int
    success: int
    failed: int
    timeout: int
    cancelled: int


class BackupAnswer(Answer):
    task_id: uuid.UUID
    trigger: str
    requested_by: str
    comment: str | None
    created_at: datetime
    ended_at: datetime | None
    is_ended: bool
    device_count: int
    counts: Counts


class ListedBackup(Answer):
    task_id: uuid.UUID
    trigger: str
    requested_by: str
    comment: str | None
    created_at: datetime
    ended_at: datetime | None
    device_count: int | None
    success_count: int | None
    failed_count: int | None
    timeout_count: int | None
    cancelled_count: int | None


class BackupsAnswer(Answer):
    backups: list[ListedBackup]


class BackupExecution(Answer):
    id: uuid.UUID
    device_id: int
    device_name: str
    status: str
    reason: str | None
    error_message: str | None
    execution_time: float | None
    started_at: datetime | None
    completed_at: datetime | None
    config_id: int | None
    is_joined: bool


class BackupExecutionsAnswer(Answer):
    executions: list[BackupExecution]


class CancelledAnswer(Answer):
    task_id: uuid.UUID
    ended: int
    stopping: int


class ExecutionAnswer(Answer):
    id: uuid.UUID
    task_id: uuid.UUID
    device_id: int
    device: str
    schedule_id: int | None
    config_id: int | None
    status: Literal["queued", "running", "success", "failed", "timeout", "cancelled"]
    reason: str | None
    execution_time: float | None
    error_message: str | None
    error_details: str | None
    queued_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    config_size: int | None
    git_commit_id: str | None
    extra_info: dict[str, Any]
    retry_count: int
    created_at: datetime


def add_backups(api: Api) -> None:
    app = api.app

    @app.post("/backups")
    @app.input(BackupAsked, arg_name="asked")
    @app.input(Wait, location="query", arg_name="query")
    @app.output(StartedAnswer, 202)
    @api.change
    def start(asked: BackupAsked, query: Wait) -> Any:
        """Back up devices now; with `wait` the answer is the backup's end, as `GET` gives it."""
        answer = start_for_caller(
            api,
            BackupRequest(
                selection=asked.selection,
                trigger="api",
                requested_by=caller().name,
                comment=asked.comment,
                idempotency_key=asked.idempotency_key,
                accept_shrunk=asked.accept_shrunk,
            ),
        )
        location = {"Location": url_for("follow", task_id=answer["task_id"])}
        if query.wait:
            ended = _when_ended(api, answer["task_id"], query.wait)
            ended.status_code = 202
            ended.headers.update(location)
            return ended
        return answer, 202, location

    @app.get("/backups")
    @app.input(Page, location="query", arg_name="page")
    @app.output(BackupsAnswer)
    def backups(page: Page) -> dict[str, Any]:
        """Backups, newest first; counts are null until they ended."""
        with api.reading() as connection:
            rows = list_backups(connection, limit=page.limit, offset=page.offset)
        return {"backups": rows}

    @app.get("/backups/<uuid:task_id>")
    @app.input(Wait, location="query", arg_name="query")
    @app.output(BackupAnswer)
    def follow(task_id: uuid.UUID, query: Wait) -> Any:
        """A backup with its counts; with `wait` as soon as it ended, or after so many seconds."""
        with api.reading() as connection:
            present = backup(connection, task_id)
        if query.wait and not present["is_ended"]:
            return _when_ended(api, task_id, query.wait)
        return present

    @app.get("/backups/<uuid:task_id>/executions")
    @app.input(Page, location="query", arg_name="page")
    @app.output(BackupExecutionsAnswer)
    def executions_of_backup(task_id: uuid.UUID, page: Page) -> dict[str, Any]:
        """A backup's executions by device, those that it joined included."""
        with api.reading() as connection:
            backup(connection, task_id)
            rows = backup_executions(connection, task_id, limit=page.limit, offset=page.offset)
        return {"executions": rows}

    @app.post("/backups/<uuid:task_id>/cancel")
    @app.output(CancelledAnswer)
    @api.change
    def cancel(task_id: uuid.UUID) -> dict[str, Any]:
        """Cancel what the backup waits for, but for executions that other open backups want."""
        with database_errors():
            done = cancel_backup(api.engine, task_id, time_zone=api.settings.time_zone)
        with api.changing("cancel", str(task_id), ended=done.ended, stopping=done.stopping):
            pass
        return {"task_id": task_id, "ended": done.ended, "stopping": done.stopping}

    @app.get("/executions/<uuid:execution_id>")
    @app.output(ExecutionAnswer)
    def one_execution(execution_id: uuid.UUID) -> dict[str, Any]:
        """Every column of an execution; traceback and last screen for operators alone."""
        with api.reading() as connection:
            found = (
                execution(connection, execution_id)
                or open_execution(connection, execution_id)
                # It may have ended between both looks.
                or execution(connection, execution_id)
            )
        if found is None:
            raise NotFound(f"no execution has the id {execution_id}")
        return found if caller().may("operator") else without_screens(found)


def start_for_caller(api: Api, request: BackupRequest) -> dict[str, Any]:
    """Start the backup with its line in the audit log; the fields of StartedAnswer.

    Raises UnknownDevice and NothingSelected; nothing is started then.
    """
    selection = request.selection.model_dump(exclude_defaults=True)
    with api.changing("backup", "devices", selection=selection) as connection:
        started = start_backup(connection, request)
        joined = joined_executions(connection, started.task_id)
    return {
        "task_id": started.task_id,
        "is_new": started.is_new,
        "device_count": started.queued + started.joined,
        "queued": started.queued,
        "joined": started.joined,
        "joined_executions": joined,
    }


def without_screens(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what may show a device's text."""
    return {name: None if name in _SCREENS else _seen(value) for name, value in row.items()}


def _seen(value: Any) -> Any:
    if isinstance(value, dict):
        return without_screens(value)
    return [_seen(item) for item in value] if isinstance(value, list) else value


def _when_ended(api: Api, task_id: uuid.UUID, wait_seconds: float) -> Response:
    """An answer that begins with blanks, which JSON allows, until the backup has ended."""

    def body() -> Iterator[bytes]:
        end = time.monotonic() + wait_seconds
        sign_of_life = time.monotonic() + _SIGN_OF_LIFE_SECONDS
        while time.monotonic() < end and not api.streams.stopping.is_set():
            with api.reading() as connection:
                if is_backup_ended(connection, task_id):
                    break
            if time.monotonic() > sign_of_life:
                sign_of_life += _SIGN_OF_LIFE_SECONDS
                yield b" "
            api.streams.stopping.wait(_LOOK_SECONDS)
        with api.reading() as connection:
            content = backup(connection, task_id)
        answer = BackupAnswer.model_validate(content)
        yield json.dumps(answer.model_dump(mode="json")).encode()

    return Response(api.streams.admit(body()), content_type="application/json")
