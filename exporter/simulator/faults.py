"""The ways in which a simulated device fails, as data, and how each bends what is sent.

A fault acts in one of three places: before the dialogue (`handshakes`), on the text of the
configuration (`bend_text`), or on the way of that text to the client (`deliver`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

#: Every fault: name -> what the client meets. Those that say "shell" mean `ios` and `nxos_ssh`.
FAULTS: Mapping[str, str] = {
    "refused": "nothing listens on the port",
    "silent": "the connection is accepted and no byte is ever sent",
    "banner_silent": "the SSH banner (HTTP: the head of the answer) is sent and nothing more",
    "banner_slow": "the SSH banner (HTTP: the head of the answer) comes bytes_per_second at a time",
    "banner_endless": "lines come before the SSH banner (HTTP: the answer) for ever",
    "password": "every password is refused",
    "host_key": "another host key (HTTPS: certificate; HTTP: no effect) than before is shown",
    "enable_secret": "the login is unprivileged and every enable secret is refused (not NETCONF)",
    "no_prompt": "the login works, then no prompt (NETCONF: hello; HTTP: answer) ever comes",
    "slow": "the configuration comes bytes_per_second at a time, 1 by default",
    "stalled": "the configuration stops after after_bytes, half by default, and stays open",
    "reset": "the connection is reset (TCP RST) after after_bytes of the configuration",
    "closed": "the connection is closed after after_bytes of the configuration",
    "truncated": "the configuration ends after after_bytes, as if that were all",
    "empty": "the configuration has no text",
    "invalid": "the command that shows the configuration is answered with an error",
    "endless": "the configuration never ends",
    "banner": "the configuration has the prompt in a banner, and comes with pause_seconds after it",
    "pager": "the pager cannot be switched off (shell only)",
}
#: Faults that act before the dialogue and need no SSH or HTTP server.
BEFORE_THE_DIALOGUE = frozenset({"silent", "banner_silent", "banner_slow", "banner_endless"})
#: The faults that a fleet's share of failing devices gets, in this order.
COMMON_FAULTS = (
    "password",
    "truncated",
    "silent",
    "refused",
    "stalled",
    "invalid",
    "slow",
    "reset",
    "empty",
    "banner_silent",
    "no_prompt",
)
_HEALTHY = "none"
_BANNER_END = b"# only authorised access"


@dataclass(frozen=True)
class DeviceFault:
    """One fault of FAULTS with its parameters. Raises ValueError where the name is not of it."""

    fault: str
    bytes_per_second: float = 1.0
    #: Bytes of the configuration that still come; None: half of it.
    after_bytes: int | None = None
    pause_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.fault not in FAULTS and self.fault != _HEALTHY:
            raise ValueError(
                f"found fault {self.fault!r}, expected one of {', '.join(sorted(FAULTS))}"
            )
        if self.bytes_per_second <= 0:
            raise ValueError("found bytes_per_second of 0 or less, expected more")


NO_FAULT = DeviceFault(_HEALTHY)


def parse_faults(text: str) -> dict[str, DeviceFault]:
    """Device -> fault, out of YAML: `NAME: slow` or `NAME: {fault: slow, bytes_per_second: 5}`.

    Raises ValueError with the first thing that is wrong.
    """
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"faults: found no YAML ({error})") from None
    if not isinstance(content, dict):
        raise ValueError("faults: found no mapping, expected device: fault")
    return {str(name): _parse_fault(str(name), value) for name, value in content.items()}


def _parse_fault(name: str, value: Any) -> DeviceFault:
    try:
        parameters = dict(value) if isinstance(value, dict) else {"fault": value}
        return DeviceFault(**parameters)
    except (TypeError, ValueError) as error:
        allowed = ", ".join(field.name for field in fields(DeviceFault))
        raise ValueError(f"{name}: {error}; keys allowed: {allowed}") from None


def bend_text(fault: DeviceFault, text: bytes, device: str) -> bytes:
    """The configuration as a device with this fault has it."""
    match fault.fault:
        case "empty":
            return b""
        case "truncated":
            return text[: _share(fault, text)]
        case "banner":
            place = max(text.find(b"\ninterface "), 0)
            banner = b"\nbanner motd ^C\n" + device.encode() + _BANNER_END + b"\n^C"
            return text[:place] + banner + text[place:]
    return text


def _share(fault: DeviceFault, text: bytes) -> int:
    return len(text) // 2 if fault.after_bytes is None else fault.after_bytes


class Wire:
    """A connection, whatever the transport: its flow control, and what a fault does with it.

    Goes before asyncio's protocol or asyncssh's session among the bases of a class.
    """

    def __init__(self) -> None:
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._task: asyncio.Task[None] | None = None

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    async def drain(self) -> None:
        await self._may_write.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection's one task with it."""
        if self._task is not None:
            self._task.cancel()

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


async def deliver(wire: Wire, payload: bytes, fault: DeviceFault) -> None:
    """Send the configuration the way this fault does.

    Returns when the dialogue goes on. After `stalled`, `reset`, `closed` and `endless` it never
    does: the task waits until the connection's end cancels it.
    """
    match fault.fault:
        case "slow":
            await trickle(wire, payload, fault.bytes_per_second)
        case "stalled" | "reset" | "closed":
            await _break_off(wire, payload[: _share(fault, payload)], fault.fault)
        case "endless":
            while True:
                wire.write(payload)
                await wire.drain()
                # At most about 10 MB a second, so that the other devices still get their turn.
                await asyncio.sleep(0.002)
        case "banner":
            cut = payload.find(_BANNER_END) + len(_BANNER_END)
            wire.write(payload[:cut])
            await asyncio.sleep(fault.pause_seconds)
            wire.write(payload[cut:])
        case _:
            wire.write(payload)


async def trickle(wire: Wire, payload: bytes, bytes_per_second: float) -> None:
    """Send a few bytes at a time, at most ten times a second."""
    step = max(1, round(bytes_per_second / 10))
    for start in range(0, len(payload), step):
        wire.write(payload[start : start + step])
        await asyncio.sleep(step / bytes_per_second)


async def _break_off(wire: Wire, payload: bytes, fault: str) -> None:
    wire.write(payload)
    await wire.drain()
    if fault != "stalled":
        # So that the client reads the first half; a reset makes its kernel drop what is unread.
        await asyncio.sleep(0.1)
        if fault == "reset":
            wire.reset()
        else:
            wire.close()
    await wait_for_ever()


async def wait_for_ever() -> None:
    """Wait until the task is cancelled."""
    await asyncio.get_running_loop().create_future()
