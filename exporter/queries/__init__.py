"""Every question about backups: read-only functions that take the open connection.

They return frozen dataclasses or rows with named columns; nothing here writes or commits.
"""

from exporter.queries.selection import matches_selection, select_devices, selection_condition

__all__ = ["matches_selection", "select_devices", "selection_condition"]
