"""The ending transaction: exactly one for each execution.

It deletes the row of `open_executions` (that is the compare-and-set), inserts the log row and a
new configuration if the text changed, writes the device's state and the event, and last, just
before the commit, the daily statistics and the lifetime counters.
"""

import json
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from exporter.collection import HostKeyPin
from exporter.database.partitions import ensure_partition_for
from exporter.errors import Reason
from exporter.executions.claims import Running
from exporter.executions.ending_statements import END_RUNNING, END_WAITING
from exporter.models import HISTOGRAM_BOUNDS_SECONDS

Result = TypeVar("Result")


@dataclass(frozen=True)
class NewVersion:
    """A configuration whose text changed, ready to be stored."""

    sha256: bytes
    stable_hash: bytes
    compressed: bytes
    size_bytes: int
    lines_added: int
    lines_removed: int


@dataclass(frozen=True)
class Ending:
    """How an execution ends. Seconds are those of the last try, from a monotonic clock."""

    status: str
    reason: Reason | None = None
    message: str | None = None
    details: str | None = None
    try_seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    #: An unchanged success carries the current configuration's id and size.
    configuration_id: int | None = None
    size_bytes: int | None = None
    new_version: NewVersion | None = None
    first_key: HostKeyPin | None = None


def end_running(engine: Engine, running: Running, ending: Ending, *, time_zone: str) -> bool:
    """End a running execution in a transaction of its own; False: somebody ended it first."""
    return _with_partition(engine, lambda c: _end_running(c, running, ending, time_zone))


def end_waiting(engine: Engine, ids: Sequence[uuid.UUID], *, time_zone: str) -> int:
    """Cancel waiting executions, in a transaction of its own; how many of them still waited."""
    return _with_partition(engine, lambda c: _end_waiting(c, list(ids), time_zone))


def _with_partition(engine: Engine, action: Callable[[Connection], Result]) -> Result:
    """The action in a transaction; where the month's partition is missing it is made first."""
    try:
        with engine.begin() as connection:
            return action(connection)
    except IntegrityError as error:
        if "no partition of relation" not in str(error.orig):
            raise
    with engine.connect() as connection:
        moment = connection.scalar(text("SELECT now()"))
    ensure_partition_for(engine, moment or datetime.now(UTC))
    with engine.begin() as connection:
        return action(connection)


def _end_running(connection: Connection, running: Running, ending: Ending, time_zone: str) -> bool:
    ran_seconds = running.ran_seconds + (ending.try_seconds or 0.0)
    waited_seconds = running.waited_seconds or 0.0
    version, key = ending.new_version, ending.first_key
    statement = END_RUNNING[ending.status, version is not None, key is not None]
    ended = statement.first(
        connection,
        {
            "id": running.id,
            "worker_id": running.worker_id,
            "from_status": "running" if running.worker_id else "queued",
            "status": ending.status,
            "reason": ending.reason,
            "message": ending.message,
            "details": ending.details,
            "extra": json.dumps({**ending.extra, "worker_id": str(running.worker_id)}),
            "configuration_id": ending.configuration_id,
            "size_bytes": ending.size_bytes,
            "ran_seconds": ran_seconds,
            "waited_seconds": waited_seconds,
            "ran_bucket": _bucket(ran_seconds),
            "waited_bucket": _bucket(waited_seconds),
            "time_zone": time_zone,
            **(vars(version) if version else {}),
            **(vars(key) if key else {}),
        },
    )
    return ended is not None


def _end_waiting(connection: Connection, ids: list[uuid.UUID], time_zone: str) -> int:
    ended = connection.execute(END_WAITING, {"ids": ids, "time_zone": time_zone})
    return len(ended.all())


def _bucket(seconds: float) -> int:
    """The position (from 1) of a value in the arrays of execution_counters."""
    return bisect_left(HISTOGRAM_BOUNDS_SECONDS, seconds) + 1


def pin_key(connection: Connection, device_id: int, key: HostKeyPin, *, accepted_by: str) -> None:
    """Accept a host key for a device; the pinned one is replaced."""
    connection.execute(
        text("""
            INSERT INTO host_keys (device_id, key_type, key_base64, accepted_by)
            VALUES (:device_id, :key_type, :key_base64, :accepted_by)
            ON CONFLICT (device_id) DO UPDATE SET key_type = excluded.key_type,
                key_base64 = excluded.key_base64, accepted_by = excluded.accepted_by,
                accepted_at = now()
        """),
        {
            "device_id": device_id,
            "key_type": key.key_type,
            "key_base64": key.key_base64,
            "accepted_by": accepted_by,
        },
    )
