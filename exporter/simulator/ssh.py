"""SSH for the devices that speak it: the login, and the start of a shell or of NETCONF."""

import asyncio

import asyncssh

from exporter.simulator.device import Device
from exporter.simulator.faults import Wire, wait_for_ever
from exporter.simulator.handshakes import send_reset_on_close


class DeviceLogin(asyncssh.SSHServer):
    """One connection: checks the password, then hands over to the session of the platform."""

    def __init__(self, device: Device, session: "type[DeviceSession]") -> None:
        self._device = device
        self._session = session

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return self._device.accepts(username, password)

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return self._session(self._device)


class DeviceSession(Wire, asyncssh.SSHServerSession[bytes]):
    """A channel whose dialogue is one task that ends with it."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._reader = asyncio.StreamReader()

    async def _converse(self) -> None:
        raise NotImplementedError

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        if self._device.has_fault("no_prompt"):
            await wait_for_ever()
        await self._converse()
        self._channel.exit(0)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._reader.feed_data(data)

    def eof_received(self) -> bool:
        self._reader.feed_eof()
        return False

    def write(self, data: bytes) -> None:
        self._channel.write(data)

    def reset(self) -> None:
        connection = self._channel.get_connection()
        send_reset_on_close(connection.get_extra_info("socket"))
        connection.abort()

    def close(self) -> None:
        self._channel.get_connection().close()

    async def wait_as_usual(self) -> None:
        """Take the time that this fleet's devices take to answer."""
        if self._device.conduct.latency_seconds:
            await asyncio.sleep(self._device.conduct.latency_seconds)


class SshListener:
    """Makes a connection's protocol; it holds the options, which are costly, per host key."""

    def __init__(self, device: Device, session: type[DeviceSession]) -> None:
        self._device = device
        self._session = session
        self._options: dict[bool, asyncssh.SSHServerConnectionOptions] = {}

    def connection(self) -> asyncio.Protocol:
        is_changed = self._device.has_fault("host_key")
        if is_changed not in self._options:
            self._options[is_changed] = self._make_options(is_changed)
        loop = asyncio.get_running_loop()
        return asyncssh.SSHServerConnection(loop, self._options[is_changed])

    def _make_options(self, is_changed: bool) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: DeviceLogin(self._device, self._session),
            server_host_keys=[self._device.host_key(is_changed=is_changed)],
            server_version="Cisco-1.25",
            public_key_auth=False,
            kbdint_auth=False,
            gss_host=None,
            line_editor=False,
            encoding=None,
            compression_algs=None,
            agent_forwarding=False,
        )
