"""Who leads: one session advisory lock, on a connection of its own.

The server gives the lock back when the session ends, however it ends, so a leader that is killed,
cut off or stopped needs no heartbeat and leaves nothing to clean up.
"""

import threading

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from exporter.database.engine import DEAD_PEER_SECONDS, database_errors
from exporter.errors import LeadershipLost
from exporter.logs import get_logger

#: Key of the advisory lock: "cble" in ASCII.
LOCK_KEY = 0x63626C65

_log = get_logger(__name__)


class Leadership:
    """This process's claim to lead; its methods may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._guard = threading.Lock()

    def acquire(self) -> bool:
        """Take the lead if nobody has it; True where this process leads now. Never waits for it.

        Raises DatabaseProblem where PostgreSQL does not answer.
        """
        with self._guard, database_errors():
            if self._is_alive():
                return True
            connection = self._connect()
            taken: bool = connection.execute(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}
            ).scalar_one()
            if not taken:
                connection.close()
                return False
            self._connection = connection
        _log.info("this process leads")
        return True

    def is_held(self) -> bool:
        """Whether this process still leads; asks the server, at the cost of one round trip."""
        with self._guard:
            return self._is_alive()

    def require(self) -> None:
        """Raise LeadershipLost where this process does not lead (any more)."""
        if not self.is_held():
            raise LeadershipLost("this process does not lead any more")

    def release(self) -> None:
        """Give the lead back; at once another process may take it."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> Connection:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # Not one of the pool: it is held for as long as this process leads, and then closed.
        connection.detach()
        # The server too must notice a leader whose machine vanished without a word.
        for name, value in {
            "tcp_keepalives_idle": DEAD_PEER_SECONDS // 3,
            "tcp_keepalives_interval": DEAD_PEER_SECONDS // 6,
            "tcp_keepalives_count": 4,
        }.items():
            connection.execute(text(f"SET {name} = {value}"))
        return connection

    def _is_alive(self) -> bool:
        """The lock lives exactly as long as its session: if that answers, we hold it."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError as error:
            _log.warning("the lead is lost", error=str(error.orig).strip())
            self._connection.close()
            self._connection = None
            return False
        return True


def is_led(connection: Connection) -> bool:
    """Whether any process leads now."""
    return bool(
        connection.execute(
            text("""
                SELECT EXISTS (
                    SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
                        AND l.objsubid = 1 AND l.classid = 0 AND l.objid = CAST(:key AS oid))
            """),
            {"key": LOCK_KEY},
        ).scalar_one()
    )
