"""Start, follow and cancel a backup: what the scheduler, the API and the command line call."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from exporter.errors import UnknownBackup
from exporter.executions.cancelling import Cancelled, cancel_executions
from exporter.executions.claims import PEOPLES_PRIORITY, SCHEDULES_PRIORITY, enqueue
from exporter.models import PEOPLES_TRIGGERS
from exporter.queries.selection import select_devices
from exporter.settings import Selection


@dataclass(frozen=True, kw_only=True)
class BackupRequest:
    """One trigger. `spread_seconds` is the window from now over which the devices are spread."""

    selection: Selection
    trigger: str
    requested_by: str
    comment: str | None = None
    idempotency_key: str | None = None
    schedule_id: int | None = None
    scheduled_at: datetime | None = None
    spread_seconds: float = 0.0
    accept_shrunk: bool = False

    @property
    def is_by_a_person(self) -> bool:
        return self.trigger in PEOPLES_TRIGGERS


@dataclass(frozen=True)
class StartedBackup:
    """A backup and how many executions it queued, and how many waiting ones it joined."""

    task_id: uuid.UUID
    #: False: the tick or the idempotency key was used before; this is that backup.
    is_new: bool
    queued: int
    joined: int


def start_backup(connection: Connection, request: BackupRequest) -> StartedBackup:
    """Write the backup, its executions and their jobs; the caller commits.

    A device that waits already is not queued twice: the backup joins that execution, and a
    person's trigger pulls it forward to now. A running execution is never joined: the change that
    the person asks about may come after its fetch.

    Raises UnknownDevice and NothingSelected; nothing is started then.
    """
    task_id = _insert_backup(connection, request)
    if task_id is None:
        return _earlier_backup(connection, request)
    devices = select_devices(connection, request.selection, by_person=request.is_by_a_person)
    queued, joined = _queue_or_join(
        connection, task_id, request, sorted(device.id for device in devices)
    )
    if joined and request.is_by_a_person:
        _pull_forward(connection, joined, accept_shrunk=request.accept_shrunk)
        enqueue(connection, joined)
    enqueue(connection, queued)
    connection.execute(
        text("INSERT INTO events (kind, task_id) VALUES ('backup_started', :task_id)"),
        {"task_id": task_id},
    )
    return StartedBackup(task_id, is_new=True, queued=len(queued), joined=len(joined))


def _insert_backup(connection: Connection, request: BackupRequest) -> uuid.UUID | None:
    """None: a backup of this tick, or with this idempotency key, is there already."""
    task_id: uuid.UUID | None = connection.scalar(
        text("""
            INSERT INTO backups (task_id, trigger, requested_by, comment, idempotency_key,
                schedule_id, scheduled_at)
            VALUES (gen_random_uuid(), :trigger, :requested_by, :comment, :idempotency_key,
                :schedule_id, :scheduled_at)
            ON CONFLICT DO NOTHING RETURNING task_id
        """),
        {
            "trigger": request.trigger,
            "requested_by": request.requested_by,
            "comment": request.comment,
            "idempotency_key": request.idempotency_key,
            "schedule_id": request.schedule_id,
            "scheduled_at": request.scheduled_at,
        },
    )
    return task_id


def _earlier_backup(connection: Connection, request: BackupRequest) -> StartedBackup:
    row = connection.execute(
        text("""
            SELECT b.task_id, count(d.device_id) AS devices,
                count(*) FILTER (WHERE e.task_id <> b.task_id) AS joined
            FROM backups AS b
            LEFT JOIN backup_devices AS d ON d.task_id = b.task_id
            LEFT JOIN open_executions AS e ON e.id = d.execution_id
            WHERE (b.requested_by = :requested_by AND b.idempotency_key = :idempotency_key)
               OR (b.schedule_id = :schedule_id AND b.scheduled_at = :scheduled_at
                   AND (b.trigger = 'second_round') = (:trigger = 'second_round'))
            GROUP BY b.task_id
        """),
        {
            "requested_by": request.requested_by,
            "idempotency_key": request.idempotency_key,
            "schedule_id": request.schedule_id,
            "scheduled_at": request.scheduled_at,
            "trigger": request.trigger,
        },
    ).one()
    return StartedBackup(
        row.task_id, is_new=False, queued=row.devices - row.joined, joined=row.joined
    )


_LOCK_WAITING = text("""
    SELECT id, device_id FROM open_executions
    WHERE status = 'queued' AND device_id = ANY(:device_ids)
    ORDER BY device_id FOR UPDATE
""")

_QUEUE = text(
    """
    INSERT INTO open_executions (task_id, device_id, schedule_id, not_before, priority, site,
        platform, zone, trigger, accept_shrunk)
    SELECT :task_id, id, :schedule_id,
        now() + make_interval(secs => :spread_seconds * {share_of_window}),
        :priority, site, platform, zone, :trigger, :accept_shrunk
    FROM devices WHERE id = ANY(:device_ids)
    ORDER BY id
    ON CONFLICT (device_id) WHERE status = 'queued' DO NOTHING
    RETURNING id, device_id
