"""A month of a million executions moves, under load: who waits, and what a kill leaves.

A hundred executions a second are triggered, claimed and ended, a reader holds `devices` for 4 s
again and again, and the whole history is counted all the time. Then a process that archives is
killed at random moments, until nothing is left for it to do.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, text

from bench.history import DEVICES, FLEET, PLATFORMS, SITES
from bench.metrics import database
from bench.report import Result, at_least, at_most, write
from exporter import logs
from exporter.database import migrations
from exporter.database.engine import create_engine, database_url
from exporter.database.history import counting, executions_of, months, moving_months
from exporter.database.months import ARCHIVE, LOG, find_months, move_month, partition_name
from exporter.database.partitions import ensure_partition_for
from exporter.executions.endings import Ending, end_running
from exporter.integrity.numbers import mend_numbers, verify_numbers
from exporter.retention import archive
from exporter.retention.exporting import ensure_exported
from exporter.settings import DatabaseSettings, HistorySettings, LogSettings
from tests.fleets import claim_next, trigger_backup

ENDINGS_A_SECOND = 100
READER_SECONDS = 4.0
KILLS = 25
MOVES = 5

_MONTH = """
    INSERT INTO backup_execution_logs (id, created_at, task_id, device_id, status, reason,
        execution_time, queued_at, started_at, completed_at, extra_info, site, platform, zone,
        trigger, day)
    SELECT gen_random_uuid(), :moment + n * interval '2 seconds', gen_random_uuid(), d.id,
        CASE WHEN n % 33 = 0 THEN 'failed' ELSE 'success' END,
        CASE WHEN n % 33 = 0 THEN 'auth' END, 1 + n % 10, :moment, :moment, :moment,
        '{"waited_seconds": 0.5}', d.site, d.platform, d.zone, 'schedule',
        CAST(:moment + n * interval '2 seconds' AS date)
    FROM generate_series(1, :rows) AS n JOIN devices AS d ON d.id = 1 + n % :devices
"""
# The clock is believed when the last days had executions.
_PROOF = """
    INSERT INTO backup_execution_logs (id, task_id, device_id, status, queued_at, extra_info, site,
        platform, zone, trigger, day)
    SELECT gen_random_uuid(), gen_random_uuid(), id, 'cancelled', now(), '{}', site, platform, zone,
        'schedule', CURRENT_DATE - n
    FROM generate_series(0, 2) AS n, devices WHERE id = 1
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--archive", nargs=2, metavar=("URL", "DIRECTORY"))
    given = arguments.parse_args()
    logs.configure(LogSettings(level="warning"))
    if given.archive:
        url, directory = given.archive
        settings = DatabaseSettings(url=SecretStr(url))
        engine = create_engine(settings, application_name="bench archiver")
        archive(engine, _settings(Path(directory)))
        return 0
    with database() as settings, tempfile.TemporaryDirectory(prefix="configbackup-") as folder:
        engine = create_engine(settings, application_name="bench")
        results = measure(engine, settings, Path(folder), given.rows)
        engine.dispose()
    return 0 if write("archive", results) else 1


def _settings(directory: Path) -> HistorySettings:
    return HistorySettings(hot_days=30, archive_days=200, export_directory=directory)


def measure(engine: Engine, settings: DatabaseSettings, folder: Path, count: int) -> list[Result]:
    name = _fill(engine, count)
    load = Load(engine, settings)
    load.start()
    time.sleep(10)
    quiet = load.take_waits()
    durations = [_timed(partial(_move, engine, name, to)) for to in [ARCHIVE, LOG] * MOVES]
    moving = load.take_waits()
    began = time.monotonic()
    kills = _kill_until_done(engine, settings, folder, name)
    killed_seconds = time.monotonic() - began
    killing = load.take_waits()
    load.stop()
    differences = len(verify_numbers(engine))
    with engine.connect() as connection:
        left = [month for month in find_months(connection) if month.name == name]
    exported = [file for file in folder.iterdir() if file.suffix == ".parquet"]
    return [
        at_least("executions ended a second", load.rate, "1/s", ENDINGS_A_SECOND * 0.9),
        Result("longest wait of an execution, nothing moves", max(quiet), "s"),
        at_most("longest wait, a month moves ten times", max(moving), "s", 0.2),
        Result("longest move, waits for readers included", max(durations), "s"),
        at_most("longest wait, exports, drops and kills", max(killing), "s", 0.2),
        Result("kills", kills, ""),
        Result("all of it with the kills", killed_seconds, "s"),
        Result("counts of the whole history meanwhile", load.counts, ""),
        at_most("counts that were not right", load.wrong, "", 0),
        at_most("numbers that differ afterwards", differences, "", 0),
        at_most("months that are left", len(left), "", 0),
        at_least("months exported", len(exported), "", 1),
        Result("size of the file", sum(f.stat().st_size for f in exported) / 2**20, "MiB"),
    ]


