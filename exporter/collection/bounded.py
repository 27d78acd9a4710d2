"""netmiko and NAPALM bounded: a mixin over any netmiko class and one over any NAPALM driver.

netmiko polls a channel until a timeout of its own and finds the prompt anywhere in the text. Here
it waits for data (no polling), never past the deadline, and a text ends only where the prompt
stands at its end. A line is sent only when the one before it was answered: netmiko sends ahead,
and takes a late prompt for the answer to what it sent last.
"""

import re
from collections.abc import Mapping
from functools import cache
from time import monotonic, sleep
from typing import Any, cast

from napalm.base import NetworkDriver
from netmiko.cisco_base_connection import CiscoBaseConnection
from netmiko.exceptions import ReadTimeout
from netmiko.ssh_dispatcher import CLASS_MAPPER

from exporter.collection.judging import PAGER, is_finished, unframe
from exporter.collection.sessions import Session, current_session

#: Limit of TCP connection and handshake, where the deadline is not nearer.
CONNECT_SECONDS = 30.0
#: Least time that a step of the login may take; netmiko gives some only 10 s.
STEP_SECONDS = 30.0
#: How long a prompt must stay the last text, where no end marker stands before it: a banner may
#: hold the prompt.
SETTLE_SECONDS = 0.5
#: How long an answer is waited for before the next line, as long as none looked like a prompt.
UNANSWERED_SECONDS = 5.0
_ANSWERED = re.compile(r"[#>$%\])~:?]\s*\Z")
_TAIL_CHARACTERS = 1_000
_WORD = re.compile(r"\w")


class BoundedConnection:
    """Mixed in before a netmiko class."""

    _read_buffer: str
    base_prompt: str

    def __init__(self, *arguments: Any, session: Session, **options: Any) -> None:
        self._session = session
        self._last_prompt = ""
        #: A line was sent, and nothing that looks like a prompt came since.
        self._is_unanswered = False
        self._knows_prompts = False
        super().__init__(*arguments, **options)

    def cleanup(self, command: str = "") -> None:
        """Leave without a farewell: it costs seconds where the device no longer answers."""

    def paramiko_cleanup(self) -> None:
        """Close so that paramiko's thread need not wait for its next look at the socket."""
        if self.remote_conn is not None:  # type: ignore[has-type]
            self.remote_conn.close()  # type: ignore[has-type]
            self.remote_conn = None
        self._session.shut_down()
        super().paramiko_cleanup()  # type: ignore[misc]

    def write_channel(self, out_data: str) -> None:
        """Write in UTF-8, though what is read is Latin-1, one character a byte."""
        self._session.check()
        is_line = out_data.endswith("\n")
        if is_line:
            self._await_answer()
            # What is left of it would be taken for the answer to this line.
            self._read_buffer = ""
        super().write_channel(out_data.encode().decode("latin-1"))  # type: ignore[misc]
        self._is_unanswered = is_line

    def _try_session_preparation(self, force_data: bool = True) -> None:
        """As netmiko's, but that the login's own prompt is waited for before any line is sent."""
        self._is_unanswered = True
        has_prompt = self._await_answer()
        super()._try_session_preparation(force_data=force_data and not has_prompt)  # type: ignore[misc]

    def _await_answer(self) -> bool:
        """Whether the line sent last, if any, was answered with what looks like a prompt."""
        seconds = STEP_SECONDS if self._knows_prompts else UNANSWERED_SECONDS
        until = monotonic() + seconds
        while self._is_unanswered and (left := until - monotonic()) > 0:
            self._read_buffer += self._await_text(left)
        is_answered = not self._is_unanswered
        self._is_unanswered = False
        return is_answered

    def _receive(self, text: str) -> None:
        self._session.receive(text)
        if text and _ANSWERED.search(self._session.screen[-_TAIL_CHARACTERS:]):
            self._is_unanswered = False
            self._knows_prompts = True

    def strip_ansi_escape_codes(self, string_buffer: str) -> str:
        """As netmiko's, which takes 35 passes also over text that has none."""
        if "\x1b" not in string_buffer:
            return string_buffer
        stripped: str = super().strip_ansi_escape_codes(string_buffer)  # type: ignore[misc]
        return stripped

    def read_channel(self) -> str:
        """What has come in so far. Raises at the byte cap and past the deadline."""
        buffered, self._read_buffer = self._read_buffer, ""
        text: str = super().read_channel()  # type: ignore[misc]
        self._receive(text)
        return buffered + text

    def _await_text(self, seconds: float) -> str:
        """What comes in next; empty where nothing came within the time."""
        channel = cast(Any, self).remote_conn
        if not hasattr(channel, "recv_ready"):
            # Telnet and serial lines cannot be waited for.
            sleep(min(seconds, 0.05))
            return self.read_channel()
        channel.settimeout(max(min(seconds, self._session.remaining), 0.001))
        try:
            data: bytes = channel.recv(65_535)
        except TimeoutError:
            self._session.check()
            return ""
        if not data:
            self._session.check()
            raise EOFError("the device closed the session")
        text = data.decode("latin-1")
        if cast(Any, self).ansi_escape_codes:
            text = cast(Any, self).strip_ansi_escape_codes(text)
        self._receive(text)
        return text

    def read_until_pattern(
        self,
        pattern: str = "",
        read_timeout: float = 10.0,
        re_flags: int = 0,
        max_loops: int | None = None,
    ) -> str:
        """The text up to and with the pattern; the rest waits for the next read."""
        until = monotonic() + max(read_timeout, STEP_SECONDS)
        searched = re.compile(pattern, re_flags)
        output, self._read_buffer = self._read_buffer, ""
        while (found := searched.search(output)) is None:
            if monotonic() > until:
                raise ReadTimeout(f"no {pattern!r} within {STEP_SECONDS:g} s")
            text = self._await_text(STEP_SECONDS)
            output += cast(Any, self).normalize_linefeeds(text)
        self._read_buffer = output[found.end() :]
        return output[: found.end()]

    def find_prompt(self, *arguments: Any, **options: Any) -> str:
        """The prompt; a line of a banner that only looks like one has no letter in it."""
        for _ in range(3):
            self._last_prompt = super().find_prompt(*arguments, **options)  # type: ignore[misc]
            if _WORD.search(self._last_prompt):
                break
        return self._last_prompt

    def enable(self, *arguments: Any, **options: Any) -> str:
        """Enter enable mode; no dialogue where the prompt shows that the login led there."""
        if isinstance(self, CiscoBaseConnection) and self._last_prompt.endswith("#"):
            return ""
        entered: str = super().enable(*arguments, **options)  # type: ignore[misc]
        return entered

    def enable_secret_handler(
        self, pattern: str, output: str, re_flags: int = re.IGNORECASE
    ) -> str:
        """Send the enable secret once; a device that asks again has refused it."""
        if not re.search(pattern, output, flags=re_flags):
            return ""
        this = cast(Any, self)
        this.write_channel(this.normalize_cmd(this.secret))
        answer: str = this.read_until_prompt_or_pattern(
            pattern=pattern, re_flags=re_flags, read_entire_line=True
        )
        if re.search(pattern, answer, flags=re_flags):
            raise ValueError("Failed to enter enable mode: the secret was refused")
        return answer

    def send_command(
        self, command_string: str, expect_string: str | None = None, **_options: Any
    ) -> str:
        """The answer to a command, freed of echo, pager and prompt, in Latin-1."""
        prompt = self._prompt_pattern()
        self.write_channel(cast(Any, self).normalize_cmd(command_string))
        answer = self._read_answer(re.compile(expect_string or rf"(?:^|[\r\n]){prompt}\Z"))
        return unframe(answer, command=command_string.strip(), prompt=prompt)

    def _prompt_pattern(self) -> str:
        ends = re.escape("".join({"#", ">", *self._last_prompt[-1:]}))
        return rf"{re.escape(self.base_prompt)}[^\s]*[{ends}]\s*"

    def _read_answer(self, prompt: re.Pattern[str]) -> str:
        """Read until the prompt is the last text and nothing more comes."""
        parts: list[str] = []
        tail = ""
        while True:
            is_prompt = prompt.search(tail) is not None
            text = self._await_text(SETTLE_SECONDS if is_prompt else self._session.remaining)
            if not text and is_prompt:
                return "".join(parts)
            parts.append(text)
            tail = (tail + text)[-_TAIL_CHARACTERS:]
            if is_finished(tail, prompt, self._session.platform):
                return "".join(parts)
            if PAGER.search(tail):
                self.write_channel(" ")
                # Asked and answered; what erases the question comes next.
                tail = ""


