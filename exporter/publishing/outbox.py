"""PostgreSQL as the outbox: which rows become commits, in which order, and their texts.

Order of commits: rows by (created_at, path changes before versions, id). A row waits until no
open transaction could still add an earlier one, so that a rebuild finds the same order.
A device's first row of `device_paths` counts from its beginning and has no commit of its own: the
device's first commit publishes it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import zstandard
from sqlalchemy import Connection, Row, text

from exporter.publishing.commits import DeviceFile, Event, FindText, PathChange, Version

#: Bounds of one batch: what one move of the branch and one write-back hold.
BATCH_COMMITS = 1_000
BATCH_BYTES = 64_000_000
#: A transaction that is open for longer than this holds nobody up; should it still store a
#: version, a rebuild would find another order and write other commit ids.
SETTLE_SECONDS = 10


def read_events(connection: Connection, *, anew: bool) -> Iterator[Event]:
    """The rows that become commits, in their order: those that wait, or (anew) all.

    Ends before the first device without a place: it has to be placed first.
    """
    horizon = connection.execute(
        text("""
            SELECT least(now(), greatest(coalesce(min(xact_start), now()),
                now() - make_interval(secs => :settle)))
            FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND backend_type = 'client backend'
        """),
        {"settle": SETTLE_SECONDS},
    ).scalar_one()
    rows = connection.execute(
        _EVENTS,
        {"anew": anew, "horizon": horizon, "count": None if anew else BATCH_COMMITS},
        execution_options={"yield_per": BATCH_COMMITS},
    )
    with rows:
        for row in rows:
            if not row.is_placed:
                return
            yield _event(row)


_EVENTS = text("""
    SELECT * FROM (
        SELECT p.created_at, 0 AS kind, p.id, p.device_id, p.device_name, p.path,
            NULL::bytea AS sha256, 0 AS size_bytes, NULL::int AS lines_added,
            NULL::int AS lines_removed, NULL::uuid AS execution_id, NULL::uuid AS task_id,
            NULL AS trigger, true AS is_placed
        FROM device_paths p
        WHERE (git_commit_id IS NULL OR :anew) AND created_at < :horizon AND EXISTS (
            SELECT FROM device_paths earlier
            WHERE earlier.device_id = p.device_id AND earlier.id < p.id
        )
        UNION ALL
        SELECT created_at, 1, id, device_id, NULL, NULL, sha256, size_bytes, lines_added,
            lines_removed, execution_id, task_id, trigger,
            EXISTS (SELECT FROM device_paths p WHERE p.device_id = c.device_id)
        FROM configurations c
        WHERE (git_commit_id IS NULL OR :anew) AND created_at < :horizon
    ) AS events
    ORDER BY created_at, kind, id LIMIT :count
""")


def _event(row: Row[Any]) -> Event:
    if row.kind == 0:
        return PathChange(row.id, row.device_id, row.created_at, row.device_name, row.path)
    return Version(
        id=row.id,
        device_id=row.device_id,
        created_at=row.created_at,
        sha256=bytes(row.sha256),
        size_bytes=row.size_bytes,
        lines_added=row.lines_added,
        lines_removed=row.lines_removed,
        execution_id=row.execution_id,
        task_id=row.task_id,
        trigger=row.trigger,
    )


def batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Cut into batches of at most BATCH_COMMITS and BATCH_BYTES (or one event that is larger)."""
    batch: list[Event] = []
    size_bytes = 0
    for event in events:
        event_bytes = event.size_bytes if isinstance(event, Version) else 0
        if batch and (len(batch) == BATCH_COMMITS or size_bytes + event_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(event)
        size_bytes += event_bytes
    if batch:
        yield batch


def read_files(
    connection: Connection, device_ids: Iterable[int], *, anew: bool
) -> dict[int, DeviceFile]:
    """The files of devices as they are in Git at the head, or (anew) before their first commit."""
    rows = connection.execute(
        text("""
            SELECT d.device_id, p.device_name, p.path,
                CASE WHEN p.git_commit_id IS NULL OR :anew THEN p.id END AS first_path_id, v.sha256
            FROM unnest(CAST(:ids AS bigint[])) AS d(device_id)
            CROSS JOIN LATERAL (
                SELECT id, device_name, path, git_commit_id FROM device_paths
                WHERE device_id = d.device_id
                ORDER BY (git_commit_id IS NULL OR :anew),
                    CASE WHEN git_commit_id IS NULL OR :anew THEN id ELSE -id END
                LIMIT 1
            ) AS p
            LEFT JOIN LATERAL (
                SELECT sha256 FROM configurations JOIN configuration_texts USING (sha256)
                WHERE device_id = d.device_id AND git_commit_id IS NOT NULL AND NOT :anew
                    AND compressed IS NOT NULL
                ORDER BY id DESC LIMIT 1
            ) AS v ON true
        """),
        {"ids": list(device_ids), "anew": anew},
    )
    return {
        row.device_id: DeviceFile(
            row.device_name, row.path, row.first_path_id, bytes(row.sha256) if row.sha256 else None
        )
        for row in rows
    }


def load_texts(connection: Connection, hashes: Iterable[bytes]) -> FindText:
    """Fetch the compressed texts of these hashes; each is unpacked when it is asked for."""
    rows = connection.execute(
        text("""
            SELECT sha256, compressed FROM configuration_texts
            WHERE sha256 = ANY(CAST(:hashes AS bytea[])) AND compressed IS NOT NULL
        """),
        {"hashes": list(hashes)},
    )
    compressed = {bytes(row.sha256): bytes(row.compressed) for row in rows}

    def find_text(sha256: bytes) -> bytes | None:
        if sha256 not in compressed:
            return None
        # decompressobj also reads frames that do not say their size.
        return zstandard.ZstdDecompressor().decompressobj().decompress(compressed[sha256])

    return find_text
