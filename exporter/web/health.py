"""/healthz: the process lives. /readyz: it can do its work."""

import threading
from concurrent.futures import Future

from flask import Flask
from sqlalchemy import Engine

from exporter.database.migrations import is_current
from exporter.leadership import is_led
from exporter.logs import get_logger

log = get_logger(__name__)

#: How long a request waits for PostgreSQL.
PATIENCE_SECONDS = 1.5


def add_health(app: Flask, engine: Engine) -> None:
    readiness = Readiness(engine)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process lives; says nothing about PostgreSQL."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> tuple[dict[str, str | dict[str, bool]], int]:
        """200 where every check passes, else 503; which one fails stands in the answer."""
        checks = readiness.read()
        is_ready = all(checks.values())
        answer: dict[str, str | dict[str, bool]] = {
            "status": "ready" if is_ready else "not ready",
            "checks": checks,
        }
        return answer, 200 if is_ready else 503


class Readiness:
    """The checks, one run at a time in a thread: a frozen server holds one thread, not each."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._running: Future[dict[str, bool]] | None = None

    def read(self) -> dict[str, bool]:
        """What is well: database, its migrations, and that somebody leads."""
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(
                    target=self._check, args=(self._running,), name="readiness", daemon=True
                ).start()
            running = self._running
        try:
            return running.result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            return _nothing()

    def _check(self, running: "Future[dict[str, bool]]") -> None:
        try:
            migrations = is_current(self._engine)
            with self._engine.connect() as connection:
                leadership = is_led(connection)
            running.set_result(
                {"database": True, "migrations": migrations, "leadership": leadership}
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, this process is not ready
            log.info("not ready", error=f"{type(error).__name__}: {error}")
            running.set_result(_nothing())


def _nothing() -> dict[str, bool]:
    return {"database": False, "migrations": False, "leadership": False}
