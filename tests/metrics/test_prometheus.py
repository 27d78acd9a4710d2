"""The daemon under load, scraped by a real Prometheus: what it says is what SQL says."""

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.simulator import Fleet, start_fleet
from tests.fleets import trigger_backup
from tests.installation import Installation, wait_until
from tests.metrics.prometheus import Prometheus

DEVICES = 30


class Balancer:
    """One address in front of several: connections go to each in turn, for a second each."""

    def __init__(self, *ports: int) -> None:
        self._ports = list(ports)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            for port in list(self._ports):
                self._ports.append(self._ports.pop(0))
                try:
                    server = socket.create_connection(("127.0.0.1", port))
                except ConnectionError:
                    continue
                with server:
                    _pump(client, server)
                return


def _pump(client: socket.socket, server: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        # Prometheus keeps its connection: it is cut once it is silent.
        while events := selector.select(timeout=0.3):
            for key, _ in events:
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), devices=DEVICES) as fleet:
        fleet.set_fault(fleet.names[0], "refused")
        yield fleet


def make_installation(directory: Path, url: str, fleet: Fleet, port: int) -> Installation:
    return Installation(
        directory,
        url,
        fleet,
        http={"port": port},
        workers={"processes": 1},
        collection={"sessions": 10},
    )


def counted(installation: Installation) -> dict[str, int]:
    rows = installation.rows("SELECT status, count(*) FROM backup_execution_logs GROUP BY status")
    return {f"status={row.status}": row.count for row in rows}


def assert_sums_agree(prometheus: Prometheus, installation: Installation) -> dict[str, int]:
    """To the unit, as soon as Prometheus has scraped; returns the sums by status."""

    def agreed() -> dict[str, int]:
        expected = counted(installation)
        found = prometheus.query("sum by (status) (configbackup_executions_total)")
        return expected if {key: value for key, value in found.items() if value} == expected else {}

    expected: dict[str, int] = wait_until(agreed, "Prometheus counts what SQL counts", seconds=15)
    devices = prometheus.query("sum by (status) (configbackup_device_executions_total)")
    assert {status: count for status, count in devices.items() if count} == expected
    assert prometheus.value("sum(configbackup_execution_duration_seconds_count)") == sum(
        expected.values()
    )
    return expected


def back_up_all(installation: Installation, times: int) -> None:
    for _ in range(times):
        trigger_backup(installation.engine)
        wait_until(
            lambda: not installation.rows("SELECT FROM open_executions"), "all executions ended"
        )


def test_sums_are_those_of_the_rows_under_load_and_after_everything_was_killed(
    tmp_path: Path, database_url: str, fleet: Fleet, free_ports: list[int]
) -> None:
    port, prometheus_port, *_ = free_ports
    installation = make_installation(tmp_path / "installation", database_url, fleet, port)
    prometheus = Prometheus(tmp_path / "prometheus", prometheus_port, f"127.0.0.1:{port}")
    try:
        installation.start()
        prometheus.wait_for("sum(configbackup_executions_total)", 0)
        back_up_all(installation, times=4)
        before = assert_sums_agree(prometheus, installation)
        assert before["status=failed"] == 4
        killed_at = time.monotonic()

        trigger_backup(installation.engine)
        wait_until(lambda: counted(installation) != before, "executions end again")
        kill_everything(installation)
        killed = counted(installation)
        prometheus.wait_for("up", 0)
        installation.start()
        # What ran when its worker was killed is recovered later; what waited is done now.
        wait_until(lambda: counted(installation) != killed, "executions end again")
        after = assert_sums_agree(prometheus, installation)
        window = f"[{int(time.monotonic() - killed_at)}s]"
        increase = prometheus.value(f"sum(increase(configbackup_executions_total{window}))") or 0
        # Prometheus extrapolates to the ends of the window.
        assert increase <= 2 * (sum(after.values()) - sum(before.values()))
        for name in ("executions_total", "device_executions_total", "execution_failures_total"):
            assert prometheus.value(f"sum(resets(configbackup_{name}[10m]))") == 0
        assert_exemplars_name_backups(prometheus, installation)
    finally:
        prometheus.close()
        installation.close()


def assert_exemplars_name_backups(prometheus: Prometheus, installation: Installation) -> None:
    exemplars = prometheus.get(
        "query_exemplars",
        query="configbackup_execution_duration_seconds_bucket",
        start=str(time.time() - 600),
        end=str(time.time() + 10),
    )
    seen = {each["labels"]["task_id"] for found in exemplars for each in found["exemplars"]}
    assert seen
    assert seen <= {str(row.task_id) for row in installation.rows("SELECT task_id FROM backups")}


def kill_everything(installation: Installation) -> None:
    pids = installation.worker_pids()
    installation.kill()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_two_daemons_behind_one_address_count_once_and_one_goes_on_alone(
    tmp_path: Path, database_url: str, fleet: Fleet, free_ports: list[int]
) -> None:
    port, prometheus_port, other_port = free_ports
    one = make_installation(tmp_path / "one", database_url, fleet, port)
    other = make_installation(tmp_path / "other", database_url, fleet, other_port)
    balancer = Balancer(port, other_port)
    rule = {
        "alert": "DeviceFailing",
        "expr": "configbackup_device_consecutive_failures >= 2",
    }
    prometheus = Prometheus(
        tmp_path / "prometheus", prometheus_port, f"127.0.0.1:{balancer.port}", [rule]
    )
    try:
        one.start()
        other.start(leads=False)
        back_up_all(one, times=2)
        assert_sums_agree(prometheus, one)
        prometheus.wait_for("count(configbackup_device_info)", DEVICES)
        prometheus.wait_for('configbackup_processes{kind="daemon"}', 2)
        prometheus.wait_for("configbackup_leaders", 1)
        prometheus.wait_for("count(ALERTS)", 1)
        # Both answered in turn, and each was a process of its own.
        prometheus.wait_for("count(count_over_time(configbackup_build_info[1m]))", 1)

        one.kill()
        prometheus.wait_for("configbackup_leaders", 1)
        assert_sums_agree(prometheus, other)
        assert prometheus.value("sum(resets(configbackup_executions_total[10m]))") == 0
        assert prometheus.value("count(ALERTS)") == 1
        assert prometheus.value("min(count by (device) (configbackup_device_info))") == 1
        assert prometheus.value("max(count by (device) (configbackup_device_info))") == 1
    finally:
        prometheus.close()
        balancer.close()
        other.close()
        one.close()
