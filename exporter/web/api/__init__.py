"""The HTTP API: one module a subject, each of which adds its views to the application."""

from exporter.web.api.backups import add_backups
from exporter.web.api.configurations import add_configurations
from exporter.web.api.context import Api
from exporter.web.api.devices import add_devices
from exporter.web.api.events import add_events
from exporter.web.api.monitoring import add_monitoring
from exporter.web.api.reference import add_reference
from exporter.web.api.schedules import add_schedules


def add_api(api: Api) -> None:
    """Add every view of the API."""
    for add in (
        add_backups,
        add_devices,
        add_configurations,
        add_schedules,
        add_monitoring,
        add_events,
        add_reference,
    ):
        add(api)


__all__ = ["Api", "add_api"]
