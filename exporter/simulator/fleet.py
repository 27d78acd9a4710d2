"""The process of a fleet: listens for every device, applies faults, changes configurations."""

import asyncio
import contextlib
import os
import random
import resource
import secrets
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.logs import get_logger
from exporter.simulator.device import Conduct, Device
from exporter.simulator.eapi import EapiConnection, tls_context
from exporter.simulator.faults import BEFORE_THE_DIALOGUE, NO_FAULT, parse_faults
from exporter.simulator.handshakes import FailedHandshake
from exporter.simulator.netconf import NetconfSession
from exporter.simulator.plan import (
    faults_file,
    plan_devices,
    plan_faults,
    write_at_once,
    write_inventory,
)
from exporter.simulator.ssh import SshListener
from exporter.simulator.ssh_shell import ShellSession

_log = get_logger(__name__)
#: How often the files of faults and configurations are looked at.
_POLL_SECONDS = 0.2
#: A device's address is 127.1.x.y, with y up to this.
_ADDRESSES_PER_NET = 250
_BACKLOG = 256


@dataclass(frozen=True)
class FleetPlan:
    """What one fleet is to be."""

    directory: Path
    devices: int
    platforms: tuple[str, ...]
    conduct: Conduct
    #: Mean time between two changes of a configuration somewhere in the fleet; 0: none.
    change_seconds: float
    #: Share of devices that fail, where faults.yaml does not say it yet.
    failing_share: float
    #: Take orders on standard input, and end when it closes.
    is_controlled: bool


class _Endpoint:
    """One device's listener, on one port for as long as the fleet runs."""

    def __init__(self, device: Device, address: str) -> None:
        self.device = device
        self.address = address
        self.port = 0
        self._server: asyncio.Server | None = None
        self._listens_for = ""
        session = NetconfSession if device.identity.platform == "junos" else ShellSession
        self._ssh = SshListener(device, session)

    async def adapt(self) -> None:
        """Listen for what the device's fault needs: nothing, plain TCP, or TLS with which key."""
        wanted = self._wanted()
        if wanted == self._listens_for:
            return
        self.close()
        if wanted != "nothing":
            await self._listen(_tls(wanted, self.device))
        self._listens_for = wanted

    def _wanted(self) -> str:
        identity = self.device.identity
        if self.device.has_fault("refused"):
            return "nothing"
        if identity.platform != "eos" or identity.is_plain_http or self.device.has_fault("silent"):
            return "tcp"
        return "tls with another key" if self.device.has_fault("host_key") else "tls"

    async def _listen(self, tls: ssl.SSLContext | None) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            self._accept, self.address, self.port, backlog=_BACKLOG, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self) -> asyncio.BaseProtocol:
        is_eapi = self.device.identity.platform == "eos"
        if self.device.has_fault(*BEFORE_THE_DIALOGUE):
            return FailedHandshake(self.device.fault, is_http=is_eapi)
        return EapiConnection(self.device) if is_eapi else self._ssh.connection()


def _tls(wanted: str, device: Device) -> ssl.SSLContext | None:
    if wanted == "tcp":
        return None
    return tls_context(device, is_changed=wanted == "tls with another key")


