"""What a vanished or stuck worker leaves behind: found, and ended or queued again."""

from dataclasses import dataclass, replace

from sqlalchemy import Engine, text

from exporter.errors import Reason
from exporter.executions.claims import Running
from exporter.executions.endings import Ending, end_running
from exporter.executions.retries import interruption, requeue
from exporter.settings import CollectionSettings

#: A worker that was silent for so long is gone: six missed heartbeats.
VANISHED_SECONDS = 30.0


@dataclass(frozen=True)
class Abandoned(Running):
    """A running execution whose worker does not end it. Seconds are by the database's clock."""

    try_seconds: float
    is_cancel_requested: bool


def end_overdue(engine: Engine, *, grace_seconds: float, time_zone: str) -> int:
    """End as `timeout` what still runs after its deadline and the grace; how many there were.

    This is the last layer of the deadline: it holds whatever a driver does in its thread.
    """
    overdue = _running_where(
        engine,
        "e.deadline_at + make_interval(secs => :seconds) < now()",
        seconds=grace_seconds,
    )
    ending = Ending(
        status="timeout",
        reason=Reason.TIMEOUT,
        message="the session did not end by its deadline and was given up",
    )
    return sum(
        end_running(
            engine, running, replace(ending, try_seconds=running.try_seconds), time_zone=time_zone
        )
        for running in overdue
    )


def recover_vanished(engine: Engine, settings: CollectionSettings, *, time_zone: str) -> int:
    """Queue again, or end, what runs on workers that are gone; how many executions there were."""
    vanished = _running_where(
        engine,
        """NOT EXISTS (SELECT FROM processes AS p WHERE p.id = e.worker_id
           AND p.heartbeat_at > now() - make_interval(secs => :seconds))""",
        seconds=VANISHED_SECONDS,
    )
    for running in vanished:
        ending = interruption("the worker vanished while the execution ran", running.try_seconds)
        if running.failed_try_count < settings.retries:
            with engine.begin() as connection:
                if requeue(connection, running, ending, delay_seconds=0.0):
                    continue
        if running.is_cancel_requested:
            ending = Ending(status="cancelled", try_seconds=running.try_seconds)
        end_running(engine, running, ending, time_zone=time_zone)
    return len(vanished)


def _running_where(engine: Engine, condition: str, *, seconds: float) -> list[Abandoned]:
    with engine.connect() as connection:
        rows = connection.execute(
            text(f"""
                SELECT id, worker_id, task_id, device_id, trigger, ran_seconds,
                    coalesce(waited_seconds, 0) AS waited_seconds,
                    jsonb_array_length(failed_tries) AS failed_try_count,
                    extract(epoch FROM now() - try_started_at)::double precision AS try_seconds,
                    cancel_requested_at IS NOT NULL AS is_cancel_requested
                FROM open_executions AS e WHERE status = 'running' AND {condition}
            """),
            {"seconds": seconds},
        ).mappings()
        return [Abandoned(**row) for row in rows]
