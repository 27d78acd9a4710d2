"""A fleet as its users see it: inventory, configurations, keys, and its end."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import psutil
import pytest
import yaml
from nornir.plugins.inventory import SimpleInventory

from exporter.simulator import FAULTS, PLATFORMS, Fleet, start_fleet
from exporter.simulator.plan import plan_devices, plan_faults
from tests.simulator.fetching import fetch, outcome, outcomes, wait_until


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), devices=15) as running:
        yield running


@pytest.fixture(scope="module")
def eos(fleet: Fleet) -> list[str]:
    """The names of three Arista devices; the last one speaks HTTP, the others HTTPS."""
    return [name for name in fleet.names if fleet.login(name).platform == "eos"]


def test_every_device_is_fetched_by_the_unmodified_driver(fleet: Fleet, eos: list[str]) -> None:
    assert {fleet.login(name).platform for name in fleet.names} == set(PLATFORMS)
    assert [dict(fleet.login(name).optional_args) for name in eos] == [
        {},
        {},
        {"transport": "http"},
    ]
    assert set(outcomes(fleet).values()) == {"complete"}


def test_a_reset_is_one_of_tcp(fleet: Fleet, eos: list[str]) -> None:
    fleet.set_fault(eos[2], "reset")
    with pytest.raises(Exception, match="reset by peer"):
        fetch(fleet.login(eos[2]))
    fleet.clear_fault(eos[2])


def test_an_edge_device_wants_the_enable_secret(fleet: Fleet) -> None:
    logins = [fleet.login(name) for name in fleet.names if "-edge-" in name]
    login = next(login for login in logins if login.platform == "ios")
    assert outcome(login) == "complete"
    assert outcome(replace(login, optional_args={"secret": "wrong"})) == "ValueError"


def test_volatile_lines_differ_at_each_fetch_and_nothing_else_does(
    fleet: Fleet, eos: list[str]
) -> None:
    first, second = (fetch(fleet.login(eos[0])).splitlines() for _ in range(2))
    changed = [one for one, other in zip(first, second, strict=True) if one != other]
    assert [line[:7] for line in changed] == ["! Time:"]


def test_a_written_configuration_is_shown_as_it_is(fleet: Fleet, eos: list[str]) -> None:
    fleet.set_configuration(eos[1], "hostname caf\xe9\nend\n".encode("latin-1"))
    assert fetch(fleet.login(eos[1])).splitlines()[2:] == ["hostname caf\xe9", "end"]
    fleet.set_configuration(eos[1], None)
    assert f"hostname {eos[1]}" in fetch(fleet.login(eos[1]))


def test_size_and_changes_of_configurations_are_settable(tmp_path: Path) -> None:
    with start_fleet(
        tmp_path,
        devices=1,
        platforms=["eos"],
        change_seconds=0.1,
        configuration_bytes=200_000,
    ) as changing:
        login = changing.login(changing.names[0])
        first = fetch(login)
        wait_until(lambda: fetch(login).splitlines()[2:] != first.splitlines()[2:])
    assert len(first) == pytest.approx(200_000, rel=0.1)


def test_host_keys_survive_a_restart_and_differ_under_the_fault(tmp_path: Path) -> None:
    def shown_keys(fleet: Fleet) -> list[bytes]:
        return [asyncio.run(_host_key(fleet, name)) for name in fleet.names]

    with start_fleet(tmp_path, devices=2, platforms=["ios"]) as fleet:
        first = shown_keys(fleet)
    with start_fleet(tmp_path, devices=2, platforms=["ios"]) as fleet:
        assert shown_keys(fleet) == first
        fleet.set_fault(fleet.names[0], "host_key")
        assert shown_keys(fleet)[0] not in first
        assert shown_keys(fleet)[1] == first[1]


async def _host_key(fleet: Fleet, name: str) -> bytes:
    login = fleet.login(name)
    key = await asyncssh.get_server_host_key(login.address, login.port, config=None)
    assert key is not None
    return key.public_data


def test_the_inventory_is_one_of_nornir(fleet: Fleet) -> None:
    files = {
        f"{kind}_file": str(fleet.inventory_directory / f"{name}.yaml")
        for kind, name in (("host", "hosts"), ("group", "groups"), ("defaults", "defaults"))
    }
    hosts = SimpleInventory(**files).load().hosts
    assert tuple(hosts) == fleet.names
    assert {host.platform for host in hosts.values()} == set(PLATFORMS)
    assert len({host.hostname for host in hosts.values()}) == len(hosts)
    assert all(name.startswith(host["site"]) for name, host in hosts.items())
    assert all(host.username and host.password and host["vendor"] for host in hosts.values())


def test_the_same_seed_gives_the_same_devices_and_faults() -> None:
    small, big = (plan_devices(count, seed=7, platforms=PLATFORMS) for count in (20, 60))
    names = [identity.name for identity in big]
    assert big[:20] == small
    assert len(set(names)) == 60
    assert len({identity.site for identity in big}) == 6
    assert plan_faults(names, 0.1, 7) == plan_faults(names, 0.1, 7)
    assert len(set(plan_faults(names, 0.1, 7).values())) == 6


def test_the_command_says_when_it_is_ready_and_ends_on_a_signal(tmp_path: Path) -> None:
    options = ["--devices", "4", "--failing", "0.5"]
    command = [sys.executable, "-m", "exporter.simulator", str(tmp_path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"4 devices listen")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    faults = yaml.safe_load((tmp_path / "faults.yaml").read_text())
    assert len(faults) == 2
    assert set(faults.values()) < set(FAULTS)


def test_a_fleet_ends_when_its_starter_is_gone(tmp_path: Path) -> None:
    script = (
        "import os; from pathlib import Path; from exporter.simulator import start_fleet\n"
        f"fleet = start_fleet(Path({str(tmp_path)!r}), devices=1)\n"
        "print(fleet.process_id, flush=True); os._exit(1)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        process_id = int(starter.stdout.readline())
    wait_until(lambda: not _runs(process_id))


def _runs(process_id: int) -> bool:
    try:
        # Where nobody reaps orphans, as in many containers, they stay as zombies.
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
