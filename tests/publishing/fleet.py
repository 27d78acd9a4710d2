"""A fleet's rows, written as the rooms that own them write them."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime

import zstandard
from sqlalchemy import Engine, text


def no_check() -> None:
    """Leadership that is never lost."""


@dataclass(frozen=True)
class Fleet:
    """Each call is a transaction of its own."""

    engine: Engine

    def add_device(self, name: str, site: str = "berlin") -> int:
        with self.engine.begin() as connection:
            return int(
                connection.execute(
                    text("""
                        INSERT INTO devices (name, address, platform, driver, vendor, site, zone,
                            deadline_seconds)
                        VALUES (:name, '192.0.2.1', 'ios', 'ios', 'cisco', :site, 'default', 60)
                        RETURNING id
                    """),
                    {"name": name, "site": site},
                ).scalar_one()
            )

    def change_device(self, device_id: int, **columns: object) -> None:
        assignments = ", ".join(f"{column} = :{column}" for column in columns)
        with self.engine.begin() as connection:
            connection.execute(
                text(f"UPDATE devices SET {assignments} WHERE id = :id"),
                {"id": device_id, **columns},
            )

    def retire(self, device_id: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text("UPDATE devices SET retired_at = now() WHERE id = :id"), {"id": device_id}
            )

    def store(self, device_id: int, content: bytes, created_at: datetime | None = None) -> int:
        """A version and the log row of its execution, in one transaction."""
        with self.engine.begin() as connection:
            return int(
                connection.execute(
                    _STORE,
                    {
                        "sha256": hashlib.sha256(content).digest(),
                        "compressed": zstandard.ZstdCompressor().compress(content),
                        "size": len(content),
                        "lines": content.count(b"\n"),
                        "device_id": device_id,
                        "execution_id": uuid.uuid4(),
                        "task_id": uuid.uuid4(),
                        "created_at": created_at,
                    },
                ).scalar_one()
            )

    def thin_out(self, version_id: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text("""
                    UPDATE configuration_texts SET compressed = NULL
                    WHERE sha256 = (SELECT sha256 FROM configurations WHERE id = :id)
                """),
                {"id": version_id},
            )

    def value(self, query: str, **parameters: object) -> object:
        with self.engine.connect() as connection:
            return connection.execute(text(query), parameters).scalar()


_STORE = text("""
    WITH stored AS (
        INSERT INTO configuration_texts (sha256, compressed) VALUES (:sha256, :compressed)
        ON CONFLICT DO NOTHING
    ), version AS (
        INSERT INTO configurations (device_id, sha256, stable_hash, size_bytes, lines_added,
            lines_removed, execution_id, task_id, trigger, created_at)
        VALUES (:device_id, :sha256, :sha256, :size, :lines, 0, :execution_id, :task_id,
            'command', coalesce(:created_at, now()))
        RETURNING *
    ), logged AS (
        INSERT INTO backup_execution_logs (id, created_at, task_id, device_id, config_id, status,
            execution_time, queued_at, config_size, extra_info, site, platform, zone, trigger)
        SELECT execution_id, created_at, task_id, device_id, id, 'success', 1, created_at,
            size_bytes, '{}', 'berlin', 'ios', 'default', trigger
        FROM version
    )
    SELECT id FROM version
""")
