"""Rows that tests begin with; a test states only what matters to it."""

import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import zstandard
from sqlalchemy import Connection, Engine, Row, text

from exporter.backups import BackupRequest, StartedBackup, start_backup
from exporter.executions.claims import Claimed, claim
from exporter.executions.endings import Ending, NewVersion
from exporter.settings import Selection


def add_devices(connection: Connection, *names: str, **columns: Any) -> None:
    """Devices with their states: ios, at site berlin, in the default zone unless said otherwise."""
    values = {
        "platform": "ios",
        "driver": "ios",
        "vendor": "Cisco",
        "site": "berlin",
        "zone": "default",
        "deadline_seconds": 60,
        **columns,
    }
    keys = ", ".join(values)
    places = ", ".join(f":{key}" for key in values)
    for number, name in enumerate(names):
        connection.execute(
            text(f"""
                WITH added AS (
                    INSERT INTO devices (name, address, {keys})
                    VALUES (:name, :address, {places}) RETURNING id)
                INSERT INTO device_states (device_id) SELECT id FROM added
            """),
            {"name": name, "address": f"192.0.2.{number}", **values},
        )


def trigger_backup(engine: Engine, *devices: str, **request: Any) -> StartedBackup:
    """A backup of the devices (all without a name), by a person unless said otherwise."""
    selection = Selection(devices=list(devices)) if devices else Selection(all=True)
    with engine.begin() as connection:
        return start_backup(
            connection,
            BackupRequest(
                **{"selection": selection, "trigger": "api", "requested_by": "test", **request}
            ),
        )


def claim_next(engine: Engine, worker_id: uuid.UUID | None = None) -> Claimed:
    """Claim the execution that is due first."""
    with engine.begin() as connection:
        execution_id = connection.execute(
            text("""
                SELECT id FROM open_executions
                WHERE status = 'queued' AND not_before <= now() ORDER BY not_before, id LIMIT 1
            """)
        ).scalar_one()
        claimed = claim(connection, execution_id, worker_id or uuid.uuid4())
    assert claimed is not None
    return claimed


def success(text_of_device: bytes = b"hostname a\n", **fields: Any) -> Ending:
    """A success with a new version of this text."""
    digest = hashlib.sha256(text_of_device).digest()
    version = NewVersion(
        sha256=digest,
        stable_hash=digest,
        compressed=zstandard.compress(text_of_device),
        size_bytes=len(text_of_device),
        lines_added=text_of_device.count(b"\n"),
        lines_removed=0,
    )
    return Ending(
        **{
            "status": "success",
            "try_seconds": 1.5,
            "size_bytes": len(text_of_device),
            "new_version": version,
            **fields,
        }
    )


def rows(engine: Engine, sql: str, **values: Any) -> Sequence[Row[Any]]:
    with engine.connect() as connection:
        return connection.execute(text(sql), values).all()


def row(engine: Engine, sql: str, **values: Any) -> Row[Any]:
    (only,) = rows(engine, sql, **values)
    return only
