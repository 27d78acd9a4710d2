"""A Cisco-like command line over SSH: `ios` and `nxos_ssh`."""

import asyncio

from exporter.simulator.device import Device
from exporter.simulator.faults import deliver
from exporter.simulator.ssh import DeviceSession

_INVALID = b"                ^\n% Invalid input detected at '^' marker.\n"
_MORE = b" --More-- "
_VERSIONS = {
    "ios": b"Cisco IOS Software, C2960X Software (C2960X-UNIVERSALK9-M), Version 15.2(7)E4\n",
    "nxos_ssh": b"Cisco Nexus Operating System (NX-OS) Software\n  NXOS: version 9.3(8)\n",
}
_QUIET = frozenset({"terminal width", "terminal dont-ask", "terminal session-timeout"})


class ShellSession(DeviceSession):
    """One interactive session, from its first prompt to `exit`."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        #: Lines of a page; 0: no pager.
        self._page_lines = 24
        self._is_privileged = not device.asks_for_secret
        #: The echo of a complete line goes with the answer: each packet costs both sides dearly.
        self._held = b""

    def shell_requested(self) -> bool:
        return True

    def data_received(self, data: bytes, datatype: object) -> None:
        self._reader.feed_data(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    def write(self, data: bytes) -> None:
        super().write(self._held + data)
        self._held = b""

    async def _converse(self) -> None:
        self.write(b"\r\n" + self._prompt())
        while line := await self._reader.readline():
            # Line by line: what was typed ahead is echoed behind its own prompt, as devices do.
            self._held = line.replace(b"\n", b"\r\n")
            if self._device.conduct.latency_seconds:
                self.write(b"")
            await self.wait_as_usual()
            if not await self._execute(line.decode("latin-1").strip("\0 \n")):
                return
            self.write(self._prompt())

    def _prompt(self) -> bytes:
        end = "#" if self._is_privileged else ">"
        space = " " if self._device.identity.platform == "nxos_ssh" else ""
        return f"{self._device.name}{end}{space}".encode()

    async def _execute(self, command: str) -> bool:
        """Answer one command; False: the session is over."""
        match command.split():
            case []:
                pass
            case ["exit" | "logout" | "quit"]:
                return False
            case ["terminal", "length", lines] if lines.isdigit():
                if not self._device.has_fault("pager"):
                    self._page_lines = int(lines)
            case ["terminal", word, *_] if f"terminal {word}" in _QUIET:
                pass
            case ["enable"]:
                await self._enable()
            case ["show", "version"]:
                await self._show(_VERSIONS[self._device.identity.platform])
            case ["show", "running-config" | "startup-config", *_] if self._is_privileged:
                await self._show_configuration()
            case _:
                await self._show(_INVALID)
        return True

    async def _enable(self) -> None:
        if self._is_privileged:
            return
        self.write(b"Password: ")
        answer = await self._reader.readline()
        self._is_privileged = self._device.accepts_secret(answer.decode("latin-1").strip())
        self.write(b"\r\n" if self._is_privileged else b"\r\n% Access denied\r\n\r\n")

    async def _show_configuration(self) -> None:
        if self._device.has_fault("invalid"):
            await self._show(_INVALID)
        elif self._page_lines and not self._device.has_fault("endless"):
            await self._show(self._device.configuration())
        else:
            text = self._device.configuration().replace(b"\n", b"\r\n")
            await deliver(self, text, self._device.fault)
            # Where a text was cut off, the prompt still begins a line, as on real devices.
            self.write(b"" if text.endswith(b"\n") else b"\r\n")

    async def _show(self, text: bytes) -> None:
        """Write an answer page by page, as long as nobody presses `q`."""
        lines = text.splitlines()
        room = self._page_lines or len(lines)
        for number, line in enumerate(lines):
            if number and number >= room:
                key = await self._ask_for_more()
                if key in (b"q", b""):
                    return
                room = number + (1 if key == b"\n" else self._page_lines)
            self.write(line + b"\r\n")

    async def _ask_for_more(self) -> bytes:
        self.write(_MORE)
        try:
            key = await self._reader.readexactly(1)
        except asyncio.IncompleteReadError:
            key = b""
        self.write(b"\b" * len(_MORE) + b" " * len(_MORE) + b"\b" * len(_MORE))
        return key