class FleetProcess:
    """All devices of one fleet, and the files in its directory that people write."""

    def __init__(self, plan: FleetPlan) -> None:
        self._plan = plan
        self._faults_file = plan.directory / "faults.yaml"
        self._configurations = plan.directory / "configurations"
        self._seen: Mapping[str, tuple[int, int]] = {}
        self._reloading = asyncio.Lock()
        self._endpoints: dict[str, _Endpoint] = {}
        self._stopping = asyncio.Event()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT; `announce` gets one line when all devices listen."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._start()
        if self._plan.is_controlled:
            loop.add_reader(sys.stdin.fileno(), self._obey, announce)
        announce(f"{len(self._endpoints)} devices listen; inventory in {self._plan.directory}")
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._watch_files())]
            if self._plan.change_seconds:
                background.append(tasks.create_task(self._change_configurations()))
            await self._stopping.wait()
            for task in background:
                task.cancel()
        for endpoint in self._endpoints.values():
            endpoint.close()

    async def _start(self) -> None:
        plan = self._plan
        self._configurations.mkdir(parents=True, exist_ok=True)
        identities = plan_devices(plan.devices, seed=plan.conduct.seed, platforms=plan.platforms)
        if not self._faults_file.exists():
            names = [identity.name for identity in identities]
            faults = plan_faults(names, plan.failing_share, plan.conduct.seed)
            write_at_once(self._faults_file, faults_file(faults))
        _allow_many_connections()
        secret = _key_secret(plan.directory / "host_keys.secret")
        for index, identity in enumerate(identities):
            device = Device(identity, plan.conduct, secret)
            self._endpoints[identity.name] = await _open_endpoint(device, index)
        await self.reload()
        endpoints = self._endpoints.values()
        addresses = [(each.device.identity, each.address, each.port) for each in endpoints]
        write_inventory(plan.directory, addresses)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.reload()

    def _obey(self, announce: Callable[[str], None]) -> None:
        """Any line on standard input is answered once the files as they are now are in force."""
        loop = asyncio.get_running_loop()
        if os.read(sys.stdin.fileno(), 1024):
            self._order = loop.create_task(self.reload(is_forced=True))
            self._order.add_done_callback(lambda _: announce("reloaded"))
        else:
            loop.remove_reader(sys.stdin.fileno())
            self._stopping.set()

    async def reload(self, *, is_forced: bool = False) -> None:
        """Put the faults and configurations in force that the files hold now.

        A file that cannot be read changes nothing, and is looked at again when it changes.
        """
        async with self._reloading:
            found = self._look_at_files()
            if found == self._seen and not is_forced:
                return
            self._seen = found
            try:
                self._read_configurations()
                self._read_faults()
            except (OSError, ValueError) as error:
                _log.error("faults or configurations were not read", error=str(error))
            for endpoint in self._endpoints.values():
                await endpoint.adapt()

    def _look_at_files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in (*os.scandir(self._configurations), self._faults_file):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                # A file that replaces another within one tick of the clock has another inode.
                found[os.fspath(file)] = (status.st_mtime_ns, status.st_ino)
        return found

    def _read_configurations(self) -> None:
        for name, endpoint in self._endpoints.items():
            file = self._configurations / f"{name}.cfg"
            endpoint.device.written = file.read_bytes() if str(file) in self._seen else None

    def _read_faults(self) -> None:
        is_there = str(self._faults_file) in self._seen
        faults = parse_faults(self._faults_file.read_text(encoding="utf-8")) if is_there else {}
        if unknown := faults.keys() - self._endpoints.keys():
            _log.warning("unknown devices in the faults", devices=sorted(unknown))
        for name, endpoint in self._endpoints.items():
            endpoint.device.fault = faults.get(name, NO_FAULT)

    async def _change_configurations(self) -> None:
        choice = random.Random(self._plan.conduct.seed)
        devices = [endpoint.device for endpoint in self._endpoints.values()]
        while True:
            await asyncio.sleep(choice.expovariate(1 / self._plan.change_seconds))
            choice.choice(devices).revision += 1


async def _open_endpoint(device: Device, index: int) -> _Endpoint:
    net, host = divmod(index, _ADDRESSES_PER_NET)
    endpoint = _Endpoint(device, f"127.1.{net}.{host + 1}")
    try:
        await endpoint.adapt()
    except OSError:
        # macOS has no other loopback address than this by default.
        endpoint.address = "127.0.0.1"
        await endpoint.adapt()
    return endpoint


def _key_secret(file: Path) -> bytes:
    if not file.exists():
        write_at_once(file, secrets.token_hex(32))
    return bytes.fromhex(file.read_text(encoding="utf-8"))


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
