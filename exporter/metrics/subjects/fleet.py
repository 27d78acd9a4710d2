"""The fleet in a few numbers, as the overview has them."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.metrics.devices import STATES
from exporter.queries.overview import fleet_counts


def families(connection: Connection) -> Iterator[Metric]:
    counts = fleet_counts(connection)
    yield names.DEVICES.gauge(*(((state,), getattr(counts, state)) for state in STATES))
    yield names.DEVICES_DISABLED.gauge(((), counts.disabled))
    yield names.DEVICES_UNSCHEDULED.gauge(((), counts.unscheduled))
    yield names.DEVICES_PAUSED.gauge(((), counts.paused))
