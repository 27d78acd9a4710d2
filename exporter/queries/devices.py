"""Questions about devices, their present and their configurations."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import zstandard
from sqlalchemy import Connection, text

from exporter.database.expressions import STATE
from exporter.errors import UnknownDevice
from exporter.queries.rows import Row, all_rows, first_row


def list_devices(
    connection: Connection,
    *,
    site: str | None = None,
    state: str | None = None,
    search: str | None = None,
    include_retired: bool = False,
) -> list[Row]:
    """Devices with their present, by name."""
    conditions, values = ["TRUE"], dict[str, Any]()
    if not include_retired:
        conditions.append("d.retired_at IS NULL")
    if site is not None:
        conditions.append("d.site = :site")
        values["site"] = site
    if search is not None:
        conditions.append("position(lower(:search) IN lower(d.name || ' ' || d.address)) > 0")
        values["search"] = search
    rows = all_rows(
        connection,
        f"""
                SELECT d.id, d.name, d.address, d.port, d.platform, d.vendor, d.site, d.zone,
                    d.groups, d.enabled, {STATE} AS state, NOT d.is_scheduled AS unscheduled,
                    CASE WHEN d.paused_until > now() THEN d.paused_until END AS paused_until,
                    CASE WHEN d.paused_until > now() THEN d.paused_note END AS paused_note,
                    s.last_status, s.last_end_at, s.last_success_at, s.last_reason,
                    s.last_error_message, s.failing_since, s.consecutive_failures, s.config_size,
                    s.success_count, s.failed_count, s.timeout_count, s.cancelled_count,
                    d.interval_seconds, d.created_at, d.retired_at
                FROM devices AS d JOIN device_states AS s ON s.device_id = d.id
                WHERE {" AND ".join(conditions)} ORDER BY d.name
            """,
        **values,
    )
    return rows if state is None else [row for row in rows if row["state"] == state]


def device_id(connection: Connection, name: str) -> int:
    """Raises UnknownDevice; a retired device is known."""
    found: int | None = connection.scalar(
        text("SELECT id FROM devices WHERE name = :name"), {"name": name}
    )
    if found is None:
        raise UnknownDevice([name])
    return found


@dataclass(frozen=True)
class Version:
    """One stored configuration; `text` is None where it was thinned out."""

    id: int
    created_at: datetime
    size_bytes: int
    git_commit_id: str | None
    text: bytes | None


def list_versions(connection: Connection, device: str, *, limit: int) -> list[Row]:
    """A device's versions, newest first. Raises UnknownDevice."""
    return all_rows(
        connection,
        """
                SELECT id, created_at, size_bytes, lines_added, lines_removed, git_commit_id,
                    encode(sha256, 'hex') AS sha256, task_id, trigger, thinned_at
                FROM configurations WHERE device_id = :device_id ORDER BY id DESC LIMIT :limit
            """,
        device_id=device_id(connection, device),
        limit=limit,
    )


def version(connection: Connection, device: str, version_id: int | None = None) -> Version | None:
    """One version of a device, the newest without an id; None where there is none.

    Raises UnknownDevice.
    """
    row = connection.execute(
        text("""
            SELECT c.id, c.created_at, c.size_bytes, c.git_commit_id, t.compressed
            FROM configurations AS c JOIN configuration_texts AS t USING (sha256)
            WHERE c.device_id = :device_id AND (c.id = :id OR CAST(:id AS bigint) IS NULL)
            ORDER BY c.id DESC LIMIT 1
        """),
        {"device_id": device_id(connection, device), "id": version_id},
    ).first()
    if row is None:
        return None
    content = None if row.compressed is None else zstandard.decompress(row.compressed)
    return Version(row.id, row.created_at, row.size_bytes, row.git_commit_id, content)


def pinned_key(connection: Connection, device: str) -> Row | None:
    """The host key pinned for a device. Raises UnknownDevice."""
    return first_row(
        connection,
        """
                SELECT key_type, key_base64, accepted_at, accepted_by FROM host_keys
                WHERE device_id = :device_id
            """,
        device_id=device_id(connection, device),
    )
