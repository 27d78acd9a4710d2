"""Cancelling: what waits ends at once, what runs is cut off by its worker within seconds."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, text

from exporter.executions.claims import Running
from exporter.executions.endings import Ending, end_running, end_waiting


@dataclass(frozen=True)
class Cancelled:
    """How many executions ended at once, and how many running ones are being cut off."""

    ended: int
    stopping: int


def cancel_executions(engine: Engine, ids: Sequence[uuid.UUID], *, time_zone: str) -> Cancelled:
    """Cancel executions that wait or run; those that have ended are left as they are."""
    # The mark comes first: a row that is claimed meanwhile is then cut off by its worker.
    with engine.begin() as connection:
        rows = connection.execute(
            text("""
                UPDATE open_executions SET cancel_requested_at = now()
                WHERE id = ANY(:ids)
                RETURNING status, id, worker_id, task_id, device_id, trigger, ran_seconds,
                    waited_seconds, jsonb_array_length(failed_tries) AS failed_try_count,
                    started_at IS NULL AS is_untried
            """),
            {"ids": list(ids)},
        ).all()
    untried = [row.id for row in rows if row.status == "queued" and row.is_untried]
    ended = end_waiting(engine, untried, time_zone=time_zone) if untried else 0
    for row in rows:
        if row.status == "queued" and not row.is_untried:
            waiting = Running(
                id=row.id,
                worker_id=None,
                task_id=row.task_id,
                device_id=row.device_id,
                trigger=row.trigger,
                ran_seconds=row.ran_seconds,
                waited_seconds=row.waited_seconds,
                failed_try_count=row.failed_try_count,
            )
            ended += end_running(engine, waiting, Ending(status="cancelled"), time_zone=time_zone)
    return Cancelled(ended=ended, stopping=len(rows) - ended)


def requested_cancellations(engine: Engine, worker_id: uuid.UUID) -> list[uuid.UUID]:
    """The worker's running executions that somebody cancelled."""
    with engine.connect() as connection:
        return list(
            connection.scalars(
                text("""
                    SELECT id FROM open_executions
                    WHERE worker_id = :worker_id AND cancel_requested_at IS NOT NULL
                """),
                {"worker_id": worker_id},
            )
        )
