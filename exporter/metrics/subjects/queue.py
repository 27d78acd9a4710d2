"""What waits and runs in each zone, and who could run it."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.queries.metrics import queue_by_zone

_COLUMNS = (
    (names.QUEUED, "queued"),
    (names.DUE, "due"),
    (names.RUNNING, "running"),
    (names.OLDEST_DUE, "oldest_due"),
    (names.OLDEST_RUNNING, "oldest_running"),
    (names.WORKERS, "workers"),
)


def families(connection: Connection) -> Iterator[Metric]:
    zones = queue_by_zone(connection)
    for name, column in _COLUMNS:
        yield name.gauge(*(((row.zone,), getattr(row, column)) for row in zones))
