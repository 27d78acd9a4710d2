"""The daemon: everything on one machine in one command, put together here.

PostgreSQL (embedded, unless a URL is set), the worker processes, the listener, and, while this
process leads, the leader's duties. It ends cleanly on SIGTERM and reads its settings again on
SIGHUP.
"""

import queue
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from exporter import logs
from exporter.database.embedded import EmbeddedPostgres
from exporter.database.engine import create_engine, is_embedded
from exporter.database.migrations import upgrade
from exporter.database.waking import notify_of_events
from exporter.errors import ConfigBackupError, Fault, InvalidSettings
from exporter.leader import LeaderDuties
from exporter.leadership import Leadership
from exporter.metrics import Exposition
from exporter.processes import Gauge, Heartbeat
from exporter.settings import Settings, load_settings
from exporter.supervisor import WorkerPool
from exporter.web import (
    Listener,
    create_app,
    create_metrics_app,
    metrics_listener,
    require_token_beyond_loopback,
)

log = logs.get_logger(__name__)

#: How often the daemon looks after its workers, its leadership and its PostgreSQL.
_TURN_SECONDS = 1.0


@dataclass(frozen=True)
class Reloaded:
    """How the last reload of the settings went; error is None where it was taken."""

    at: float
    error: str | None


class _Served:
    """What this process serves over HTTP, from its making to `stop`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        require_token_beyond_loopback(engine, settings.http)
        self._metrics = Exposition(settings.database)
        self._metrics.start()
        self._listener = Listener(create_app(engine, settings, self._metrics), settings.http)
        self._metrics_listener = None
        if settings.metrics.address is not None:
            app = create_metrics_app(engine, settings, self._metrics)
            self._metrics_listener = metrics_listener(app, settings.metrics)
            self._metrics_listener.start()
            log.info("metrics are served", port=self._metrics_listener.port)
        self._listener.start()
        self.address = f"http://{settings.http.address}:{self._listener.port}/"

    def stop(self) -> None:
        self._listener.stop()
        if self._metrics_listener is not None:
            self._metrics_listener.stop()
        self._metrics.stop()


class Daemon:
    """One machine's daemon. `run` blocks until SIGTERM or SIGINT."""

    def __init__(
        self, settings_file: Path, settings: Settings, *, is_worker_only: bool = False
    ) -> None:
        self._settings_file = settings_file
        self._settings = settings
        self._is_worker_only = is_worker_only
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._embedded = EmbeddedPostgres(settings.database) if self._owns_database else None
        self._duties: LeaderDuties | None = None
        self.last_reload = Reloaded(time.time(), None)

    @property
    def _owns_database(self) -> bool:
        return is_embedded(self._settings.database) and not self._is_worker_only

    def run(self, when_ready: Callable[[str], object] = lambda address: None) -> None:
        """Start everything, call `when_ready` with the listener's address, work until a signal.

        Raises DatabaseProblem and the listener's errors where the start fails.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take_signal)
        if self._embedded:
            self._embedded.start()
        try:
            self._serve(when_ready)
        finally:
            if self._embedded:
                self._embedded.stop()

    def _serve(self, when_ready: Callable[[str], object]) -> None:
        engine = create_engine(self._settings.database, application_name="configbackup daemon")
        notify_of_events(engine)
        if not self._is_worker_only:
            upgrade(engine)
        self._leadership = Leadership(engine)
        self._pool = WorkerPool(engine, self._settings)
        heartbeat = Heartbeat(engine, uuid.uuid4(), kind="daemon", gauges=self._gauges)
        heartbeat.start()
        served = None
        if not self._is_worker_only:
            served = _Served(engine, self._settings)
            when_ready(served.address)
        try:
            self._work(engine)
        finally:
            if served:
                served.stop()
            self._pool.end()
            self._resign()
            heartbeat.stop()
            engine.dispose()

    def _work(self, engine: Engine) -> None:
        while True:
            try:
                self._turn(engine)
            except (ConfigBackupError, SQLAlchemyError) as error:
                log.error("PostgreSQL is away", error=f"{type(error).__name__}: {error}")
                self._revive_database()
            number = self._next_signal()
            if number == signal.SIGHUP:
                self._reload(engine)
            elif number is not None:
                log.info("ending", signal=signal.Signals(number).name)
                return

    def _turn(self, engine: Engine) -> None:
        self._pool.turn()
        self._pool.end_overdue_executions()
        if not self._is_worker_only:
            self._lead(engine)

    def _lead(self, engine: Engine) -> None:
        if self._duties is not None and not self._leadership.is_held():
            log.warning("leadership is lost")
            self._resign()
        if self._duties is None and self._leadership.acquire():
            log.info("this process leads")
            self._duties = LeaderDuties(engine, self._settings, self._leadership)
            self._duties.start()

    def _resign(self) -> None:
        if self._duties is not None:
            self._duties.stop()
            self._duties = None
        self._leadership.release()

    def _revive_database(self) -> None:
        """An embedded server that was killed is started again; a foreign one is waited for."""
        if self._embedded is None:
            return
        try:
            self._embedded.start()
        except ConfigBackupError as error:
            log.error("the embedded PostgreSQL cannot be started", error=str(error))

    def _reload(self, engine: Engine) -> None:
        """Take the settings as they are now in the file; bad ones change nothing."""
        try:
            settings = load_settings(self._settings_file)
            _require_same_places(self._settings, settings)
        except InvalidSettings as error:
            log.error("the new configuration is refused; the old one stays", error=str(error))
            self.last_reload = Reloaded(time.time(), str(error))
            return
        self._settings = settings
        logs.configure(settings.logs)
        self._pool.reload(settings)
        if self._duties is not None:
            self._duties.stop()
            self._duties = LeaderDuties(engine, settings, self._leadership)
            self._duties.start()
        self.last_reload = Reloaded(time.time(), None)
        log.info("the configuration was read again")

    def _gauges(self) -> Mapping[str, Gauge]:
        duties = self._duties
        return {
            "is_leader": duties is not None,
            "scheduler_turn_at": duties.scheduler_status.last_turn_at if duties else None,
            "settings_read_at": datetime.fromtimestamp(self.last_reload.at, UTC),
            "settings_error": self.last_reload.error,
        }

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.put(number)

    def _next_signal(self) -> int | None:
        try:
            return self._signals.get(timeout=_TURN_SECONDS)
        except queue.Empty:
            return None


def _require_same_places(old: Settings, new: Settings) -> None:
    """Raise InvalidSettings for what a running daemon cannot change."""
    faults = [
        Fault(
            file="the configuration",
            path=section,
            found="a change",
            expected="no change while the daemon runs; restart it to move it",
        )
        for section in ("database", "http", "metrics")
        if getattr(old, section) != getattr(new, section)
    ]
    if faults:
        raise InvalidSettings(faults)
