"""The live processes by their heartbeats: whichever answers knows of all."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.queries.metrics import live_processes

_GAUGES = (
    (names.PROCESS_START, "started"),
    (names.PROCESS_HEARTBEAT, "heartbeat"),
    (names.PROCESS_MEMORY, "memory_bytes"),
    (names.PROCESS_OPEN_FILES, "open_files"),
    (names.PROCESS_MAXIMUM_FILES, "maximum_files"),
    (names.PROCESS_SESSIONS, "sessions_in_use"),
    (names.PROCESS_SESSIONS_LIMIT, "sessions_limit"),
    (names.PROCESS_STUCK, "sessions_stuck"),
    (names.PROCESS_HANDSHAKES, "handshakes_waiting"),
    (names.PROCESS_POOL, "pool_in_use"),
    (names.PROCESS_POOL_LIMIT, "pool_limit"),
    (names.PROCESS_RELOADED, "settings_read"),
)
_COUNTERS = (
    (names.PROCESS_CPU, "cpu_seconds"),
    (names.PROCESS_FAILED_STATEMENTS, "failed_statements"),
    (names.PROCESS_SLOW_STATEMENTS, "slow_statements"),
)


def families(connection: Connection) -> Iterator[Metric]:
    live = [((row.host, row.kind, str(row.pid)), row) for row in live_processes(connection)]
    kinds = [row.kind for _, row in live]
    yield names.PROCESSES.gauge(*(((kind,), kinds.count(kind)) for kind in ("daemon", "worker")))
    yield names.LEADERS.gauge(((), sum(row.is_leader for _, row in live)))
    turns = [row.scheduler_turn for _, row in live if row.is_leader and row.scheduler_turn]
    yield names.SCHEDULER_TURN.gauge(((), max(turns, default=None)))
    yield names.PROCESS_INFO.info(*((*labels, row.version) for labels, row in live))
    for name, column in _GAUGES:
        yield name.gauge(*((labels, getattr(row, column)) for labels, row in live))
    for name, column in _COUNTERS:
        yield name.counter(*((labels, getattr(row, column)) for labels, row in live))
    yield names.PROCESS_RELOAD_SUCCESS.gauge(
        *(
            (labels, row.settings_error is None)
            for labels, row in live
            if row.settings_read is not None
        )
    )
