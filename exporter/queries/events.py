"""Events in an order that never changes behind a reader.

Numbers are given before transactions commit. So the order is (transaction, number), and a reader
stays behind the oldest transaction that is still open: nothing can appear before its place.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

from exporter.queries.rows import Row, all_rows


class Place(NamedTuple):
    """Of an event in the order; written `TRANSACTION-NUMBER`."""

    transaction_id: int
    number: int

    def __str__(self) -> str:
        return f"{self.transaction_id}-{self.number}"


def events_boundary(connection: Connection) -> Place:
    """The place before which nothing is missing and nothing will appear."""
    xmin = connection.scalar(
        text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
    )
    return Place(int(xmin or 0), 0)


def events_between(connection: Connection, after: Place, before: Place, *, limit: int) -> list[Row]:
    """Events in order from behind `after` up to `before`, with the names of devices."""
    return all_rows(
        connection,
        """
            SELECT e.transaction_id, e.id, e.kind, e.created_at, e.task_id, e.execution_id,
                e.device_id, d.name AS device, d.site, e.status, e.reason
            FROM events AS e LEFT JOIN devices AS d ON d.id = e.device_id
            WHERE e.transaction_id >= :after_transaction AND e.transaction_id <= :before_transaction
                AND (e.transaction_id, e.id) > (:after_transaction, :after_number)
                AND (e.transaction_id, e.id) <= (:before_transaction, :before_number)
            ORDER BY e.transaction_id, e.id LIMIT :limit
        """,
        after_transaction=after.transaction_id,
        after_number=after.number,
        before_transaction=before.transaction_id,
        before_number=before.number,
        limit=limit,
    )
