"""Queries and reporting views over millions of executions, and what ending them costs.

`python -m bench.history [--executions N ...]`: 10,000 devices, 100 sites, 3 platforms; the days a
history covers grow with its size, so that a period asked for holds the same number of executions.
"""

import argparse
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text

from bench.metrics import database
from bench.report import Result, at_least, at_most, write
from exporter import logs
from exporter.database import migrations
from exporter.database.engine import create_engine
from exporter.errors import Reason
from exporter.executions.claims import Running
from exporter.executions.endings import Ending, end_running
from exporter.integrity.numbers import verify_numbers
from exporter.queries.devices import list_devices, list_versions, version
from exporter.queries.executions import backup_counts, execution, recent_executions
from exporter.queries.overview import fleet_counts
from exporter.queries.schedules import list_schedules
from exporter.queries.totals import counted_total, statistics_total
from exporter.settings import DatabaseSettings, LogSettings
from exporter.simulator.history import Past, fill_history

DEVICES = 10_000
SITES = 100
PLATFORMS = ("ios", "eos", "junos")
#: Executions of a day: the history of 5 million covers 90 days.
A_DAY = 5_000_000 / 90
REPEATED = 15

FLEET = """
    WITH added AS (
        INSERT INTO devices (name, address, platform, driver, vendor, site, zone, deadline_seconds,
            interval_seconds, is_scheduled)
        SELECT 'device-' || n, '10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256, p, p,
            'Vendor', 'site-' || n % :sites, 'default', 60, 43200, TRUE
        FROM (SELECT n, (CAST(:platforms AS text[]))[1 + n / 100 % 3] AS p
              FROM generate_series(1, :devices) AS n) AS d RETURNING id)
    INSERT INTO device_states (device_id) SELECT id FROM added
"""


