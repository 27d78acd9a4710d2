"""The schedules of the configuration file."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.queries.metrics import schedules

_GAUGES = (
    (names.SCHEDULE_ACTIVE, "is_active"),
    (names.SCHEDULE_PAUSED, "paused"),
    (names.SCHEDULE_LAST_TICK, "last_tick"),
    (names.SCHEDULE_NEXT_TICK, "next_tick"),
)


def families(connection: Connection) -> Iterator[Metric]:
    rows = schedules(connection)
    active = sum(row.is_active for row in rows)
    yield names.SCHEDULES.gauge((("active",), active), (("paused",), len(rows) - active))
    for name, column in _GAUGES:
        yield name.gauge(*(((row.name,), getattr(row, column)) for row in rows))
    yield names.SCHEDULE_MISSED.counter(*(((row.name,), row.missed_ticks) for row in rows))
