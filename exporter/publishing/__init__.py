"""Configurations from PostgreSQL into Git and on to a remote; PostgreSQL is the outbox.

`paths` says where a device's file lies, `placing` keeps the rows about it, `outbox` reads what
waits, `commits` makes commits of it, `stream` writes them, `record` writes their ids back;
`recovery` keeps the repository fit, `publisher` does a turn of all this.
"""

from exporter.publishing.publisher import Publisher
from exporter.publishing.recovery import rebuild
from exporter.publishing.repository import HistoryEntry, history, read_version

__all__ = ["HistoryEntry", "Publisher", "history", "read_version", "rebuild"]
