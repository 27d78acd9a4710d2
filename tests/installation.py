"""A whole installation for tests: settings, a simulated fleet's inventory, daemon, commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
import yaml
from sqlalchemy import Row, make_url, text

from exporter.simulator import Fleet

#: Every wait of a test ends; this one is for a machine that does many things at once.
PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's first true value; fails with `what` after the patience."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"in {seconds} s it never happened that {what}")
        time.sleep(0.05)


class Installation:
    """One machine's installation in a folder, against a database and a fleet."""

    def __init__(
        self,
        directory: Path,
        database_url: str,
        fleet: Fleet,
        **sections: dict[str, Any] | list[Any],
    ) -> None:
        inventory = fleet.inventory_directory
        content: dict[str, Any] = {
            "database": {"url": database_url},
            "inventory": {
                "options": {
                    "host_file": str(inventory / "hosts.yaml"),
                    "group_file": str(inventory / "groups.yaml"),
                    "defaults_file": str(inventory / "defaults.yaml"),
                }
            },
            "http": {"port": 0},
            "collection": {"deadline_seconds": 5, "retries": 0, "grace_seconds": 5},
            "logs": {"level": "debug", "format": "json"},
        }
        for name, keys in sections.items():
            content[name] = {**content.get(name, {}), **keys} if isinstance(keys, dict) else keys
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings_file = directory / "configbackup.yaml"
        self.settings_file.write_text(yaml.safe_dump(content))
        self.log_file = directory / "daemon.log"
        self.repository = directory / "state" / "configurations.git"
        # Not the program's own: a test looks at the truth from outside.
        self.engine = sqlalchemy.create_engine(
            make_url(database_url).set(drivername="postgresql+psycopg2"),
            isolation_level="AUTOCOMMIT",
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, *, leads: bool = True) -> None:
        """Start the daemon and return when it leads; where another does, when it lives."""
        with self.log_file.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "exporter.cli", "run"],
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        pid = self.daemon.pid
        wait_until(
            lambda: self.rows(
                "SELECT FROM processes WHERE pid = :pid AND is_leader >= :leads",
                pid=pid,
                leads=leads,
            ),
            "the daemon leads" if leads else "the daemon lives",
        )

    def stop(self) -> int:
        """End the daemon by SIGTERM; its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.stop()
        self.engine.dispose()

    def worker_pids(self) -> list[int]:
        return [each.pid for each in self.rows("SELECT pid FROM processes WHERE kind = 'worker'")]

    def command(
        self, *words: str, timeout: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run `configbackup WORDS`."""
        return subprocess.run(
            [sys.executable, "-m", "exporter.cli", *words],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def rows(self, sql: str, **values: Any) -> Sequence[Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(text(sql), values).all()

    def row(self, sql: str, **values: Any) -> Row[Any]:
        (only,) = self.rows(sql, **values)
        return only

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONFIGBACKUP_SETTINGS": str(self.settings_file),
            "COLUMNS": "250",
        }
