"""A month as a Parquet file, read back and compared before its rows are dropped."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from exporter.errors import ExportProblem
from exporter.logs import get_logger

log = get_logger(__name__)

#: Rows in memory at a time, and in a row group of the file.
_PART = 20_000

#: Columns of the file and how PostgreSQL says them; UUIDs and JSON are text there.
_COLUMNS = {
    "id": ("string", "CAST(id AS text)"),
    "created_at": ("timestamp", "created_at"),
    "task_id": ("string", "CAST(task_id AS text)"),
    "device_id": ("int64", "device_id"),
    "device": ("string", "(SELECT name FROM devices WHERE devices.id = m.device_id)"),
    "schedule_id": ("int64", "schedule_id"),
    "config_id": ("int64", "config_id"),
    "status": ("string", "status"),
    "reason": ("string", "reason"),
    "execution_time": ("float64", "execution_time"),
    "error_message": ("string", "error_message"),
    "error_details": ("string", "error_details"),
    "queued_at": ("timestamp", "queued_at"),
    "started_at": ("timestamp", "started_at"),
    "completed_at": ("timestamp", "completed_at"),
    "config_size": ("int64", "config_size"),
    "git_commit_id": ("string", "git_commit_id"),
    "extra_info": ("string", "CAST(extra_info AS text)"),
    "retry_count": ("int64", "retry_count"),
    "site": ("string", "site"),
    "platform": ("string", "platform"),
    "zone": ("string", "zone"),
    "trigger": ("string", "trigger"),
    "day": ("date32", "day"),
}


def require_pyarrow() -> None:
    """Raise ExportProblem where the library that writes Parquet is missing."""
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError:
        raise ExportProblem(
            "history.export_directory is set, but pyarrow is missing\n"
            "hint: pip install 'configbackup[archive]'"
        ) from None


def ensure_exported(engine: Engine, month: str, directory: Path) -> bool:
    """Write the month's file, unless it is there and whole; True where it was written.

    It has its name only once it was read back: the number of rows and the checksum of their
    values are those that the database gave. Raises ExportProblem.
    """
    file = directory / f"{month}.parquet"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with engine.connect() as connection:
            if _is_whole(connection, month, file):
                return False
            _export(connection, month, file)
    except OSError as error:
        raise ExportProblem(f"{file} could not be written: {error}") from error
    return True


def _is_whole(connection: Connection, month: str, file: Path) -> bool:
    """Whether the file is the one that was read back, of as many rows as there are now."""
    known = connection.execute(
        text("SELECT * FROM exported_months WHERE name = :name"), {"name": month}
    ).first()
    if known is None or known.file != str(file) or not file.is_file():
        return False
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != known.file_sha256:
            return False
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    count = connection.scalar(text(f"SELECT count(*) FROM {month}"))
    return bool(count == known.row_count)


def _export(connection: Connection, month: str, file: Path) -> None:
    unfinished = file.with_suffix(".unfinished")
    count, checksum = _write(connection, month, unfinished)
    found = _read_back(unfinished)
    if found != (count, checksum):
        raise ExportProblem(
            f"{unfinished} does not say what the database does: {found[0]} rows, expected {count},"
            " or other values"
        )
    _sync(unfinished)
    with unfinished.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    unfinished.replace(file)
    _sync(file.parent)
    connection.execute(
        text("""
            INSERT INTO exported_months (name, file, row_count, checksum, file_sha256)
            VALUES (:name, :file, :row_count, :checksum, :file_sha256)
            ON CONFLICT (name) DO UPDATE SET file = excluded.file,
                row_count = excluded.row_count, checksum = excluded.checksum,
                file_sha256 = excluded.file_sha256, exported_at = now(), dropped_at = NULL
        """),
        {
            "name": month,
            "file": str(file),
            "row_count": count,
            "checksum": checksum,
            "file_sha256": digest,
        },
    )
    connection.commit()
    log.info("a month was exported", file=str(file), rows=count, bytes=file.stat().st_size)


def _write(connection: Connection, month: str, file: Path) -> tuple[int, str]:
    """Rows and checksum of what was given to the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"timestamp": pa.timestamp("us", tz="UTC")}
    schema = pa.schema(
        [(name, types.get(kind) or getattr(pa, kind)()) for name, (kind, _) in _COLUMNS.items()]
    )
    count, checksum = 0, hashlib.sha256()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _parts(connection, month):
            columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=_PART)
            count += len(rows)
            _add(checksum, columns)
    return count, checksum.hexdigest()


def _parts(connection: Connection, month: str) -> Iterator[list[tuple[Any, ...]]]:
    selected = ", ".join(expression for _, expression in _COLUMNS.values())
    # One statement, so one snapshot; its cursor is on the server.
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    result = connection.execution_options(stream_results=True, yield_per=_PART).execute(
        text(f"SELECT {selected} FROM {month} AS m ORDER BY created_at, id")
    )
    for rows in result.partitions(_PART):
        yield [tuple(row) for row in rows]


def _read_back(file: Path) -> tuple[int, str]:
    import pyarrow.parquet as pq

    count, checksum = 0, hashlib.sha256()
    with pq.ParquetFile(file) as content:
        for number in range(content.num_row_groups):
            columns = content.read_row_group(number).to_pydict()
            count += len(columns["id"])
            _add(checksum, columns)
    return count, checksum.hexdigest()


def _add(checksum: Any, columns: dict[str, list[Any]]) -> None:
    for name, (kind, _) in _COLUMNS.items():
        values = columns[name]
        if kind == "timestamp":
            # The same moment, whatever class says that it is in UTC.
            values = [value and value.timestamp() for value in values]
        checksum.update(repr(values).encode())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
