"""The monitoring questions, and whether the installation works."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from flask import Response, jsonify
from pydantic import Field
from sqlalchemy import text
from werkzeug.exceptions import NotFound

from exporter.database.engine import database_errors
from exporter.errors import DatabaseProblem, Reason
from exporter.models import ENDED_STATUSES, TRIGGERS
from exporter.queries import monitoring
from exporter.web.access import caller, needs
from exporter.web.api.context import Answer, Api, Asked, Moment, Number, Word
from exporter.web.reading import Shared

Status = Literal["success", "failed", "timeout", "cancelled"]
assert set(Status.__args__) == set(ENDED_STATUSES)  # type: ignore[attr-defined]

_SORTS = rf"^-?({'|'.join(monitoring.DEVICE_SORTS)})$"

#: Unix time with microseconds, and the id of an execution.
_CURSOR = r"^[0-9]{1,10}\.[0-9]{6}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


class Question(Asked):
    refresh: bool = Field(False, description="Ask PostgreSQL, whatever is kept.")


class StatisticsAsked(Question):
    days: Annotated[int, Field(ge=1, le=365)] = 30


class TrendAsked(Question):
    days: Annotated[int, Field(ge=1, le=90)] = 7


class FailedAsked(Question):
    days: Annotated[int, Field(ge=1, le=30)] = 7
    limit: Annotated[int, Field(ge=1, le=50)] = 10


class StatusAsked(Question):
    status: Literal["success", "failed", "timeout", "cancelled", "none"] | None = None
    state: Literal["never", "abnormal", "stale", "normal"] | None = None
    search: Word | None = None
    site: Word | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    sort: Annotated[str, Field(pattern=_SORTS)] = Field(
        "device_name", description="With - before it the greatest come first."
    )


class RecentAsked(Question):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=100_000)] = 0
    status: Status | None = None
    device_id: Number | None = None
    schedule: Word | None = None
    trigger: Literal["schedule", "second_round", "catch_up", "api", "command"] | None = None
    site: Word | None = None
    reason: Reason | None = None
    since: Moment | None = None
    until: Moment | None = None
    cursor: Annotated[str, Field(pattern=_CURSOR)] | None = Field(
        None, description="next_cursor of the page before; for deep pages."
    )


assert set(TRIGGERS) == {"schedule", "second_round", "catch_up", "api", "command"}


class Computed(Answer):
    computed_at: datetime


class StatisticsAnswer(Computed):
    total_executions: int
    success_count: int
    failed_count: int
    timeout_count: int
    cancelled_count: int
    success_rate: float
    average_execution_time: float
    total_config_size: int
    device_count: int
    schedule_count: int
    period_days: int
    today_total: int
    week_total: int
    storage_bytes: int
    health: Literal["healthy", "fair", "abnormal", "no_data"]
    fresh_share: float | None = Field(description="0 to 1; null: no device is enabled.")


class DeviceStatus(Answer):
    device_id: int
    device_name: str
    ip: str
    vendor: str
    state: str
    last_backup_status: str | None
    last_backup_time: datetime | None
    last_success_time: datetime | None
    last_execution_time: float | None
    total_backups: int
    success_count: int
    failed_count: int
    timeout_count: int
    success_rate: float
    last_error_message: str | None
    last_reason: str | None
    consecutive_failures: int


class DeviceStatusAnswer(Computed):
    total: int
    limit: int
    offset: int
    devices: list[DeviceStatus]


class RecentExecution(Answer):
    id: uuid.UUID
    task_id: uuid.UUID
    device_id: int
    device_name: str
    device_ip: str
    schedule_id: int | None
    config_id: int | None
    status: Status
    reason: str | None
    execution_time: float | None
    started_at: datetime | None
    completed_at: datetime
    error_message: str | None
    error_details: str | None
    git_commit_id: str | None
    config_size: int | None
    retry_count: int
    created_at: datetime


class RecentAnswer(Computed):
    total: int
    total_is_exact: bool
    limit: int
    offset: int
    next_cursor: str | None
    executions: list[RecentExecution]


class TrendAnswer(Computed):
    dates: list[str]
    success_counts: list[int]
    failure_counts: list[int]
    timeout_counts: list[int]
    average_times: list[float]
    days: int


class FailedDevice(Answer):
    device_id: int
    device_name: str
    ip: str
    vendor: str
    failure_count: int
    last_failure_time: datetime
    last_error: str | None
    last_reason: str | None


class FailedAnswer(Computed):
    days: int
    limit: int
    devices: list[FailedDevice]


class HealthAnswer(Answer):
    status: Literal["healthy", "degraded"]
    database: str
    scheduler: str
    workers: str
    publisher: str
    timestamp: datetime


def add_monitoring(api: Api) -> None:
    app, time_zone = api.app, api.settings.time_zone

    @app.get("/monitoring/backup-statistics")
    @app.input(StatisticsAsked, location="query", arg_name="asked")
    @app.output(StatisticsAnswer)
    def backup_statistics(asked: StatisticsAsked) -> Response:
        """The fleet in numbers, over today and the days before."""

        def compute() -> dict[str, Any]:
            with api.reading() as connection:
                return monitoring.backup_statistics(
                    connection, days=asked.days, time_zone=time_zone
                )

        return api.answers.answer(StatisticsAnswer, asked.model_dump(), compute)

    @app.get("/monitoring/device-backup-status")
    @app.input(StatusAsked, location="query", arg_name="asked")
    @app.output(DeviceStatusAnswer)
    def device_backup_status(asked: StatusAsked) -> Response:
        """Devices with their last backup and lifetime counts."""

        def compute() -> dict[str, Any]:
            options = asked.model_dump(exclude={"refresh"})
            with api.reading() as connection:
                page = monitoring.device_backup_status(connection, **options)
            return {**page, "limit": asked.limit, "offset": asked.offset}

        return api.answers.answer(DeviceStatusAnswer, asked.model_dump(), compute)

    @app.get("/monitoring/recent-executions")
    @app.input(RecentAsked, location="query", arg_name="asked")
    @app.output(RecentAnswer)
    def recent_executions(asked: RecentAsked) -> Response:
        """Ended executions, newest first; error_details for operators alone."""
        is_operator = caller().may("operator")

        def compute() -> dict[str, Any]:
            content = _recent(api, asked)
            if not is_operator:
                for row in content["executions"]:
                    row["error_details"] = None
            return content

        key = {**asked.model_dump(), "is_operator": is_operator}
        return api.answers.answer(RecentAnswer, key, compute)

    @app.get("/monitoring/execution-trend")
    @app.input(TrendAsked, location="query", arg_name="asked")
    @app.output(TrendAnswer)
    def execution_trend(asked: TrendAsked) -> Response:
        """Counts of each day, oldest first."""

        def compute() -> dict[str, Any]:
            with api.reading() as connection:
                return monitoring.execution_trend(connection, days=asked.days, time_zone=time_zone)

        return api.answers.answer(TrendAnswer, asked.model_dump(), compute)

    @app.get("/monitoring/failed-devices")
    @app.input(FailedAsked, location="query", arg_name="asked")
    @app.output(FailedAnswer)
    def failed_devices(asked: FailedAsked) -> Response:
        """Devices with the most failures of the period."""

        def compute() -> dict[str, Any]:
            with api.reading() as connection:
                devices = monitoring.failed_devices(
                    connection, days=asked.days, limit=asked.limit, time_zone=time_zone
                )
            return {"days": asked.days, "limit": asked.limit, "devices": devices}

        return api.answers.answer(FailedAnswer, asked.model_dump(), compute)

    _add_health_check(api)


def _recent(api: Api, asked: RecentAsked) -> dict[str, Any]:
    with api.reading() as connection:
        schedule_id = None
        if asked.schedule is not None:
            schedule_id = connection.scalar(
                text("SELECT id FROM backup_schedules WHERE name = :name"),
                {"name": asked.schedule},
            )
            if schedule_id is None:
                raise NotFound(f"no schedule is named {asked.schedule!r}")
        total, rows = monitoring.recent_executions_page(
            connection,
            limit=asked.limit,
            offset=asked.offset,
            after=_place(asked.cursor) if asked.cursor else None,
            filters={
                "schedule_id": schedule_id,
                **asked.model_dump(
                    include={
                        "status",
                        "device_id",
                        "trigger",
                        "site",
                        "reason",
                        "since",
                        "until",
                    }
                ),
            },
        )
    last = rows[-1] if len(rows) == asked.limit else None
    return {
        "total": total.count,
        "total_is_exact": total.is_exact,
        "limit": asked.limit,
        "offset": asked.offset,
        "next_cursor": last and _cursor(last),
        "executions": rows,
    }


def _cursor(last: dict[str, Any]) -> str:
    at: datetime = last["created_at"]
    return f"{int(at.timestamp())}.{at.microsecond:06}_{last['id']}"


def _place(cursor: str) -> tuple[datetime, str]:
    seconds, number = cursor.split("_")
    whole, microseconds = seconds.split(".")
    moment = datetime.fromtimestamp(int(whole), UTC).replace(microsecond=int(microseconds))
    return moment, number


def _add_health_check(api: Api) -> None:
    app = api.app

    def read() -> dict[str, str]:
        with database_errors(), api.engine.connect() as connection:
            return monitoring.installation_health(connection)

    present = Shared(read, fresh_seconds=1.0)

    @app.get("/monitoring/health-check")
    @app.output(HealthAnswer)
    @app.doc(responses={503: "Degraded"})
    @needs("")
    def health_check() -> Response:
        """Whether backups can run; answers within 2 s also while PostgreSQL is away."""
        try:
            parts = {"database": "healthy", **present.get()}
        except DatabaseProblem:
            unknown = dict.fromkeys(("scheduler", "workers", "publisher"), "unknown")
            parts = {"database": "unhealthy: PostgreSQL does not answer", **unknown}
        is_well = all(part == "healthy" for part in parts.values())
        content = {
            "status": "healthy" if is_well else "degraded",
            **parts,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        answer = jsonify(content)
        answer.status_code = 200 if is_well else 503
        return answer
