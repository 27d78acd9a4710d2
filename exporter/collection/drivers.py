"""One device's running configuration through its NAPALM driver, inside the current session.

Transports: what runs over SSH (netmiko, NETCONF) has its host key checked by the session; HTTP
APIs (`eos`, `nxos`) have none, and NAPALM checks their certificates only where the inventory's
optional arguments ask for it.
"""

import contextlib
import inspect
import math
from typing import Any

from napalm.base import NetworkDriver, get_network_driver

from exporter.collection.bounded import bounded_driver
from exporter.collection.contracts import Login
from exporter.collection.judging import unframe
from exporter.collection.sessions import Session
from exporter.errors import ConfigBackupError


class NoConfiguration(ConfigBackupError):
    """The driver's answer has no running configuration in it."""


def find_driver(login: Login, platform_driver: str) -> type[NetworkDriver]:
    """The driver of a device: the inventory's, else the platform's.

    Raises NAPALM's ModuleImportError where it is not installed.
    """
    return bounded_driver(get_network_driver(login.driver or platform_driver))


def fetch_text(session: Session) -> str:
    """Log in and fetch: the text in Latin-1, one character a byte, freed of framing."""
    driver = _build_driver(session)
    try:
        driver.open()
        session.mark_ready()
        text = _fetch(driver, session)
        # A driver that heeds nothing may return long after the deadline.
        session.check()
        session.mark_fetched()
    except BaseException:
        session.shut_down()
        _close(driver)
        raise
    _close(driver)
    return text


def _build_driver(session: Session) -> NetworkDriver:
    login = session.request.login
    arguments = dict(login.optional_args)
    if login.port is not None:
        arguments.setdefault("port", login.port)
    return find_driver(login, session.platform.driver)(
        login.address,
        login.username,
        login.password,
        timeout=math.ceil(session.remaining),
        optional_args=arguments,
    )


def _fetch(driver: Any, session: Session) -> str:
    command = session.platform.command
    connection = getattr(driver, "_netmiko_device", None)
    if command and connection is not None:
        text: str = connection.send_command(command)
        return text
    if command and hasattr(driver.device, "show"):
        # NX-API. NAPALM's get_config drops lines, with a pattern that takes 162 ms a megabyte.
        return _in_latin_1(driver.device.show(command, raw_text=True))
    known = inspect.signature(driver.get_config).parameters
    wanted = {"retrieve": "running", "full": False, "sanitized": False}
    answer = driver.get_config(**{name: wanted[name] for name in wanted if name in known})
    try:
        return _in_latin_1(answer["running"])
    except (KeyError, TypeError):
        raise NoConfiguration("the driver's answer has no running configuration") from None


def _in_latin_1(text: str | None) -> str:
    """The bytes of a decoded text, one character each."""
    return unframe((text or "").encode("utf-8", "surrogateescape").decode("latin-1"))


def _close(driver: NetworkDriver) -> None:
    """Free what the driver holds. The text is here, or the failure known: nothing that a device
    says in parting changes it, and a driver that never opened may stumble over itself.
    """
    with contextlib.suppress(Exception):
        driver.close()


__all__ = ["NoConfiguration", "fetch_text", "find_driver"]
