"""Tell readers of events that something was committed.

NOTIFY inside the ending transactions would make their commits wait for each other. So a process
notifies after its commits, from a thread of its own, at most ten times a second; a notification
that gets lost costs a reader's next look.
"""

import threading
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

CHANNEL = "configbackup_events"
_PAUSE_SECONDS = 0.1


def notify_of_events(engine: Engine) -> None:
    """From now on, who commits events through this engine wakes their readers."""
    due = threading.Event()

    def executed(
        connection: Connection, _cursor: Any, sql: str, _values: Any, _context: Any, _many: Any
    ) -> None:
        if "INSERT INTO events" in sql:
            if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
                due.set()
            else:
                connection.info["told_events"] = True

    def committed(connection: Connection) -> None:
        if connection.info.pop("told_events", False):
            due.set()

    event.listen(engine, "after_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    threading.Thread(target=_notify, args=(engine, due), name="waking", daemon=True).start()


def _notify(engine: Engine, due: threading.Event) -> None:
    pause = threading.Event()
    while True:
        due.wait()
        due.clear()
        try:
            with engine.begin() as connection:
                connection.execute(text(f"NOTIFY {CHANNEL}"))
        except SQLAlchemyError:
            # PostgreSQL is away: readers look by themselves once it is back.
            pause.wait(1.0)
        pause.wait(_PAUSE_SECONDS)
