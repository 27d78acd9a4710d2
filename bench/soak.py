"""Kill daemon, workers and PostgreSQL at random moments under load, then count.

`python -m bench.soak [KILLS]` (50 by default). After each kill the daemon is started again where
it was killed; at the end every execution has one row and one end, every stored configuration is
whole, Git has caught up, and nothing is there twice. The test run has a short form.
"""

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import zstandard

from exporter.simulator import Fleet, start_fleet
from tests.installation import Installation, free_port, system_user, wait_until

_DEVICES = 40


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory(prefix="configbackup-soak-", dir="/tmp") as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        with start_fleet(directory / "fleet", devices=_DEVICES, change_seconds=0.5) as fleet:
            for fault in ("silent", "reset", "truncated"):
                fleet.set_fault(random.choice(fleet.names), fault)
            return soak(directory / "installation", fleet, kills=kills)


def soak(directory: Path, fleet: Fleet, *, kills: int) -> int:
    """Load, kill, restart, count; raises AssertionError where something is lost or doubled."""
    installation = Installation(
        directory,
        "embedded",
        fleet,
        database={"port": free_port(), "system_user": system_user()},
        collection={"deadline_seconds": 4, "retries": 1, "retry_delay_seconds": 1, "sessions": 20},
        workers={"processes": 2},
        schedules=[{"name": "often", "every_seconds": 3, "selection": {"all": True}}],
        logs={"level": "info"},
    )
    installation.start()
    try:
        for number in range(kills):
            time.sleep(random.uniform(0.2, 3.0))
            name, kill = random.choice(_KILLS)
            print(f"kill {number + 1} of {kills}: {name}", flush=True)
            kill(installation)
            if installation.daemon is None or installation.daemon.poll() is not None:
                installation.start()
        _let_it_settle(installation)
        _check(installation)
    finally:
        installation.close()
    return 0


def _kill_daemon(installation: Installation) -> None:
    installation.kill()


def _kill_worker(installation: Installation) -> None:
    assert installation.daemon is not None
    workers = psutil.Process(installation.daemon.pid).children()
    if workers:
        random.choice(workers).kill()


def _kill_postgresql(installation: Installation) -> None:
    pid_file = installation.directory / "state" / "postgresql" / "data" / "postmaster.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)


_KILLS: tuple[tuple[str, Callable[[Installation], None]], ...] = (
    ("daemon", _kill_daemon),
    ("worker", _kill_worker),
    ("PostgreSQL", _kill_postgresql),
)


def _let_it_settle(installation: Installation) -> None:
    """No further ticks; what is open ends, and Git catches up."""
    wait_until(lambda: _answers(installation), "PostgreSQL answers again", 120)
    assert installation.command("schedules", "pause", "often", "--note", "soak").returncode == 0
    wait_until(lambda: not installation.rows("SELECT FROM open_executions"), "everything ends", 180)
    wait_until(
        lambda: not installation.rows("SELECT FROM configurations WHERE git_commit_id IS NULL"),
        "Git catches up",
        60,
    )


def _answers(installation: Installation) -> bool:
    return installation.command("database", "status").returncode == 0


def _check(installation: Installation) -> None:
    wanted = installation.row("SELECT count(DISTINCT execution_id) FROM backup_devices").count
    ended = installation.row(
        "SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM backup_execution_logs"
    )
    missing = installation.rows("""
        SELECT execution_id FROM backup_devices
        WHERE execution_id NOT IN (SELECT id FROM backup_execution_logs)""")
    assert not missing, f"{len(missing)} executions have no end"
    assert ended.rows == ended.ids == wanted, (ended, wanted)
    counted = installation.row("SELECT sum(count) AS sum FROM execution_counters").sum
    daily = installation.row("SELECT sum(count) AS sum FROM daily_statistics").sum
    assert counted == daily == ended.rows, (counted, daily, ended.rows)
    texts = installation.rows("SELECT sha256, compressed FROM configuration_texts")
    for each in texts:
        text = zstandard.decompress(bytes(each.compressed))
        assert hashlib.sha256(text).digest() == bytes(each.sha256)
    versions = installation.row("SELECT count(*) FROM configurations").count
    commits = installation.git("log", "--format=%B", "main").count("\nVersion: ")
    assert commits == versions, (commits, versions)
    installation.git("fsck", "--no-dangling")
    print(f"{ended.rows} executions ended once; {versions} versions, {commits} commits")


if __name__ == "__main__":
    sys.exit(main())
