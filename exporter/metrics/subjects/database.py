"""PostgreSQL and the disks. Whether it answers at all says `exposition`."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.database.partitions import months_ahead, oldest_month
from exporter.metrics import names
from exporter.queries.metrics import stores

_COLUMNS = (
    (names.STORE_USED, "used_bytes"),
    (names.STORE_FREE, "free_bytes"),
    (names.STORE_SIZE, "size_bytes"),
    (names.STORE_MEASURED, "measured"),
)


def families(connection: Connection) -> Iterator[Metric]:
    yield names.PARTITIONS_AHEAD.gauge(((), months_ahead(connection)))
    yield names.OLDEST_MONTH.gauge(((), oldest_month(connection).timestamp()))
    rows = stores(connection)
    for name, column in _COLUMNS:
        yield name.gauge(*(((row.name,), getattr(row, column)) for row in rows))
