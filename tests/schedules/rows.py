"""Rows of schedules that the tests look at."""

from typing import Any

from sqlalchemy import Connection, Row, select

from exporter.models import BackupSchedule


def schedule_named(connection: Connection, name: str) -> Row[Any]:
    return connection.execute(
        select(BackupSchedule.__table__).where(BackupSchedule.name == name)
    ).one()
