"""Ten thousand devices: queueing them all, and publishing their first versions."""

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard
from sqlalchemy import Engine, create_engine, text

from bench.report import Result, at_least, at_most, write
from bench.whole_way import database
from exporter.backups import BackupRequest, start_backup
from exporter.publishing import Publisher
from exporter.settings import GitSettings, Selection

_DEVICES = 10_000


def main() -> int:
    with database() as url:
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
        _add_fleet(engine)
        results = [_enqueue(engine), *_publish(engine)]
        engine.dispose()
    return 0 if write("large_fleet", results) else 1


def _add_fleet(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                WITH added AS (
                    INSERT INTO devices (name, address, platform, driver, vendor, site, zone,
                        deadline_seconds)
                    SELECT 'device-' || i, '192.0.2.1', 'ios', 'ios', 'Cisco', 'site-' || i % 100,
                        'default', 120
                    FROM generate_series(1, :devices) AS i RETURNING id)
                INSERT INTO device_states (device_id) SELECT id FROM added
            """),
            {"devices": _DEVICES},
        )


def _enqueue(engine: Engine) -> Result:
    started = time.monotonic()
    with engine.begin() as connection:
        start_backup(
            connection,
            BackupRequest(selection=Selection(all=True), trigger="api", requested_by="benchmark"),
        )
    return at_most(f"queueing {_DEVICES:,} devices", time.monotonic() - started, "s", 5)


def _publish(engine: Engine) -> list[Result]:
    _store_versions(engine)
    with tempfile.TemporaryDirectory(prefix="configbackup-bench-") as directory:
        publisher = Publisher(
            engine, GitSettings(directory=Path(directory) / "configurations.git"), lambda: None
        )
        started = time.monotonic()
        count = 0
        while commits := publisher.publish():
            count += commits
        seconds = time.monotonic() - started
    assert count == _DEVICES
    return [
        at_least("publishing first versions of 20 KB", count / seconds, "versions/s", 300),
        Result(f"publishing {_DEVICES:,} first versions", seconds, "s"),
    ]


def _store_versions(engine: Engine) -> None:
    with engine.begin() as connection:
        ids = connection.scalars(text("SELECT id FROM devices ORDER BY id")).all()
        for version in _versions(ids):
            connection.execute(
                text("INSERT INTO configuration_texts VALUES (:sha256, :compressed)"), version
            )
            connection.execute(
                text("""
                    INSERT INTO configurations (device_id, sha256, stable_hash, size_bytes,
                        lines_added, lines_removed, execution_id, task_id, trigger)
                    VALUES (:id, :sha256, :sha256, :size, 700, 0, gen_random_uuid(),
                        gen_random_uuid(), 'api')
                """),
                version,
            )


def _versions(ids: list[int]) -> Iterator[dict[str, object]]:
    for device_id in ids:
        lines = [f"interface GigabitEthernet0/{n} of {device_id} x{n * 7}" for n in range(500)]
        content = "\n".join(lines).encode()
        yield {
            "id": device_id,
            "sha256": hashlib.sha256(content).digest(),
            "compressed": zstandard.compress(content),
            "size": len(content),
        }


if __name__ == "__main__":
    sys.exit(main())
