"""A whole installation for tests: settings, a simulated fleet's inventory, daemon, commands."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy
import yaml
from sqlalchemy import Engine, Row, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from exporter.database.engine import database_url
from exporter.errors import DatabaseProblem
from exporter.settings import load_settings
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


def system_user() -> str:
    """Whom an embedded server runs as where the tests run as root; `make` creates the first."""
    names = {account.pw_name for account in pwd.getpwall()}
    return next(name for name in ("configbackup", "postgres", "nobody") if name in names)


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Installation:
    """One machine's installation in a folder, against a database and a fleet."""

    def __init__(
        self,
        directory: Path,
        url: str,
        fleet: Fleet,
        **sections: dict[str, Any] | list[Any],
    ) -> None:
        inventory = fleet.inventory_directory
        content: dict[str, Any] = {
            "database": {"url": url},
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
        self.daemon: subprocess.Popen[bytes] | None = None

    @cached_property
    def engine(self) -> Engine:
        """Not the program's own: a test looks at the truth from outside."""
        url = database_url(load_settings(self.settings_file).database)
        return sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)

    def start(self, *, leads: bool = True) -> None:
        """Start the daemon and return when it leads; where another does, when it lives."""
        with self.log_file.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "exporter.cli", "run"],
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: self._lives(leads=leads),
            "the daemon leads" if leads else "the daemon lives",
        )

    def _lives(self, *, leads: bool) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log_file.read_text()[-2000:]
        try:
            return bool(
                self.rows(
                    "SELECT FROM processes WHERE pid = :pid AND is_leader >= :leads",
                    pid=self.daemon.pid,
                    leads=leads,
                )
            )
        except (DatabaseProblem, OperationalError, ProgrammingError):
            # PostgreSQL does not answer yet, or has no tables yet.
            return False

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

    def git(self, *words: str) -> str:
        """What Git says about the repository of configurations."""
        return subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(self.repository), *words],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONFIGBACKUP_SETTINGS": str(self.settings_file),
            "COLUMNS": "250",
        }