class BoundedDriver:
    """Mixed in before a NAPALM driver: it opens netmiko bounded; other transports are untouched."""

    def _netmiko_open(
        self, device_type: str, netmiko_optional_args: Mapping[str, Any] | None = None
    ) -> Any:
        session = current_session()
        if session is None:
            raise RuntimeError("a bounded driver is opened by a Collector only")
        this = cast(Any, self)
        this._netmiko_device = _connection_class(device_type)(
            session=session,
            device_type=device_type,
            host=this.hostname,
            username=this.username,
            password=this.password,
            timeout=this.timeout,
            **_netmiko_options(session) | dict(netmiko_optional_args or {}),
        )
        if not getattr(self, "force_no_enable", False):
            this._netmiko_device.enable()
        return this._netmiko_device


def _netmiko_options(session: Session) -> dict[str, Any]:
    """What suits this program better than netmiko's defaults; the inventory's options win."""
    return {
        "encoding": "latin-1",
        "conn_timeout": min(CONNECT_SECONDS, session.remaining),
        "auth_timeout": session.remaining,
        "read_timeout_override": session.remaining,
        # Its fixed sleeps; the waits for data do not depend on it.
        "global_delay_factor": 0.01,
    }


@cache
def bounded_driver(driver: type[NetworkDriver]) -> type[NetworkDriver]:
    """The driver with a bounded netmiko."""
    return type(f"Bounded{driver.__name__}", (BoundedDriver, driver), {})


@cache
def _connection_class(device_type: str) -> type[Any]:
    netmiko_class = CLASS_MAPPER[device_type]
    return type(f"Bounded{netmiko_class.__name__}", (BoundedConnection, netmiko_class), {})


__all__ = ["BoundedConnection", "bounded_driver"]
