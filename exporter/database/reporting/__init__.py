"""The schema `reporting`: the stable contract for Grafana and for people's own SQL."""

from exporter.database.reporting.installing import (
    are_installed,
    describe_installation,
    documentation,
    install_views,
)
from exporter.database.reporting.reader import Reader, end_long_readers, make_reader

__all__ = [
    "Reader",
    "are_installed",
    "describe_installation",
    "documentation",
    "end_long_readers",
    "install_views",
    "make_reader",
]
