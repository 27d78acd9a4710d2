"""Queries and reporting views over millions of executions, and what ending them costs.

`python -m bench.history [--executions N ...]`: 10,000 devices, 100 sites, 3 platforms; the days a
history covers grow with its size, so that a period asked for holds the same number of executions.
"""

import argparse
import sys
import time
from datetime import timedelta

from sqlalchemy import Engine, text

from bench.metrics import database
from bench.report import Result, at_most, write
from exporter import logs
from exporter.database import migrations
from exporter.database.engine import create_engine
from exporter.integrity.numbers import verify_numbers
from exporter.settings import LogSettings
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
    given = arguments.parse_args()
    logs.configure(LogSettings(level="warning"))
    results: list[Result] = []
    for executions in given.executions:
        with database() as settings:
            engine = create_engine(settings, application_name="bench")
            results += measure(engine, executions)
            engine.dispose()
    return 0 if write("history", results) else 1


def measure(engine: Engine, executions: int) -> list[Result]:
    millions = f"{executions / 1e6:g} million"
    seconds = make_past(engine, executions)
    results = [at_most(f"writing {millions}", seconds, "s", 60 * executions / 1e6)]
    began_at = time.monotonic()
    differences = verify_numbers(engine)
    results += [
        Result(f"history verify, {millions}", time.monotonic() - began_at, "s"),
        at_most(f"differences, {millions}", len(differences), "", 0),
    ]
    return results


if __name__ == "__main__":
    sys.exit(main())
