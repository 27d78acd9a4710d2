"""A further try inside the same execution: whether, when, and back into the queue."""

import json
import random

from sqlalchemy import Connection, text

from exporter.errors import ADVICE, Reason
from exporter.executions.claims import Running, insert_jobs
from exporter.executions.endings import Ending
from exporter.settings import CollectionSettings


def delay_before_retry(
    settings: CollectionSettings, reason: Reason | None, failed_tries: int
) -> float | None:
    """Seconds until the next try, with jitter of a half; None: no further try."""
    if reason is None or not ADVICE[reason].is_retried or failed_tries >= settings.retries:
        return None
    return settings.retry_delay_seconds * 2.0**failed_tries * random.uniform(0.5, 1.5)  # noqa: S311


def interruption(message: str, try_seconds: float | None) -> Ending:
    """The ending of a try whose worker went away."""
    return Ending(
        status="failed", reason=Reason.INTERRUPTED, message=message, try_seconds=try_seconds
    )


_REQUEUE = text(f"""
    WITH waiting AS (
    UPDATE open_executions AS e
    SET status = 'queued', worker_id = NULL, deadline_at = NULL, try_started_at = NULL,
        not_before = now() + make_interval(secs => :delay_seconds),
        ran_seconds = ran_seconds + :try_seconds,
        failed_tries = failed_tries || CAST(:failed_try AS jsonb)
    WHERE id = :id AND status = 'running' AND worker_id = :worker_id
      AND cancel_requested_at IS NULL
      AND NOT EXISTS (SELECT FROM open_executions AS w
                      WHERE w.device_id = e.device_id AND w.status = 'queued')
    RETURNING e.*
    ), enqueued AS ({insert_jobs("waiting")})
    SELECT id FROM waiting
""")


def requeue(
    connection: Connection, running: Running, ending: Ending, *, delay_seconds: float
) -> bool:
    """Let a running execution wait for a further try; False: it must end instead.

    It must end when somebody cancelled it, or when another execution of the device waits already:
    that one is the further try.
    """
    failed_try = {
        "reason": ending.reason,
        "message": ending.message,
        "seconds": ending.try_seconds,
        **ending.extra,
    }
    requeued = connection.execute(
        _REQUEUE,
        {
            "id": running.id,
            "worker_id": running.worker_id,
            "delay_seconds": delay_seconds,
            "try_seconds": ending.try_seconds or 0.0,
            "failed_try": json.dumps([failed_try]),
        },
    ).first()
    return requeued is not None
