"""Waiting and running executions: their types, claiming one, and their jobs in the queue."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from exporter.database.prepared import PreparedStatement

#: The queue's name of the job that runs one execution.
TASK_NAME = "run_execution"
#: A person's execution goes before a schedule's.
PEOPLES_PRIORITY = 10
SCHEDULES_PRIORITY = 0
_PEOPLES_SUFFIX = ".people"


@dataclass(frozen=True)
class Running:
    """An execution that runs, as far as whoever ends it must know it."""

    id: uuid.UUID
    #: None: it waits for a further try.
    worker_id: uuid.UUID | None
    task_id: uuid.UUID
    device_id: int
    trigger: str
    #: What earlier tries took.
    ran_seconds: float
    #: From when it was due to its first start.
    waited_seconds: float
    failed_try_count: int


@dataclass(frozen=True)
class Claimed(Running):
    """A running execution, as its worker sees it, with the device's current configuration."""

    device: str
    platform: str
    accept_shrunk: bool
    deadline_seconds: float
    key_type: str | None
    key_base64: str | None
    configuration_id: int | None
    previous_sha256: bytes | None
    previous_stable_hash: bytes | None
    previous_size: int | None


_CLAIM = PreparedStatement(
    "claim_execution",
    """
    WITH claimed AS (
        UPDATE open_executions AS e
        SET status = 'running', worker_id = :worker_id, try_started_at = now(),
            started_at = coalesce(e.started_at, now()),
            deadline_at = now() + make_interval(secs => d.deadline_seconds),
            waited_seconds = coalesce(
                e.waited_seconds, greatest(0, extract(epoch FROM now() - e.not_before)))
        FROM devices AS d
        LEFT JOIN device_states AS s ON s.device_id = d.id
        LEFT JOIN configurations AS c ON c.id = s.configuration_id
        LEFT JOIN host_keys AS k ON k.device_id = d.id
        WHERE e.id = :id AND d.id = e.device_id
          AND e.status = 'queued' AND e.not_before <= now()
          AND NOT EXISTS (SELECT FROM open_executions AS r
                          WHERE r.device_id = e.device_id AND r.status = 'running')
        RETURNING e.id, e.worker_id, e.task_id, e.device_id, e.trigger, e.ran_seconds,
            e.waited_seconds, jsonb_array_length(e.failed_tries) AS failed_try_count,
            d.name AS device, e.platform, e.accept_shrunk, d.deadline_seconds,
            k.key_type, k.key_base64,
            c.id AS configuration_id, c.sha256 AS previous_sha256,
            c.stable_hash AS previous_stable_hash, c.size_bytes AS previous_size
    ), told AS (
        INSERT INTO events (kind, task_id, execution_id, device_id, status)
        SELECT 'execution_started', task_id, id, device_id, 'running' FROM claimed
    )
    SELECT * FROM claimed
""",
    {"id": "uuid", "worker_id": "uuid"},
)


def claim(connection: Connection, execution_id: uuid.UUID, worker_id: uuid.UUID) -> Claimed | None:
    """Make a queued execution that is due ours; None: somebody was first, or its device is busy.

    A waiting execution of a busy device is woken by the ending of the one that runs.
    """
    row = _CLAIM.first(connection, {"id": execution_id, "worker_id": worker_id})
    if row is None:
        return None
    # psycopg2 hands out bytea as memoryview, which compares otherwise than bytes.
    values: dict[str, Any] = {
        key: bytes(value) if isinstance(value, memoryview) else value for key, value in row.items()
    }
    return Claimed(**values)


def insert_jobs(source: str) -> str:
    """SQL that adds a job for each row of the source, which has the columns of open_executions."""
    return f"""
        INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args, scheduled_at)
        SELECT zone || CASE WHEN priority >= {PEOPLES_PRIORITY}
                THEN '{_PEOPLES_SUFFIX}' ELSE '' END,
            '{TASK_NAME}', priority, jsonb_build_object('execution_id', id),
            CASE WHEN not_before > now() THEN not_before END
        FROM {source} ORDER BY not_before, id
    """


_ENQUEUE = text(
    insert_jobs(
        "(SELECT * FROM open_executions WHERE id = ANY(:ids) AND status = 'queued') AS waiting"
    )
)


def queue_names(zones: Sequence[str], *, is_for_people: bool) -> list[str]:
    """The queues of the zones: those of people's executions alone, or all."""
    peoples = [f"{zone}{_PEOPLES_SUFFIX}" for zone in zones]
    return peoples if is_for_people else [*zones, *peoples]


def enqueue(connection: Connection, execution_ids: Sequence[uuid.UUID]) -> None:
    """Add a job for each waiting execution; a job too many does no harm."""
    connection.execute(_ENQUEUE, {"ids": list(execution_ids)})
