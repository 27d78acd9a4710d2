"""What a scrape costs at ten thousand devices, beside the same samples rendered plainly.

The serving process is one of its own, so that its memory is its own. Executions are ended all the
time, a hundred a second, by the ending transaction itself.
"""

import argparse
import gzip
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import generate_latest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from bench.report import Result, at_least, at_most, write
from exporter import logs
from exporter.database import migrations
from exporter.database.embedded import EmbeddedPostgres
from exporter.database.engine import create_engine, database_url
from exporter.executions.endings import Ending, end_running
from exporter.metrics import Exposition
from exporter.metrics.sums import Sums
from exporter.queries.metrics import all_devices, execution_counts
from exporter.settings import DatabaseSettings, HttpSettings, LogSettings, Settings
from exporter.web import Listener, create_app
from tests.fleets import claim_next, trigger_backup
from tests.installation import free_port
from tests.metrics.plain import plain_registry

SITES = 100
SCRAPES = 41
ENDINGS_A_SECOND = 100
MEBIBYTE = 1024 * 1024

_FLEET = """
    INSERT INTO devices (name, address, platform, driver, vendor, site, zone, groups,
        deadline_seconds, interval_seconds, is_scheduled)
    SELECT 'device-' || n, '10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256,
        (ARRAY['ios', 'eos', 'junos', 'nxos'])[1 + n / 100 % 4], 'ios', 'Vendor',
        'site-' || n % :sites, 'zone-' || n % 3, ARRAY['core', 'group-' || n % 20], 120, 86400, TRUE
    FROM generate_series(1, :devices) AS n
"""
# A year's history in short: three of a hundred fail, all have succeeded and changed once.
_STATES = """
    INSERT INTO device_states (device_id, last_execution_id, last_started_at, last_end_at,
        last_status, last_reason, last_duration_seconds, last_success_at, last_failure_at,
        failing_since, last_change_at, consecutive_failures, config_size, success_count,
        failed_count, change_count)
    SELECT id, gen_random_uuid(), now(), now(), CASE WHEN fails THEN 'failed' ELSE 'success' END,
        CASE WHEN fails THEN 'auth' END, 1 + random(), now() - interval '1 hour',
        CASE WHEN fails THEN now() END, CASE WHEN fails THEN now() END, now() - interval '9 days',
        fails::int, 20000 + id, 360, 5, 12
    FROM (SELECT id, id % 33 = 0 AS fails FROM devices) AS d
"""
_COUNTERS = """
    INSERT INTO execution_counters
    SELECT DISTINCT site, platform, status, CASE status WHEN 'success' THEN '' ELSE reason END,
        trigger, shard, 1000, 10, 2000, array_fill(90::bigint, ARRAY[11]),
        array_fill(gen_random_uuid(), ARRAY[11]), array_fill(1.5::float8, ARRAY[11]),
        array_fill(now(), ARRAY[11]), 500, array_fill(90::bigint, ARRAY[11]),
        array_fill(gen_random_uuid(), ARRAY[11]), array_fill(0.5::float8, ARRAY[11]),
        array_fill(now(), ARRAY[11])
    FROM (SELECT DISTINCT site, platform, (id % 16)::smallint AS shard FROM devices) AS d,
        (VALUES ('success', ''), ('failed', 'auth'), ('failed', 'refused')) AS s(status, reason),
        (VALUES ('schedule'), ('second_round'), ('api')) AS t(trigger)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--devices", type=int, default=10_000)
    arguments.add_argument("--serve", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    logs.configure(LogSettings(level="warning"))
    if given.serve:
        serve(given.serve)
        return
    with database() as settings:
        engine = create_engine(settings, application_name="bench")
        make_fleet(engine, given.devices)
        results = measure(engine, settings, given.devices)
        engine.dispose()
    sys.exit(0 if write("metrics", results) else 1)


@contextmanager
def database() -> Iterator[DatabaseSettings]:
    with tempfile.TemporaryDirectory(prefix="configbackup-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        settings = DatabaseSettings(directory=Path(folder, "postgresql"), port=free_port())
        server = EmbeddedPostgres(settings)
        server.start()
        try:
            yield settings
        finally:
            server.stop()


def make_fleet(engine: Engine, devices: int) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(_FLEET), {"sites": SITES, "devices": devices})
        connection.execute(text(_STATES))
        connection.execute(text(_COUNTERS))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def serve(url: str) -> None:
    """The process that is measured: prints its port, ends with its standard input."""
    settings = Settings(database=DatabaseSettings(url=SecretStr(url)), http=HttpSettings(port=0))
    engine = create_engine(settings.database, application_name="bench server")
    exposition = Exposition(settings.database)
    listener = Listener(create_app(engine, settings, exposition), settings.http)
    listener.start()
    print(listener.port, flush=True)
    sys.stdin.read()
    listener.stop()


class Server:
    def __init__(self, settings: DatabaseSettings) -> None:
        url = database_url(settings).render_as_string(hide_password=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.metrics", "--serve", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def scrape(self, path: str = "/metrics") -> tuple[float, bytes]:
        """Seconds until the last byte, and the body."""
        request = urllib.request.Request(  # noqa: S310 - our own
            self._url + path, headers={"Accept-Encoding": "gzip"}
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            body = answer.read()
        return time.perf_counter() - began, body

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Writer:
    """Ends executions of random devices, from `start` to `stop`."""

    def __init__(self, engine: Engine, devices: int) -> None:
        self._engine = engine
        self._devices = devices
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.ended = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        ending = Ending(status="success", try_seconds=1.5, size_bytes=20_000)
        began = time.perf_counter()
        while not self._stopped.is_set():
            names = {f"device-{random.randint(1, self._devices)}" for _ in range(20)}
            trigger_backup(self._engine, *names)
            for _ in names:
                end_running(self._engine, claim_next(self._engine), ending, time_zone="UTC")
                self.ended += 1
                ahead = began + self.ended / ENDINGS_A_SECOND - time.perf_counter()
                self._stopped.wait(max(0.0, ahead))


def measure(engine: Engine, settings: DatabaseSettings, devices: int) -> list[Result]:
    server = Server(settings)
    waits: list[float] = []
    watched = threading.Thread(target=_watch, args=(server, waits))
    watched.start()
    first_seconds, body = server.scrape()
    watched.join()
    text_bytes = gzip.decompress(body)
    samples = sum(not line.startswith(b"#") for line in text_bytes.splitlines())
    unchanged = statistics.median(server.scrape()[0] for _ in range(SCRAPES))
    writer = Writer(engine, devices)
    writer.start()
    changed = statistics.median(_scrapes_after_changes(server, writer, devices // 100))
    rate = statistics.median(_scrapes_after_changes(server, writer, 0))
    writer.stop()
    memory = server.memory_bytes
    server.stop()
    plain = _plain_seconds(engine)
    return [
        at_least("samples", samples, "", 150_000),
        at_most("first scrape after the start", first_seconds, "s", 5),
        at_most("longest wait of /healthz meanwhile", max(waits), "s", 1),
        at_most("median scrape, nothing changed", unchanged, "s", 0.15),
        at_most("median scrape, 1 of 100 devices changed, under writes", changed, "s", 0.25),
        Result("median scrape, scrape after scrape, under writes", rate, "s"),
        at_most("memory of the serving process", memory / MEBIBYTE, "MiB", 400),
        Result("size of an answer", len(text_bytes) / MEBIBYTE, "MiB"),
        Result("size of an answer, gzip", len(body) / MEBIBYTE, "MiB"),
        Result("the same rendered plainly and compressed", plain, "s"),
        Result("plainly / nothing changed", plain / unchanged, ""),
        Result("plainly / 1 of 100 devices changed", plain / changed, ""),
    ]


def _watch(server: Server, waits: list[float]) -> None:
    for _ in range(30):
        waits.append(server.scrape("/healthz")[0])
        time.sleep(0.05)


def _scrapes_after_changes(server: Server, writer: Writer, changes: int) -> Iterator[float]:
    for _ in range(SCRAPES):
        before = writer.ended
        while writer.ended - before < changes:
            time.sleep(0.01)
        yield server.scrape()[0]


def _plain_seconds(engine: Engine) -> float:
    """As prometheus-client serves it: collected, rendered and compressed for each scrape."""
    with engine.connect() as connection:
        facts = all_devices(connection)
        sums = Sums()
        sums.take(execution_counts(connection))
    registry = plain_registry(facts, [(sums.of_pair(p), p) for p in sums.pairs()], time.time())
    began = time.perf_counter()
    gzip.compress(generate_latest(registry))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
