"""The heartbeat of each process: a row of `processes`, refreshed while the process lives."""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version

import psutil
from sqlalchemy import Engine, QueuePool, text
from sqlalchemy.exc import SQLAlchemyError

from exporter.database.statements import count_statements
from exporter.logs import get_logger

log = get_logger(__name__)

HEARTBEAT_SECONDS = 5.0

#: What a heartbeat may say of its process.
Gauge = int | bool | str | datetime | None

_BEAT = text("""
    INSERT INTO processes AS p (id, kind, host, pid, zones, version, is_leader, is_draining,
        sessions_limit, sessions_in_use, sessions_stuck, handshakes_waiting, pool_limit,
        pool_in_use, memory_bytes, cpu_seconds, open_files, maximum_files, failed_statements,
        slow_statements, settings_read_at, settings_error, scheduler_turn_at)
    VALUES (:id, :kind, :host, :pid, :zones, :version, :is_leader, :is_draining,
        :sessions_limit, :sessions_in_use, :sessions_stuck, :handshakes_waiting, :pool_limit,
        :pool_in_use, :memory_bytes, :cpu_seconds, :open_files, :maximum_files, :failed_statements,
        :slow_statements, :settings_read_at, :settings_error, :scheduler_turn_at)
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(),
        is_leader = excluded.is_leader, is_draining = excluded.is_draining,
        sessions_in_use = excluded.sessions_in_use, sessions_stuck = excluded.sessions_stuck,
        handshakes_waiting = excluded.handshakes_waiting, pool_in_use = excluded.pool_in_use,
        memory_bytes = excluded.memory_bytes, cpu_seconds = excluded.cpu_seconds,
        open_files = excluded.open_files, failed_statements = excluded.failed_statements,
        slow_statements = excluded.slow_statements, settings_read_at = excluded.settings_read_at,
        settings_error = excluded.settings_error, scheduler_turn_at = excluded.scheduler_turn_at
""")


class Heartbeat:
    """Writes this process's row every few seconds from a thread of its own.

    `gauges` gives the changing columns (is_leader, sessions_in_use, ...) at each beat. A beat that
    fails is logged and the next one tries again: PostgreSQL may be away.
    """

    def __init__(
        self,
        engine: Engine,
        process_id: uuid.UUID,
        *,
        kind: str,
        zones: Sequence[str] = (),
        gauges: Callable[[], Mapping[str, Gauge]] = dict,
    ) -> None:
        self._engine = engine
        self._id = process_id
        self._gauges = gauges
        self._process = psutil.Process()
        self._statements = count_statements(engine)
        self._fixed = {
            "id": process_id,
            "kind": kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "zones": list(zones),
            "version": version("configbackup"),
            "maximum_files": self._process.rlimit(psutil.RLIMIT_NOFILE)[0],
        }
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the row, so that what this process claims is never taken for abandoned."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the row: what still runs here is up for recovery."""
        self._stopped.set()
        self._thread.join()
        forget_process(self._engine, self._id)

    def beat(self) -> None:
        """Write the row once; raises SQLAlchemyError while PostgreSQL is away."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        cpu = self._process.cpu_times()
        row = {
            "is_leader": False,
            "is_draining": False,
            "sessions_limit": 0,
            "sessions_in_use": 0,
            "sessions_stuck": 0,
            "handshakes_waiting": 0,
            "pool_limit": pool.size(),
            "pool_in_use": pool.checkedout(),
            "memory_bytes": self._process.memory_info().rss,
            "cpu_seconds": cpu.user + cpu.system,
            "open_files": self._process.num_fds(),
            "failed_statements": self._statements.failed,
            "slow_statements": self._statements.slow,
            "settings_read_at": None,
            "settings_error": None,
            "scheduler_turn_at": None,
            **self._fixed,
            **self._gauges(),
        }
        with self._engine.begin() as connection:
            connection.execute(_BEAT, row)

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            try:
                self.beat()
            except SQLAlchemyError as error:
                log.warning("no heartbeat could be written", error=type(error).__name__)


def forget_process(engine: Engine, process_id: uuid.UUID) -> None:
    """Remove a process's row; its executions are then found by the recovery at once."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM processes WHERE id = :id"), {"id": process_id})


def forget_silent_processes(engine: Engine) -> None:
    """Remove the rows of processes that were silent for an hour."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM processes WHERE heartbeat_at < now() - interval '1 hour'")
        )
