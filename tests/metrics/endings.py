"""Executions that end as a test says, by the ending transaction itself."""

from sqlalchemy import Engine

from exporter.errors import Reason
from exporter.executions.endings import Ending, end_running
from tests.fleets import claim_next, success, trigger_backup


def end_next(engine: Engine, ending: Ending) -> None:
    assert end_running(engine, claim_next(engine), ending, time_zone="UTC")


def back_up(engine: Engine, *devices: str, ending: Ending | None = None) -> None:
    for device in devices:
        trigger_backup(engine, device)
        end_next(engine, ending or success())


def failure(reason: Reason = Reason.AUTH) -> Ending:
    return Ending(status="failed", reason=reason, message="no", try_seconds=0.5)
