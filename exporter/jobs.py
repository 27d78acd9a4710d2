"""The queue: a Procrastinate app whose one job runs one execution.

A job only carries an execution's id. The row of `open_executions` decides what happens: a job
that is too many, or too late, finds nothing to claim. So jobs need no lock, no retry of their own
and no rescue; the leader adds a job where one was lost (`requeue_lost`) and deletes those that a
vanished worker left behind.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import Connection, text

from exporter.database.engine import psycopg_conninfo
from exporter.executions.claims import TASK_NAME, enqueue, queue_names
from exporter.logs import get_logger
from exporter.settings import DatabaseSettings

log = get_logger(__name__)

#: Connections of a worker process's queue: two listen, the rest fetch and finish jobs.
_QUEUE_CONNECTIONS = 4
#: Wait before the queue is asked again after PostgreSQL was away.
_RETURN_SECONDS = 2.0


async def work_off_queue(
    settings: DatabaseSettings,
    run: Callable[[uuid.UUID], None],
    *,
    executor: Executor,
    zones: Sequence[str],
    sessions: int,
) -> None:
    """Run the zones' jobs, each in a thread of the executor, until this task is cancelled.

    One of the sessions takes people's executions alone, so that theirs start at once when all
    others hang. After the cancellation no job is taken, and those that run are waited for. While
    PostgreSQL is away Procrastinate's worker ends (its issue 1334 and our measurement); it is
    started again.
    """
    while True:
        app = _create_app(settings, run, executor)
        try:
            async with app.open_async(), asyncio.TaskGroup() as group:
                group.create_task(_work(app, queue_names(zones, is_for_people=False), sessions - 1))
                group.create_task(_work(app, queue_names(zones, is_for_people=True), 1))
        except* (ConnectorException, PoolTimeout, OSError) as errors:
            log.warning("the queue cannot be reached", error=type(errors.exceptions[0]).__name__)
        await asyncio.sleep(_RETURN_SECONDS)


async def _work(app: App, queues: Sequence[str], concurrency: int) -> None:
    await app.run_worker_async(
        queues=queues,
        concurrency=concurrency,
        delete_jobs="always",
        install_signal_handlers=False,
        fetch_job_polling_interval=1.0,
    )


def _create_app(
    settings: DatabaseSettings, run: Callable[[uuid.UUID], None], executor: Executor
) -> App:
    app = App(
        connector=PsycopgConnector(
            conninfo=psycopg_conninfo(settings, application_name="configbackup queue"),
            pool_factory=_lean_pool,
            min_size=1,
            max_size=_QUEUE_CONNECTIONS,
        )
    )

    @app.task(name=TASK_NAME)
    async def run_execution(execution_id: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(executor, run, uuid.UUID(execution_id))

    return app


def _lean_pool(**arguments: Any) -> AsyncConnectionPool:
    """A pool that saves round trips: each of Procrastinate's queries is one statement.

    A connection that went stale is not found before its use; it ends the worker then, and
    `work_off_queue` begins anew.
    """

    async def configure(connection: AsyncConnection) -> None:
        await connection.set_autocommit(True)

    return AsyncConnectionPool(**{**arguments, "check": None, "configure": configure})


def requeue_lost(connection: Connection) -> int:
    """Add a job for each execution that is due but has none; how many there were.

    A job can be lost with a worker that vanished between taking it and claiming the execution.
    """
    lost = connection.scalars(
        text("""
            SELECT e.id FROM open_executions AS e
            WHERE e.status = 'queued' AND e.not_before < now() - interval '15 seconds'
              AND NOT EXISTS (
                SELECT FROM open_executions AS r
                WHERE r.device_id = e.device_id AND r.status = 'running')
              AND NOT EXISTS (
                SELECT FROM procrastinate_jobs AS j
                WHERE j.status = 'todo' AND j.args = jsonb_build_object('execution_id', e.id))
        """)
    ).all()
    if lost:
        enqueue(connection, lost)
    return len(lost)


def delete_stalled_jobs(connection: Connection) -> int:
    """Delete the jobs that a vanished worker left as running; how many there were."""
    return connection.execute(
        text("""
            DELETE FROM procrastinate_jobs AS j
            WHERE j.status <> 'todo' AND NOT EXISTS (
                SELECT FROM procrastinate_workers AS w
                WHERE w.id = j.worker_id AND w.last_heartbeat > now() - interval '60 seconds')
        """)
    ).rowcount
