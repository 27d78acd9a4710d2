"""Fetch from simulated devices with the unmodified drivers of NAPALM, and name what happens."""

import threading
import time
from collections.abc import Callable, Container

from napalm import get_network_driver

from exporter.simulator import Fleet, SimulatedLogin

TIMEOUT_SECONDS = 1.5


def fetch(login: SimulatedLogin) -> str:
    """The running configuration, as NAPALM returns it."""
    arguments = {"port": login.port, **login.optional_args}
    if login.platform in ("ios", "nxos_ssh"):
        arguments |= {"conn_timeout": TIMEOUT_SECONDS, "read_timeout_override": TIMEOUT_SECONDS}
    driver = get_network_driver(login.platform)(
        login.address,
        login.username,
        login.password,
        timeout=TIMEOUT_SECONDS,
        optional_args=arguments,
    )
    try:
        driver.open()
        return str(driver.get_config(retrieve="running")["running"])
    finally:
        _hang_up(driver)


def _hang_up(driver: object) -> None:
    """Close the connection without the further dialogue that NAPALM's own close begins."""
    if connection := getattr(driver, "_netmiko_device", None):
        connection.paramiko_cleanup()
        driver._netmiko_device = driver.device = None
    elif session := getattr(getattr(getattr(driver, "device", None), "_conn", None), "_session", 0):
        session.close()


def outcome(login: SimulatedLogin) -> str:
    """One word for what a fetch ends in: the exception's class, or what the text looks like."""
    try:
        text = fetch(login)
    except Exception as error:  # noqa: BLE001 (which one is the question)
        return type(error).__name__
    if text in ("", "None"):
        return "empty"
    if "% Invalid" in text:
        return "error line"
    ends = {"nxos_ssh": " router-id ", "junos": "\n}"}
    last = "\n".join(text.rstrip().splitlines()[-2:])
    return "complete" if ends.get(login.platform, "\nend") in last else "cut"


def outcomes(fleet: Fleet, hanging: Container[str] = ()) -> dict[str, str]:
    """The outcome of each device, all fetched at once.

    `hangs` for those of `hanging` that have not ended when all others have.
    """
    found = {}

    def note(name: str) -> None:
        found[name] = outcome(fleet.login(name))

    threads = {
        name: threading.Thread(target=note, args=(name,), daemon=True) for name in fleet.names
    }
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        if name not in hanging:
            thread.join()
    return {name: found.get(name, "hangs") for name in threads}


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Ask again and again until it is so; AssertionError when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become so"
