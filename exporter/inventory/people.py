"""What a person does to a device without touching the inventory: pause, resume, purge."""

from datetime import datetime

from sqlalchemy import Connection, delete, select, text, update

from exporter.database.history import MOVING_LOCK_KEY, remember_device
from exporter.errors import UnknownDevice
from exporter.models import (
    BackupExecutionHistory,
    BackupExecutionLog,
    Configuration,
    ConfigurationText,
    Device,
)


def pause_device(
    connection: Connection, name: str, *, until: datetime, note: str | None, by: str
) -> None:
    """No schedule backs the device up until then; the pause ends by itself.

    Raises UnknownDevice.
    """
    _set_pause(connection, name, paused_until=until, paused_note=note, paused_by=by)


def resume_device(connection: Connection, name: str) -> None:
    """End a pause now; nothing happens where there is none. Raises UnknownDevice."""
    _set_pause(connection, name, paused_until=None, paused_note=None, paused_by=None)


def purge_device(connection: Connection, name: str) -> None:
    """Delete a device with all its executions and configurations, retired or not.

    Statistics and counters keep what its executions added to them.

    One that is still in the inventory comes back, empty, with the next synchronisation; what is
    in Git stays there. Raises UnknownDevice.
    """
    # No month moves between the counting of its executions and their deletion.
    connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": MOVING_LOCK_KEY})
    device_id = connection.scalar(select(Device.id).where(Device.name == name).with_for_update())
    if device_id is None:
        raise UnknownDevice([name])
    # No index leads from a configuration to the log (it would serve nothing else), so each deleted
    # one reads the log through: minutes for a long history.
    connection.execute(text("SET LOCAL statement_timeout = '1h'"))
    remember_device(connection, device_id)
    for log in (BackupExecutionLog, BackupExecutionHistory):
        connection.execute(delete(log).where(log.device_id == device_id))
    texts = set(
        connection.scalars(select(Configuration.sha256).where(Configuration.device_id == device_id))
    )
    connection.execute(delete(Device).where(Device.id == device_id))
    connection.execute(
        delete(ConfigurationText).where(
            ConfigurationText.sha256.in_(texts),
            ~select(Configuration).where(Configuration.sha256 == ConfigurationText.sha256).exists(),
        )
    )


def _set_pause(connection: Connection, name: str, **values: object) -> None:
    paused = connection.execute(
        update(Device).where(Device.name == name, Device.retired_at.is_(None)).values(**values)
    )
    if not paused.rowcount:
        raise UnknownDevice([name])
