"""A worker's logins: fresh in the background, the last good inventory whatever happens."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from exporter.errors import CollectionFailed
from exporter.inventory import LoginSource, logins
from exporter.settings import CollectionSettings, InventorySettings

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "defaults.yaml").write_text("{username: u, password: p, platform: ios}")

    def replace_hosts(hosts: str) -> None:
        # A new inode: the change is seen, however coarse the file system's clock.
        (tmp_path / "new.yaml").write_text(hosts)
        (tmp_path / "new.yaml").replace(tmp_path / "host.yaml")

    return replace_hosts


@pytest.fixture
def start(inventory_settings: InventorySettings) -> Iterator[Callable[[], LoginSource]]:
    sources: list[LoginSource] = []

    def start_source() -> LoginSource:
        sources.append(LoginSource(inventory_settings, CollectionSettings()))
        return sources[-1]

    yield start_source
    for source in sources:
        source.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_login_waits_for_the_first_inventory(
    start: Callable[[], LoginSource], write: Write
) -> None:
    write("a: {hostname: x}")

    assert start().login("a").address == "x"


def test_a_request_reads_the_inventory_again(
    start: Callable[[], LoginSource], write: Write
) -> None:
    write("a: {hostname: x}")
    source = start()
    source.login("a")
    write("a: {hostname: y}")

    source.request_reload()

    wait_for(lambda: source.login("a").address == "y")


def test_a_broken_inventory_leaves_the_last_good_one_in_force(
    start: Callable[[], LoginSource], write: Write
) -> None:
    write("a: {hostname: x}")
    with structlog.testing.capture_logs() as logs:
        source = start()
        source.login("a")
        write("a: {hostname: [}")
        source.request_reload()
        wait_for(lambda: bool(logs))

        assert source.login("a").address == "x"

    assert "the last good one stays in force" in logs[0]["event"]
    assert "host.yaml: line 1" in logs[0]["faults"][0]


def test_without_any_good_inventory_a_login_fails_and_says_so(
    start: Callable[[], LoginSource], write: Write
) -> None:
    write("- nonsense")
    source = start()

    with pytest.raises(CollectionFailed, match="guarded: the inventory is broken"):
        source.login("a")


def test_a_device_that_is_new_is_looked_for_in_a_newer_inventory(
    start: Callable[[], LoginSource], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "FRESH_SECONDS", 0.0)
    write("a: {hostname: x}")
    source = start()
    source.login("a")
    write("{a: {hostname: x}, b: {hostname: y}}")

    assert source.login("b").address == "y"
    with pytest.raises(CollectionFailed, match="'c' is not in the inventory"):
        source.login("c")
