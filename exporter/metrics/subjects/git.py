"""How publishing and pushing go."""

from collections.abc import Iterator

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import names
from exporter.queries.metrics import publishing

_COLUMNS = (
    (names.GIT_UNPUBLISHED, "unpublished"),
    (names.GIT_OLDEST_UNPUBLISHED, "oldest_unpublished"),
    (names.GIT_LAST_PUBLISH, "last_publish"),
    (names.GIT_FAILING_SINCE, "failing"),
    (names.GIT_LAST_PUSH, "last_push"),
    (names.GIT_PUSH_LAG, "push_lag"),
    (names.GIT_PUSH_FAILURES, "push_failures"),
    (names.GIT_REPOSITORY_BYTES, "repository_bytes"),
)


def families(connection: Connection) -> Iterator[Metric]:
    row = publishing(connection)
    for name, column in _COLUMNS if row else ():
        yield name.gauge(((), getattr(row, column)))
