"""What the page shows, read from PostgreSQL within a bounded time."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Engine

from exporter.database.engine import database_errors
from exporter.errors import DatabaseProblem
from exporter.queries.executions import recent_executions
from exporter.queries.overview import FleetCounts, OpenCounts, fleet_counts, open_counts
from exporter.queries.rows import Row

#: How long a request waits for PostgreSQL before it says that it is away.
PATIENCE_SECONDS = 1.5
#: An overview is shared by the requests of this long, so that many readers cost one query.
_FRESH_SECONDS = 1.0
_SHOWN_EXECUTIONS = 20


@dataclass(frozen=True)
class Overview:
    """The present, of one moment."""

    fleet: FleetCounts
    open: OpenCounts
    recent: list[Row]


class OverviewSource:
    """Reads the overview in a thread of its own, one reading at a time.

    A database that does not answer (a frozen server sends no error) therefore holds one thread
    and one connection however many ask, and each of them waits no longer than PATIENCE_SECONDS.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._reading: Future[Overview] | None = None
        self._began_at = 0.0

    def read(self) -> Overview:
        """Raises DatabaseProblem where PostgreSQL is away or slow."""
        try:
            return self._present_reading().result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            raise DatabaseProblem(
                f"PostgreSQL does not answer within {PATIENCE_SECONDS} seconds"
            ) from None

    def _present_reading(self) -> Future[Overview]:
        with self._lock:
            is_old = time.monotonic() - self._began_at > _FRESH_SECONDS
            if self._reading is None or (self._reading.done() and is_old):
                self._reading, self._began_at = Future(), time.monotonic()
                threading.Thread(
                    target=self._fill, args=(self._reading,), name="overview", daemon=True
                ).start()
            return self._reading

    def _fill(self, reading: Future[Overview]) -> None:
        try:
            reading.set_result(self._query())
        except Exception as error:  # noqa: BLE001 - raised again in each request that waits for it
            reading.set_exception(error)

    def _query(self) -> Overview:
        # One snapshot, so that the numbers of the page agree with each other.
        with (
            database_errors(),
            self._engine.connect().execution_options(
                isolation_level="REPEATABLE READ"
            ) as connection,
        ):
            return Overview(
                fleet=fleet_counts(connection),
                open=open_counts(connection),
                recent=recent_executions(connection, limit=_SHOWN_EXECUTIONS),
            )
