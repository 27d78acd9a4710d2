"""What the nightly checks of rows and configurations found."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.queries.metrics import integrity

_COLUMNS = (
    (names.INTEGRITY_CHECKED, "checked"),
    (names.INTEGRITY_DIFFERENCES, "differences"),
    (names.INTEGRITY_DAMAGED, "damaged"),
)


def families(connection: Connection) -> Iterator[Metric]:
    row = integrity(connection)
    for name, column in _COLUMNS if row else ():
        yield name.gauge(((), getattr(row, column)))