""".replace("{share_of_window}", "(hashtextextended(name, 0) & 1048575) / 1048576.0")
)


def _queue_or_join(
    connection: Connection, task_id: uuid.UUID, request: BackupRequest, device_ids: list[int]
) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """(queued, joined) executions: one for each device.

    Waiting executions are locked in the order of devices, so that two triggers never wait for
    each other in a circle, and none is claimed before this backup is committed. What another
    trigger queued meanwhile is joined in the next turn.
    """
    queued: dict[int, uuid.UUID] = {}
    joined: dict[int, uuid.UUID] = {}
    left = device_ids
    while left:
        waiting = connection.execute(_LOCK_WAITING, {"device_ids": left}).all()
        joined |= {row.device_id: row.id for row in waiting}
        left = [device_id for device_id in left if device_id not in joined]
        new = connection.execute(
            _QUEUE,
            {
                "task_id": task_id,
                "device_ids": left,
                "schedule_id": request.schedule_id,
                "spread_seconds": request.spread_seconds,
                "priority": PEOPLES_PRIORITY if request.is_by_a_person else SCHEDULES_PRIORITY,
                "trigger": request.trigger,
                "accept_shrunk": request.accept_shrunk,
            },
        ).all()
        queued |= {row.device_id: row.id for row in new}
        left = [device_id for device_id in left if device_id not in queued]
    connection.execute(
        text("""
            INSERT INTO backup_devices (task_id, device_id, execution_id)
            SELECT :task_id, device_id, execution_id
            FROM unnest(CAST(:device_ids AS bigint[]), CAST(:execution_ids AS uuid[]))
                AS t (device_id, execution_id)
        """),
        {
            "task_id": task_id,
            "device_ids": [*queued, *joined],
            "execution_ids": [*queued.values(), *joined.values()],
        },
    )
    return list(queued.values()), list(joined.values())


def _pull_forward(
    connection: Connection, execution_ids: Sequence[uuid.UUID], *, accept_shrunk: bool
) -> None:
    connection.execute(
        text("""
            UPDATE open_executions
            SET not_before = least(not_before, now()), priority = :priority,
                accept_shrunk = accept_shrunk OR :accept_shrunk
            WHERE id = ANY(:ids)
        """),
        {
            "ids": list(execution_ids),
            "priority": PEOPLES_PRIORITY,
            "accept_shrunk": accept_shrunk,
        },
    )


def cancel_backup(engine: Engine, task_id: uuid.UUID, *, time_zone: str) -> Cancelled:
    """Cancel what the backup still waits for, but for executions that other open backups want.

    Raises UnknownBackup.
    """
    with engine.connect() as connection:
        if not connection.scalar(
            text("SELECT EXISTS (SELECT FROM backups WHERE task_id = :task_id)"),
            {"task_id": task_id},
        ):
            raise UnknownBackup(f"no backup has the task_id {task_id}")
        ids = connection.scalars(
            text("""
                SELECT e.id FROM backup_devices AS d JOIN open_executions AS e
                    ON e.id = d.execution_id
                WHERE d.task_id = :task_id AND NOT EXISTS (
                    SELECT FROM backup_devices AS o JOIN backups AS b USING (task_id)
                    WHERE o.execution_id = e.id AND o.task_id <> :task_id AND b.ended_at IS NULL)
            """),
            {"task_id": task_id},
        ).all()
    return cancel_executions(engine, ids, time_zone=time_zone)


def close_ended_backups(connection: Connection) -> int:
    """Mark and count the backups whose last execution has ended, with an event each.

    The leader's turn.
    """
    return connection.execute(
        text("""
            WITH closing AS MATERIALIZED (
                SELECT b.task_id, b.created_at FROM backups AS b
                WHERE b.ended_at IS NULL AND NOT EXISTS (
                    SELECT FROM backup_devices AS d JOIN open_executions AS e
                        ON e.id = d.execution_id
                    WHERE d.task_id = b.task_id)
            ), counted AS (
                SELECT c.task_id, count(d.device_id) AS devices,
                    count(*) FILTER (WHERE l.status = 'success') AS success,
                    count(*) FILTER (WHERE l.status = 'failed') AS failed,
                    count(*) FILTER (WHERE l.status = 'timeout') AS timeout,
                    count(*) FILTER (WHERE l.status = 'cancelled') AS cancelled
                FROM closing AS c
                LEFT JOIN backup_devices AS d ON d.task_id = c.task_id
                -- The end of an execution that was joined may have begun just before the backup.
                LEFT JOIN backup_execution_logs AS l
                    ON l.id = d.execution_id AND l.created_at > c.created_at - interval '1 hour'
                GROUP BY c.task_id
            ), ended AS (
                UPDATE backups AS b SET ended_at = now(), device_count = c.devices,
                    success_count = c.success, failed_count = c.failed,
                    timeout_count = c.timeout, cancelled_count = c.cancelled
                FROM counted AS c WHERE b.task_id = c.task_id
                RETURNING b.task_id
            )
            INSERT INTO events (kind, task_id) SELECT 'backup_ended', task_id FROM ended
        """)
    ).rowcount
