"""Measures what each store takes and what is free; a duty of the leader, whose disks they are."""

import shutil
from pathlib import Path

from sqlalchemy import Engine, text

from exporter.database.engine import is_embedded
from exporter.queries.metrics import used_bytes
from exporter.settings import Settings

#: The sizes of thousands of files are asked for, so not in each scrape.
MEASURE_SECONDS = 60.0

_WRITE = text("""
    INSERT INTO stores (name, used_bytes, free_bytes, size_bytes)
    VALUES (:name, :used_bytes, :free_bytes, :size_bytes)
    ON CONFLICT (name) DO UPDATE SET used_bytes = excluded.used_bytes,
        free_bytes = excluded.free_bytes, size_bytes = excluded.size_bytes, measured_at = now()
""")


def measure_stores(engine: Engine, settings: Settings) -> None:
    """Write a row a store; commits. A file system of another machine has no free bytes here."""
    disk = settings.database.directory if is_embedded(settings.database) else None
    with engine.begin() as connection:
        rows = [
            {"name": name, "used_bytes": used, **_file_system(disk)}
            for name, used in used_bytes(connection).items()
        ]
        rows.append(
            {
                "name": "git",
                "used_bytes": connection.scalar(
                    text("SELECT coalesce(max(repository_bytes), 0) FROM publishing_state")
                ),
                **_file_system(settings.git.directory),
            }
        )
        connection.execute(_WRITE, rows)


def _file_system(directory: Path | None) -> dict[str, int | None]:
    """Free and whole size in bytes; None for a folder that is not there."""
    if directory is None or not directory.exists():
        return {"free_bytes": None, "size_bytes": None}
    usage = shutil.disk_usage(directory)
    return {"free_bytes": usage.free, "size_bytes": usage.total}
