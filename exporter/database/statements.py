"""Counts the statements of a process that failed or took long, for its heartbeat."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event

SLOW_SECONDS = 1.0


@dataclass
class StatementCounts:
    """Since `count_statements` was called for the engine."""

    failed: int = 0
    slow: int = 0


def count_statements(engine: Engine) -> StatementCounts:
    """Counts that go on as the engine is used. A lost update between threads is borne."""
    counts = StatementCounts()

    def began(
        _connection: Any, _cursor: Any, _sql: Any, _values: Any, context: Any, _m: Any
    ) -> None:
        context.configbackup_began = time.monotonic()

    def ended(
        _connection: Any, _cursor: Any, _sql: Any, _values: Any, context: Any, _m: Any
    ) -> None:
        counts.slow += time.monotonic() - context.configbackup_began > SLOW_SECONDS

    def failed(_context: Any) -> None:
        counts.failed += 1

    event.listen(engine, "before_cursor_execute", began)
    event.listen(engine, "after_cursor_execute", ended)
    event.listen(engine, "handle_error", failed)
    return counts
