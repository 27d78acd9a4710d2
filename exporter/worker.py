"""A worker process: takes jobs from the queue and runs executions in threads.

It is started by `supervisor`, which hands it its settings through standard input and keeps that
pipe open: when the pipe closes, the parent is gone and the worker ends too.
"""

import asyncio
import os
import pickle
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import uvloop
from sqlalchemy.exc import SQLAlchemyError

from exporter import logs
from exporter.collection import Collector
from exporter.database.engine import create_engine
from exporter.database.waking import notify_of_events
from exporter.executions.cancelling import requested_cancellations
from exporter.executions.tries import Runner, run_execution
from exporter.inventory import LoginSource
from exporter.jobs import work_off_queue
from exporter.processes import Heartbeat
from exporter.settings import Settings

log = logs.get_logger(__name__)

#: How often a worker asks which of its executions somebody cancelled.
CANCELLATION_SECONDS = 1.0


@dataclass(frozen=True)
class Assignment:
    """What a worker process is told by its parent."""

    worker_id: uuid.UUID
    settings: Settings


def main() -> None:
    """Entry of the process; ends without waiting for a thread that hangs."""
    assignment: Assignment = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    logs.configure(assignment.settings.logs)
    uvloop.run(_Worker(assignment).run())
    logs.flush()
    os._exit(0)


class _Worker:
    def __init__(self, assignment: Assignment) -> None:
        self._settings = assignment.settings
        self._id = assignment.worker_id
        self._stopping = threading.Event()
        self._engine = create_engine(
            self._settings.database,
            application_name="configbackup worker",
            is_lean=True,
        )
        notify_of_events(self._engine)
        self._collector = Collector(
            handshakes=self._settings.collection.handshakes,
            grace_seconds=self._settings.collection.grace_seconds,
        )
        self._logins = LoginSource(self._settings.inventory, self._settings.collection)
        self._runner = Runner(
            engine=self._engine,
            worker_id=self._id,
            collector=self._collector,
            logins=self._logins,
            settings=self._settings.collection,
            time_zone=self._settings.time_zone,
            is_stopping=self._stopping.is_set,
        )
        self._heartbeat = Heartbeat(
            self._engine,
            self._id,
            kind="worker",
            zones=self._settings.workers.zones,
            gauges=self._gauges,
        )

    async def run(self) -> None:
        """Work until SIGTERM or the end of the parent, then end what runs within the grace."""
        sessions = self._settings.collection.sessions
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._logins.request_reload)
        threading.Thread(
            target=_wait_for_parents_end,
            args=(partial(loop.call_soon_threadsafe, stop.set),),
            daemon=True,
        ).start()
        await loop.run_in_executor(None, self._heartbeat.start)
        executor = ThreadPoolExecutor(sessions, thread_name_prefix="session")
        queue = asyncio.create_task(
            work_off_queue(
                self._settings.database,
                partial(run_execution, self._runner),
                executor=executor,
                zones=self._settings.workers.zones,
                sessions=sessions,
            )
        )
        cancellations = asyncio.create_task(self._watch_cancellations())
        await asyncio.wait(
            [queue, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        await self._end(queue)
        cancellations.cancel()
        await loop.run_in_executor(None, self._heartbeat.stop)

    async def _end(self, queue: "asyncio.Task[None]") -> None:
        """Take nothing more; what runs gets the grace, then it is cut off and queued again."""
        grace_seconds = self._settings.collection.grace_seconds
        queue.cancel()
        done, _ = await asyncio.wait([queue], timeout=grace_seconds)
        if not done:
            self._stopping.set()
            self._collector.cancel_all()
            done, _ = await asyncio.wait([queue], timeout=grace_seconds)
        if done and not queue.cancelled() and queue.exception():
            log.error("the queue ended with an error", error=repr(queue.exception()))

    async def _watch_cancellations(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CANCELLATION_SECONDS)
            if not self._collector.sessions_in_use:
                continue
            try:
                ids = await loop.run_in_executor(
                    None, requested_cancellations, self._engine, self._id
                )
            except SQLAlchemyError as error:
                log.warning("cancellations cannot be read", error=type(error).__name__)
                continue
            for execution_id in ids:
                self._collector.cancel(execution_id)

    def _gauges(self) -> Mapping[str, int | bool]:
        return {
            "is_draining": self._stopping.is_set(),
            "sessions_limit": self._settings.collection.sessions,
            "sessions_in_use": self._collector.sessions_in_use,
            "sessions_stuck": self._collector.sessions_stuck,
            "handshakes_waiting": self._collector.handshakes_waiting,
        }


def _wait_for_parents_end(tell: Callable[[], object]) -> None:
    while sys.stdin.buffer.read(1):
        pass
    tell()


if __name__ == "__main__":
    main()
