"""What unmodified drivers meet of each fault, on each transport."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.simulator import COMMON_FAULTS, FAULTS, Fleet, start_fleet
from exporter.simulator.faults import DeviceFault, parse_faults
from tests.simulator.fetching import fetch, outcomes, wait_until

_SHELL = {
    "refused": "ConnectionException",
    "silent": "ConnectionException",
    "banner_silent": "ConnectionException",
    "banner_slow": "ConnectionException",
    "banner_endless": "ConnectionException",
    "password": "NetmikoAuthenticationException",
    "host_key": "complete",
    "enable_secret": "ValueError",
    "no_prompt": "ReadTimeout",
    "slow": "ReadTimeout",
    "stalled": "ReadTimeout",
    "reset": "ReadTimeout",
    "closed": "ReadTimeout",
    "truncated": "cut",
    "empty": "empty",
    "invalid": "error line",
    "endless": "ReadTimeout",
    "banner": "cut",
    "pager": "ReadTimeout",
}
_EAPI = {
    "refused": "ConnectionError",
    "silent": "ConnectionError",
    "banner_silent": "ConnectionError",
    "banner_slow": "hangs",
    "banner_endless": "hangs",
    "password": "ConnectionError",
    "host_key": "complete",
    "enable_secret": "CommandError",
    "no_prompt": "ConnectionError",
    "slow": "hangs",
    "stalled": "ConnectionError",
    "reset": "ConnectionError",
    "closed": "IncompleteRead",
    "truncated": "cut",
    "empty": "empty",
    "invalid": "CommandError",
    "endless": "hangs",
    "banner": "complete",
    "pager": "complete",
}
_NETCONF = {
    "refused": "ConnectRefusedError",
    "silent": "hangs",
    "banner_silent": "hangs",
    "banner_slow": "hangs",
    "banner_endless": "hangs",
    "password": "ConnectAuthError",
    "host_key": "complete",
    "enable_secret": "complete",
    "no_prompt": "hangs",
    "slow": "RpcTimeoutError",
    "stalled": "RpcTimeoutError",
    "reset": "ConnectClosedError",
    "closed": "ConnectClosedError",
    "truncated": "cut",
    "empty": "empty",
    "invalid": "RpcError",
    "endless": "RpcTimeoutError",
    "banner": "complete",
    "pager": "complete",
}


@pytest.mark.parametrize(
    ("platform", "expected"), [("ios", _SHELL), ("eos", _EAPI), ("junos", _NETCONF)]
)
def test_each_fault_is_met_by_the_driver(
    tmp_path: Path, platform: str, expected: dict[str, str]
) -> None:
    with start_fleet(tmp_path, devices=len(FAULTS), platforms=[platform]) as fleet:
        broken = dict(zip(fleet.names, FAULTS, strict=True))
        for name, fault in broken.items():
            fleet.set_fault(name, fault)

        hanging = [name for name, fault in broken.items() if expected[fault] == "hangs"]
        found = outcomes(fleet, hanging)

    assert {broken[name]: ended for name, ended in found.items()} == expected


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), devices=2, platforms=["eos"]) as running:
        yield running


@pytest.fixture
def faults_file(fleet: Fleet) -> Iterator[Path]:
    """The file, which has no faults in it again after the test."""
    yield fleet.inventory_directory / "faults.yaml"
    (fleet.inventory_directory / "faults.yaml").write_text("")


@pytest.mark.usefixtures("faults_file")
def test_a_device_is_broken_and_mended_while_the_fleet_runs(fleet: Fleet) -> None:
    login = fleet.login(fleet.names[0])
    for fault in ("refused", "silent", "host_key", "truncated"):
        fleet.set_fault(login.device, fault)
        fleet.clear_fault(login.device)
        assert fetch(login).endswith("end\n")


@pytest.mark.usefixtures("faults_file")
def test_a_fault_takes_parameters(fleet: Fleet) -> None:
    name = fleet.names[0]
    fleet.set_fault(name, "truncated", after_bytes=100)
    assert len(fetch(fleet.login(name))) == 100


def test_a_faults_file_written_by_hand_is_in_force_soon(fleet: Fleet, faults_file: Path) -> None:
    name = fleet.names[0]
    faults_file.write_text(f"{name}: empty\n")
    wait_until(lambda: fetch(fleet.login(name)) == "")


def test_a_broken_faults_file_changes_nothing(fleet: Fleet, faults_file: Path) -> None:
    first, second = fleet.names
    fleet.set_fault(first, "empty")
    faults_file.write_text(f"{second}: exploded\n")
    fleet.set_configuration(second, "read after the file of faults\n")
    assert "read after the file of faults" in fetch(fleet.login(second))
    assert fetch(fleet.login(first)) == ""
    fleet.set_configuration(second, None)


def test_unknown_faults_and_devices_are_refused(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="found fault 'exploded', expected one of banner"):
        fleet.set_fault(fleet.names[0], "exploded")
    with pytest.raises(KeyError, match="nowhere"):
        fleet.set_fault("nowhere", "slow")


def test_a_faults_file_names_faults_with_and_without_parameters() -> None:
    faults = parse_faults("a: slow\nb: {fault: slow, bytes_per_second: 5}\n")
    assert faults == {"a": DeviceFault("slow"), "b": DeviceFault("slow", bytes_per_second=5)}


@pytest.mark.parametrize("text", ["- slow", "a: {fault: slow, speed: 5}", "a: {", "a: null"])
def test_a_wrong_faults_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"found|unexpected"):
        parse_faults(text)


def test_the_faults_of_a_failing_share_are_known() -> None:
    assert set(COMMON_FAULTS) < set(FAULTS)