def make_past(engine: Engine, executions: int, *, devices: int = DEVICES) -> float:
    """A fresh database with this history; seconds that writing it took."""
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text(FLEET), {"sites": SITES, "platforms": list(PLATFORMS), "devices": devices}
        )
        connection.execute(
            text("""
                INSERT INTO backup_schedules (name, cron, time_zone, selection)
                VALUES ('regular', '0 */4 * * *', 'UTC', '{"all": true}')
            """)
        )
    began_at = time.monotonic()
    span = timedelta(days=executions / A_DAY)
    fill_history(engine, Past(span=span, executions=executions, config_bytes=2_000))
    return time.monotonic() - began_at


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--executions", type=int, nargs="+", default=[5_000_000])
    arguments.add_argument("--endings", type=int, default=20_000, help="Executions that are ended.")
    arguments.add_argument("--end", nargs=3, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    logs.configure(LogSettings(level="warning"))
    if given.end:
        end_executions(given.end[0], int(given.end[1]), int(given.end[2]))
        return 0
    results: list[Result] = []
    smallest: dict[str, float] = {}
    for executions in given.executions:
        with database() as settings:
            engine = create_engine(settings, application_name="bench")
            results += write_and_verify(engine, executions)
            taken = timings(engine)
            results += [at_most(_of(n, executions), ms, "ms", 50) for n, ms in taken.items()]
            results += [
                at_most(f"growth of {name}", ms / smallest[name], "times", 1.1)
                for name, ms in taken.items()
                # Less than half a millisecond is the machine's own.
                if name in smallest and ms - smallest[name] > 0.5
            ]
            smallest = smallest or taken
            results += measure_endings(engine, given.endings)
            results += [
                at_most("differences after endings", len(verify_numbers(engine)), "", 0),
            ]
            engine.dispose()
    return 0 if write("history", results) else 1


def _of(name: str, executions: int) -> str:
    return f"{name}, {executions / 1e6:g} million"


def write_and_verify(engine: Engine, executions: int) -> list[Result]:
    seconds = make_past(engine, executions)
    results = [at_most(_of("writing", executions), seconds, "s", 60 * executions / 1e6)]
    began_at = time.monotonic()
    differences = verify_numbers(engine)
    return [
        *results,
        Result(_of("history verify", executions), time.monotonic() - began_at, "s"),
        at_most(_of("differences", executions), len(differences), "", 0),
    ]


def measure_endings(engine: Engine, count: int) -> list[Result]:
    """Two processes end executions of devices of their own, at the same sites."""
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "bench.history", "--end", url, str(count // 2)]
    children = [
        subprocess.Popen([*command, half], stdout=subprocess.PIPE, text=True) for half in "01"
    ]
    seconds = [float(child.communicate()[0]) for child in children]
    with engine.connect() as connection:
        deadlocks = connection.scalar(text("SELECT sum(deadlocks) FROM pg_stat_database"))
    return [
        at_least("endings of two processes", count / max(seconds), "a second", 300),
        at_most(f"deadlocks in {count} endings", float(deadlocks or 0), "", 0),
    ]


OPEN = """
    INSERT INTO open_executions (task_id, device_id, status, priority, site, platform, zone,
        trigger, worker_id, started_at, deadline_at, waited_seconds)
    SELECT gen_random_uuid(), id, 'running', 0, site, platform, zone, 'schedule', :worker_id,
        now(), now() + interval '1 hour', 0.1
    FROM devices WHERE id % 2 = :half ORDER BY id LIMIT :count
    RETURNING id, worker_id, task_id, device_id, trigger
"""


def end_executions(url: str, count: int, half: int) -> None:
    """One of the two processes: prints the seconds that its ending transactions took."""
    engine = create_engine(DatabaseSettings(url=SecretStr(url)), application_name="bench ending")
    worker_id, seconds, left = uuid.uuid4(), 0.0, count
    while left > 0:
        with engine.begin() as connection:
            rows = connection.execute(
                text(OPEN), {"worker_id": worker_id, "half": half, "count": left}
            ).all()
        left -= len(rows)
        began_at = time.monotonic()
        for number, row in enumerate(rows):
            ending = Ending("success", try_seconds=2.0 + number % 7, size_bytes=2_000)
            if number % 50 == 0:
                ending = Ending("failed", Reason.AUTH, "refused", try_seconds=1.0)
            running = Running(*row, ran_seconds=0.0, waited_seconds=0.1, failed_try_count=0)
            assert end_running(engine, running, ending, time_zone="UTC")
        seconds += time.monotonic() - began_at
    print(seconds)


def queries(engine: Engine) -> dict[str, Callable[[Connection], object]]:
    """Every question that grows with the history, as pages and commands ask it."""
    with engine.connect() as connection:
        task_id, scheduled = connection.execute(
            text("SELECT task_id, created_at FROM backups ORDER BY created_at DESC LIMIT 1")
        ).one()
        execution_id = connection.scalar(
            text("SELECT id FROM reporting.executions ORDER BY created_at DESC LIMIT 1")
        )
        today = connection.execute(text("SELECT CURRENT_DATE")).scalar_one()
    week, month = today - timedelta(days=6), today - timedelta(days=29)
    return {
        "fleet_counts": fleet_counts,
        "list_devices, one site": lambda c: list_devices(c, site="site-7"),
        "recent_executions": lambda c: recent_executions(c, limit=100),
        "recent_executions, failed": lambda c: recent_executions(c, limit=100, status="failed"),
        "recent_executions, device": lambda c: recent_executions(c, limit=100, device="device-77"),
        "recent_executions, reason": lambda c: recent_executions(c, limit=100, reason="storage"),
        "recent_executions, backup": lambda c: recent_executions(c, limit=100, task_id=task_id),
        "execution": lambda c: execution(c, execution_id),
        "backup_counts": lambda c: backup_counts(c, task_id),
        "list_versions": lambda c: list_versions(c, "device-77", limit=50),
        "version": lambda c: version(c, "device-77"),
        "list_schedules": list_schedules,
        "statistics_total, 30 days": lambda c: statistics_total(c, first_day=month),
        "statistics_total, 7 days, site and status": lambda c: statistics_total(
            c, first_day=week, site="site-7", status="failed"
        ),
        "counted_total, reason": lambda c: counted_total(c, since=scheduled, reason="auth"),
        "counted_total, device": lambda c: counted_total(c, device_id=77),
        "counted_total, trigger": lambda c: counted_total(c, trigger="schedule"),
    }


#: Every view as dashboards use it; a period is of as many days whatever the history has.
VIEW_QUERIES = {
    "devices, a page": "SELECT * FROM reporting.devices ORDER BY device LIMIT 100 OFFSET 5000",
    "devices, by state": """SELECT state, count(*), avg(is_fresh::int)
        FROM reporting.devices GROUP BY 1""",
    "devices, a search": """SELECT * FROM reporting.devices
        WHERE device ILIKE '%77%' AND state = 'normal' ORDER BY device LIMIT 100""",
    "failing_devices, the worst six": """SELECT * FROM reporting.failing_devices
        ORDER BY consecutive_failures DESC, failing_since LIMIT 6""",
    "failing_devices, count": "SELECT count(*) FROM reporting.failing_devices",
    "executions, the last 200": """SELECT * FROM reporting.executions
        WHERE created_at > now() - interval '7 days' ORDER BY created_at DESC LIMIT 200""",
    "executions, failed ones": """SELECT * FROM reporting.executions
        WHERE created_at > now() - interval '7 days' AND status IN ('failed', 'timeout')
        ORDER BY created_at DESC LIMIT 200""",
    "executions, one device, 30 days": """SELECT * FROM reporting.executions
        WHERE created_at > now() - interval '30 days' AND device = 'device-77'
        ORDER BY created_at DESC LIMIT 200""",
    "executions, failures by reason, 7 days": """SELECT reason, count(*) FROM reporting.executions
        WHERE created_at > now() - interval '7 days' AND status IN ('failed', 'timeout')
        GROUP BY reason ORDER BY 2 DESC""",
    "open_executions": "SELECT * FROM reporting.open_executions LIMIT 200",
    "daily_totals, 90 days": """SELECT * FROM reporting.daily_totals
        WHERE date > (SELECT today FROM reporting.settings) - 90 ORDER BY date""",
    "daily_statistics, 30 days by site": """
        SELECT site, sum(success), sum(failed), sum(timeout) FROM reporting.daily_statistics
        WHERE date > (SELECT today FROM reporting.settings) - 30 GROUP BY site""",
    "daily_statistics, one site, 90 days": """SELECT date, sum(total), sum(success)
        FROM reporting.daily_statistics WHERE site = 'site-7'
            AND date > (SELECT today FROM reporting.settings) - 90 GROUP BY date""",
    "device_days, one device": """SELECT * FROM reporting.device_days
        WHERE device = 'device-77' ORDER BY date""",
    "configuration_changes, 7 days": """SELECT * FROM reporting.configuration_changes
        WHERE created_at > now() - interval '7 days' ORDER BY created_at DESC LIMIT 200""",
    "configuration_changes, one device": """SELECT * FROM reporting.configuration_changes
        WHERE device = 'device-77' ORDER BY id DESC""",
    "schedules": "SELECT * FROM reporting.schedules",
    "schedule_ticks, 30 days": """SELECT * FROM reporting.schedule_ticks
        WHERE created_at > now() - interval '30 days' ORDER BY created_at DESC""",
    "backups, the last 100": """SELECT * FROM reporting.backups
        WHERE created_at > now() - interval '30 days' ORDER BY created_at DESC LIMIT 100""",
    "processes": "SELECT * FROM reporting.processes",
    "publishing": "SELECT * FROM reporting.publishing",
    "storage": "SELECT * FROM reporting.storage",
    "reasons": "SELECT * FROM reporting.reasons",
    "settings": "SELECT * FROM reporting.settings",
}


def timings(engine: Engine) -> dict[str, float]:
    """Median milliseconds of each, warm."""
    asked = queries(engine) | {
        f"reporting.{name}": lambda c, sql=sql: c.execute(text(sql)).all()
        for name, sql in VIEW_QUERIES.items()
    }
    found = {}
    for name, ask in asked.items():
        taken = []
        for _ in range(REPEATED):
            with engine.connect() as connection:
                began_at = time.monotonic()
                ask(connection)
                taken.append((time.monotonic() - began_at) * 1000)
        found[name] = statistics.median(taken)
    return found


if __name__ == "__main__":
    sys.exit(main())