def _fill(engine: Engine, count: int) -> str:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        values = {"sites": SITES, "platforms": list(PLATFORMS), "devices": DEVICES}
        connection.execute(text(FLEET), values)
        moment = connection.execute(
            text("SELECT date_trunc('month', now() - interval '300 days')")
        ).scalar_one()
    ensure_partition_for(engine, moment)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        values = {"moment": moment, "rows": count, "devices": DEVICES}
        connection.execute(text(_MONTH), values)
        connection.execute(text(_PROOF))
    mend_numbers(engine, verify_numbers(engine))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
    return partition_name(moment)


def _move(engine: Engine, name: str, to: str) -> None:
    with moving_months(engine) as connection:
        move_month(connection, name, to)


def _kill_until_done(engine: Engine, settings: DatabaseSettings, folder: Path, month: str) -> int:
    """Archive in processes that are killed at random moments, and at last in one that is not.

    The export begins anew after a kill; once it is whole the rest is killed step by step.
    """
    url = database_url(settings).render_as_string(hide_password=False)
    command = [sys.executable, "-m", "bench.archive", "--archive", url, str(folder)]
    kills = 0
    for number in range(KILLS):
        if number == KILLS // 5:
            ensure_exported(engine, month, folder)
        process = subprocess.Popen(command)
        try:
            process.wait(timeout=random.uniform(0.8, 2 + 0.5 * number))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            return kills
    subprocess.run(command, check=True)
    return kills


class Load:
    """Executions that end, a reader and a count, in threads, from `start` to `stop`."""

    def __init__(self, engine: Engine, settings: DatabaseSettings) -> None:
        self._engine = engine
        self._workers = create_engine(settings, application_name="bench load")
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=work) for work in (self._end, self._read, self._count)
        ]
        self._waits: list[float] = []
        self._ended = 0
        self._began = 0.0
        self.rate = 0.0
        self.counts = 0
        self.wrong = 0

    def start(self) -> None:
        self._began = time.monotonic()
        with counting(self._engine) as connection:
            self._before = connection.scalar(text(_count_of(months(connection)))) or 0
        for thread in self._threads:
            thread.start()

    def take_waits(self) -> list[float]:
        waits, self._waits = self._waits, []
        return waits

    def stop(self) -> None:
        self.rate = self._ended / (time.monotonic() - self._began)
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._workers.dispose()

    def _end(self) -> None:
        ending = Ending(status="success", try_seconds=1.5, size_bytes=20_000)
        began = time.monotonic()
        while not self._stopped.is_set():
            names = {f"device-{random.randint(1, DEVICES)}" for _ in range(20)}
            trigger_backup(self._workers, *names)
            for _ in names:
                claimed = claim_next(self._workers)
                asked = time.monotonic()
                assert end_running(self._workers, claimed, ending, time_zone="UTC")
                self._ended += 1
                self._waits.append(time.monotonic() - asked)
                ahead = began + self._ended / ENDINGS_A_SECOND - time.monotonic()
                self._stopped.wait(max(0.0, ahead))

    def _read(self) -> None:
        while not self._stopped.wait(READER_SECONDS / 4):
            with self._engine.connect() as connection:
                connection.execute(text("SELECT count(*) FROM devices"))
                self._stopped.wait(READER_SECONDS)

    def _count(self) -> None:
        # What a dropped month held is in the remainders.
        while not self._stopped.wait(0.5):
            before = self._ended
            with counting(self._engine) as connection:
                total = connection.scalar(text(_count_of(months(connection)))) or 0
            after = self._ended + 1
            self.counts += 1
            self.wrong += not self._before + before <= total <= self._before + after


def _count_of(tables: object) -> str:
    assert isinstance(tables, list | tuple)
    return f"""
        SELECT (SELECT count(*) FROM ({executions_of(tables)}) AS e)
            + (SELECT coalesce(sum(count), 0) FROM remaining_statistics)
    """


def _timed(action: Callable[[], None]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
