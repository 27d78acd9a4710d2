"""The whole way, from the trigger to Git, beside bare NAPALM with the same sessions and processes.

The simulator, PostgreSQL (embedded, durable) and the clients share the machine's cores, so only
ratios of one run mean something.
"""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from bench.report import Result, at_least, at_most, write
from exporter.backups import BackupRequest, start_backup
from exporter.database.embedded import EmbeddedPostgres
from exporter.database.migrations import upgrade
from exporter.settings import DatabaseSettings, Selection
from exporter.simulator import Fleet, start_fleet
from tests.installation import Installation, free_port, system_user, wait_until

_PROCESSES = 2
_WARM_UP = 100


@dataclass(frozen=True)
class Bare:
    """Fetching alone, by some processes: the slowest one's seconds, all one's CPU."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class WholeWay:
    """One backup of a fleet by the daemon. CPU seconds by who used them; bytes are PSS."""

    seconds: float
    cpu_seconds: float
    postgresql_cpu_seconds: float
    git_cpu_seconds: float
    memory_bytes: float


def main() -> int:
    with database() as url:
        results = _without_latency(url) + _with_latency(url)
    return 0 if write("whole_way", results) else 1


def _without_latency(url: str) -> list[Result]:
    devices, sessions = 1000, 50
    with fleet_of(devices + _WARM_UP) as fleet:
        simulator = psutil.Process(fleet.process_id)
        before = _cpu(simulator)
        napalm = _bare("napalm", fleet, fleet.names[_WARM_UP:], sessions)
        simulator_cpu = (_cpu(simulator) - before) / devices
        collector = _bare("collector", fleet, fleet.names[_WARM_UP:], sessions)
        whole = _whole_way(url, fleet, fleet.names[_WARM_UP:], sessions)
    ours = whole.cpu_seconds + whole.postgresql_cpu_seconds + whole.git_cpu_seconds
    per_device = 1000 / devices
    return [
        Result("bare NAPALM", devices / napalm.seconds, "devices/s"),
        Result("bare collector", devices / collector.seconds, "devices/s"),
        Result("whole way", devices / whole.seconds, "devices/s"),
        at_least("whole way / bare NAPALM", napalm.seconds / whole.seconds, "ratio", 0.8),
        Result("CPU of bare NAPALM", napalm.cpu_seconds * per_device, "ms/device"),
        Result("CPU of the collector alone", collector.cpu_seconds * per_device, "ms/device"),
        Result("CPU of daemon and workers", whole.cpu_seconds * per_device, "ms/device"),
        Result("CPU of PostgreSQL", whole.postgresql_cpu_seconds * per_device, "ms/device"),
        Result("CPU of Git", whole.git_cpu_seconds * per_device, "ms/device"),
        Result("CPU of the simulator", simulator_cpu * 1000, "ms/device"),
        at_most("CPU beyond fetching", (ours - collector.cpu_seconds) * per_device, "ms/device", 5),
        at_most("memory (PSS) of daemon and two workers", whole.memory_bytes / 2**20, "MB", 450),
    ]


def _with_latency(url: str) -> list[Result]:
    devices, sessions = 800, 100
    with fleet_of(devices + _WARM_UP, latency_seconds=2.0) as fleet:
        napalm = _bare("napalm", fleet, fleet.names[_WARM_UP:], sessions)
        whole = _whole_way(url, fleet, fleet.names[_WARM_UP:], sessions)
    return [
        Result("bare NAPALM at 2 s a command", devices / napalm.seconds, "devices/s"),
        Result("whole way at 2 s a command", devices / whole.seconds, "devices/s"),
        at_least(
            "whole way / bare NAPALM at 2 s a command",
            napalm.seconds / whole.seconds,
            "ratio",
            0.95,
        ),
        Result(
            "CPU of daemon and workers at 2 s a command",
            whole.cpu_seconds * 1000 / devices,
            "ms/device",
        ),
    ]


def _bare(how: str, fleet: Fleet, names: Sequence[str], sessions: int) -> Bare:
    parts = [names[number::_PROCESSES] for number in range(_PROCESSES)]

    def run(part: Sequence[str]) -> Bare:
        given = pickle.dumps(([fleet.login(name) for name in part], sessions))
        done = subprocess.run(
            [sys.executable, "-m", "bench.fetching", how],
            input=given,
            stdout=subprocess.PIPE,
            check=True,
        )
        return Bare(**json.loads(done.stdout))

    with ThreadPoolExecutor(_PROCESSES) as threads:
        both = list(threads.map(run, parts))
    return Bare(max(b.seconds for b in both), sum(b.cpu_seconds for b in both))


def _whole_way(url: str, fleet: Fleet, names: Sequence[str], sessions: int) -> WholeWay:
    directory = Path(tempfile.mkdtemp(prefix="configbackup-bench-"))
    installation = Installation(
        directory,
        url,
        fleet,
        collection={"deadline_seconds": 120, "sessions": sessions},
        workers={"processes": _PROCESSES},
        logs={"level": "info"},
    )
    installation.start()
    try:
        _warm_up(installation, fleet)
        assert installation.daemon is not None
        daemon = psutil.Process(installation.daemon.pid)
        ours = [daemon, *(psutil.Process(pid) for pid in installation.worker_pids())]
        before = _usage(ours, installation)
        started = time.monotonic()
        with installation.engine.begin() as connection:
            start_backup(
                connection,
                BackupRequest(
                    selection=Selection(devices=list(names)),
                    trigger="command",
                    requested_by="benchmark",
                ),
            )
        wait_until(lambda: _published(installation) == len(fleet.names), "all is published", 600)
        seconds = time.monotonic() - started
        after = _usage(ours, installation)
        memory = sum(process.memory_full_info().pss for process in ours)
    finally:
        installation.close()
        _forget(installation)
        shutil.rmtree(directory)
    used = [late - early for early, late in zip(before, after, strict=True)]
    return WholeWay(seconds, *used, memory)


def _warm_up(installation: Installation, fleet: Fleet) -> None:
    """Workers have loaded their drivers, and PostgreSQL and Git have seen a backup."""
    names = fleet.names[:_WARM_UP]
    assert installation.command("backup", *names, "--wait", timeout=300).returncode == 0
    wait_until(lambda: _published(installation) == len(names), "the warm-up is published")


def _published(installation: Installation) -> int:
    count: int = installation.row(
        "SELECT count(*) FROM configurations WHERE git_commit_id IS NOT NULL"
    ).count
    return count


def _forget(installation: Installation) -> None:
    with installation.engine.connect() as connection:
        connection.execute(
            text("""
                TRUNCATE devices, device_states, backups, backup_devices, open_executions,
                    configurations, configuration_texts, device_paths, host_keys, events,
                    procrastinate_jobs CASCADE
            """)
        )
        connection.execute(text("UPDATE publishing_state SET head_commit_id = NULL"))


def _usage(ours: Sequence[psutil.Process], installation: Installation) -> list[float]:
    """CPU seconds of our processes, of PostgreSQL, and of Git (the daemon's ended children)."""
    postmaster = psutil.Process(int(installation.row("SELECT pg_backend_pid()")[0])).parent()
    assert postmaster is not None
    times = postmaster.cpu_times()
    server = _cpu(postmaster) + times.children_user + times.children_system
    server += sum(_cpu(child) for child in postmaster.children())
    git = ours[0].cpu_times()
    return [sum(map(_cpu, ours)), server, git.children_user + git.children_system]


def _cpu(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


@contextlib.contextmanager
def fleet_of(devices: int, latency_seconds: float = 0.0) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="configbackup-bench-") as directory:
        fleet = start_fleet(
            Path(directory),
            devices=devices,
            platforms=["ios"],
            latency_seconds=latency_seconds,
            configuration_bytes=20_000,
        )
        with fleet:
            yield fleet


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A durable embedded server of the benchmark's own."""
    directory = Path(tempfile.mkdtemp(prefix="configbackup-bench-", dir="/tmp"))
    directory.chmod(0o755)
    server = EmbeddedPostgres(
        DatabaseSettings(
            url=SecretStr("embedded"),
            directory=directory / "postgresql",
            port=free_port(),
            system_user=system_user(),
        )
    )
    try:
        url = server.start()
        engine = create_engine(url)
        upgrade(engine)
        engine.dispose()
        yield url.render_as_string(hide_password=False)
    finally:
        server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
