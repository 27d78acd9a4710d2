"""Connections that fail before any dialogue, on every transport."""

import asyncio
import contextlib
import socket
import struct
from typing import cast

from exporter.simulator.faults import DeviceFault, Wire, trickle, wait_for_ever

_SSH_BANNER = b"SSH-2.0-Cisco-1.25\r\n"
_HTTP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
#: Lines that the client must skip: RFC 4253 section 4.2; RFC 9110 section 15.2.1.
_SSH_LINE = b"this device is for authorised use only\r\n"
_HTTP_LINE = b"HTTP/1.1 100 Continue\r\n\r\n"


class StreamConnection(Wire, asyncio.Protocol):
    """A TCP or TLS connection whose dialogue is one task that ends with it."""

    _transport: asyncio.Transport

    async def _converse(self) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._converse())

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def reset(self) -> None:
        send_reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()


class FailedHandshake(StreamConnection):
    """A connection of a device whose fault acts before the dialogue."""

    def __init__(self, fault: DeviceFault, *, is_http: bool) -> None:
        super().__init__()
        self._fault = fault
        self._banner = _HTTP_HEAD if is_http else _SSH_BANNER
        self._line = _HTTP_LINE if is_http else _SSH_LINE

    async def _converse(self) -> None:
        match self._fault.fault:
            case "banner_silent":
                self.write(self._banner)
            case "banner_slow":
                await trickle(self, self._banner, self._fault.bytes_per_second)
            case "banner_endless":
                while True:
                    self.write(self._line)
                    await self.drain()
                    await asyncio.sleep(0.1)
        await wait_for_ever()


def send_reset_on_close(connection: socket.socket) -> None:
    """Have the kernel answer the close with RST: linger on, for 0 seconds (socket(7))."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
