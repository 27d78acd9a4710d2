"""The worker processes of this machine: started, watched, replaced, ended.

The parent holds the last layer of the deadline: an execution that still runs after its deadline
and the grace is ended here, whatever its thread does, and its process is replaced.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

from exporter.executions.recovery import end_overdue
from exporter.logs import get_logger
from exporter.processes import forget_process
from exporter.settings import Settings
from exporter.worker import Assignment

log = get_logger(__name__)

#: Waits before a worker that ended by itself is started again, one after the other (seconds).
_RESTART_DELAYS_SECONDS = (0.0, 1.0, 5.0, 15.0, 60.0)
#: A worker that lived so long has recovered: its next end is not counted with earlier ones.
_RECOVERED_SECONDS = 120.0


@dataclass
class _Worker:
    id: uuid.UUID
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)
    #: When it was told to end; it is killed when it does not, two graces later.
    told_to_end: float | None = None

    def tell_to_end(self) -> None:
        if self.told_to_end is None:
            self.told_to_end = time.monotonic()
            self.process.send_signal(signal.SIGTERM)


class WorkerPool:
    """Keeps a number of worker processes running; `turn` is called about once a second."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._workers: list[_Worker] = []
        self._is_ending = False
        self._early_ends = 0
        self._next_start = 0.0

    @property
    def size(self) -> int:
        return self._settings.workers.processes or os.cpu_count() or 1

    def turn(self) -> None:
        """Replace what ended, end what is stuck, start what is missing."""
        self._kill_those_that_do_not_end()
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._bury(worker)
        serving = [worker for worker in self._workers if worker.told_to_end is None]
        while len(serving) < self.size and not self._is_ending and self._may_start():
            serving.append(self._start())

    def end_overdue_executions(self) -> None:
        """Write `timeout` for executions past deadline and grace; replace workers with stuck ones.

        Raises SQLAlchemyError while PostgreSQL is away.
        """
        grace_seconds = self._settings.collection.grace_seconds
        end_overdue(self._engine, grace_seconds=grace_seconds, time_zone=self._settings.time_zone)
        with self._engine.connect() as connection:
            stuck = set(
                connection.scalars(text("SELECT id FROM processes WHERE sessions_stuck > 0"))
            )
        for worker in self._workers:
            if worker.id in stuck and worker.told_to_end is None:
                log.error("a worker has a stuck session and is replaced", pid=worker.process.pid)
                worker.tell_to_end()

    def reload(self, settings: Settings) -> None:
        """Take new settings: workers are replaced where they matter to them, else told to read
        the inventory again.
        """
        matters = self._settings.model_dump(exclude={"schedules", "git", "http"}) != (
            settings.model_dump(exclude={"schedules", "git", "http"})
        )
        self._settings = settings
        for worker in self._workers:
            if matters:
                worker.tell_to_end()
            else:
                worker.process.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """End all workers: their executions get the grace, then they are queued again."""
        self._is_ending = True
        for worker in self._workers:
            worker.tell_to_end()
        while self._workers:
            self.turn()
            time.sleep(0.1)

    def _may_start(self) -> bool:
        return time.monotonic() >= self._next_start

    def _start(self) -> _Worker:
        worker_id = uuid.uuid4()
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter.worker"], stdin=subprocess.PIPE, env=_environment()
        )
        assert process.stdin is not None
        pickle.dump(Assignment(worker_id, self._settings), process.stdin)
        process.stdin.flush()
        worker = _Worker(worker_id, process)
        self._workers.append(worker)
        log.info("started a worker", pid=process.pid)
        return worker

    def _bury(self, worker: _Worker) -> None:
        """Remove a worker that has ended; what it ran is then recovered at once."""
        self._workers.remove(worker)
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        forget_process(self._engine, worker.id)
        if worker.told_to_end is not None:
            return
        if time.monotonic() - worker.started > _RECOVERED_SECONDS:
            self._early_ends = 0
        delay = _RESTART_DELAYS_SECONDS[min(self._early_ends, len(_RESTART_DELAYS_SECONDS) - 1)]
        self._early_ends += 1
        self._next_start = time.monotonic() + delay
        log.error(
            "a worker ended by itself and is replaced",
            pid=worker.process.pid,
            returncode=worker.process.returncode,
            delay_seconds=delay,
        )

    def _kill_those_that_do_not_end(self) -> None:
        patience = 2 * self._settings.collection.grace_seconds + 5
        for worker in self._workers:
            if worker.told_to_end and time.monotonic() - worker.told_to_end > patience:
                worker.process.kill()


def _environment() -> Mapping[str, str]:
    """One arena of malloc for all threads: fifty of them otherwise keep fifty heaps."""
    return {**os.environ, "MALLOC_ARENA_MAX": "2"}
