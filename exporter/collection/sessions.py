"""One try's clock, sockets and host key: the deadline that holds whatever the device does.

Libraries below honour no deadline of ours, so it is enforced under them, for every transport:

1. An audit hook hands each socket that a try's thread connects to the try's session.
2. One watchdog thread shuts these sockets down at the deadline, at the byte cap, or when the try
   is cancelled, again and again until the try ends. It never closes them: a closed descriptor
   may already belong to somebody else.
3. Every SSH handshake of paramiko, whichever library began it, passes through `_start_client`:
   it waits for its turn there, and the host key is checked before a password is sent.

All three act only on threads that carry a session.
"""

import contextlib
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from time import monotonic, sleep
from typing import Any

import paramiko

from exporter.collection.contracts import HostKeyPin, Request
from exporter.errors import ConfigBackupError, TryTimes
from exporter.platforms import Platform

#: Characters of the dialogue kept as the last screen, and of a whole one that is recorded.
SCREEN_CHARACTERS = 2_000
TRANSCRIPT_CHARACTERS = 200_000
#: A device that accepts a connection and shows no SSH banner for so long is given up.
BANNER_SECONDS = 30.0
#: A handshake that takes longer waits for the device, not for our processor: its turn is over.
TURN_SECONDS = 1.0
_BANNER = re.compile(rb"(?m)^SSH-[^\n]*\n")
_BANNER_BYTES = 8_192
_PEEK_SECONDS = 0.05
_WATCH_SECONDS = 0.2
#: Offset of tcpi_bytes_received in struct tcp_info (linux/tcp.h).
_BYTES_RECEIVED_OFFSET = 128


class DeadlineExceeded(ConfigBackupError):
    """The deadline of the try passed."""


class TooManyBytes(ConfigBackupError):
    """The device sent more than the maximum."""


class HostKeyChanged(ConfigBackupError):
    """The device shows another host key than the pinned one."""


class SessionCancelled(ConfigBackupError):
    """The try was cancelled."""


class NoBanner(ConfigBackupError):
    """The device accepted the connection and sent no SSH banner."""


class Session:
    """One try of one device, owned by the thread that runs it; others only cut it off."""

    def __init__(
        self,
        request: Request,
        platform: Platform,
        turns: threading.Semaphore,
        *,
        keeps_transcript: bool = False,
    ) -> None:
        self.request = request
        self.platform = platform
        self.started = monotonic()
        self.deadline = self.started + request.deadline_seconds
        self.host_key: HostKeyPin | None = None
        self.is_waiting_for_turn = False
        #: End of TCP connection and SSH handshake; of the login; of the fetch. None: not reached.
        self.connected_at: float | None = None
        self.ready_at: float | None = None
        self.fetched_at: float | None = None
        self.screen = ""
        self._transcript: list[str] | None = [] if keeps_transcript else None
        self._transcript_room = TRANSCRIPT_CHARACTERS
        self._received = 0
        self._turns = turns
        self._turn_until: float | None = None
        self._cut: ConfigBackupError | None = None
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    # What the owning thread calls.

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least a hundredth: libraries take 0 for `for ever`."""
        return max(self.deadline - monotonic(), 0.01)

    @property
    def was_cut(self) -> ConfigBackupError | None:
        """Why this session was or must be cut off; None: it was not."""
        if self._cut is None and monotonic() >= self.deadline:
            seconds = self.request.deadline_seconds
            waiting = ", still waiting for its turn to shake hands"
            note = waiting if self.is_waiting_for_turn else ""
            self._cut = DeadlineExceeded(f"not finished within {seconds:g} s{note}")
        return self._cut

    def check(self) -> None:
        """Raise what cut this session off, if anything did."""
        if cut := self.was_cut:
            raise cut

    def receive(self, text: str) -> None:
        """Take note of what the device sent. Raises at the byte cap and past the deadline."""
        self._received += len(text)
        self.screen = (self.screen + text)[-SCREEN_CHARACTERS:]
        self.note(text)
        if self._received > self.request.maximum_bytes:
            self.cut(self._too_many_bytes())
        self.check()

    def note(self, text: str) -> None:
        """Add to the transcript, where one is kept."""
        if self._transcript is not None and self._transcript_room > 0:
            self._transcript.append(text[: self._transcript_room])
            self._transcript_room -= len(text)

    @property
    def transcript(self) -> str:
        return "".join(self._transcript or ())

    def mark_ready(self) -> None:
        """The driver is open. Without an SSH handshake, all of it counts as connecting."""
        now = monotonic()
        if self.connected_at is None:
            self.connected_at = now
        self.ready_at = now

    def mark_fetched(self) -> None:
        self.fetched_at = monotonic()

    def times(self) -> TryTimes:
        steps = (self.started, self.connected_at, self.ready_at, self.fetched_at)
        seconds = [
            None if end is None or begin is None else end - begin for begin, end in pairwise(steps)
        ]
        return TryTimes(*seconds)

    def adopt(self, connecting: Any) -> None:
        """Watch a socket that is about to connect; a duplicate outlives the library's close."""
        if cut := self.was_cut:
            # No library expects this error here and would close it.
            connecting.close()
            raise cut
        duplicate = socket.socket(fileno=socket.dup(connecting.fileno()))
        with self._lock:
            self._sockets.append(duplicate)

    def has_connected(self) -> bool:
        """Whether any of its sockets ever reached a peer."""
        with self._lock:
            return any(_bytes_received(one) > 0 or _has_peer(one) for one in self._sockets)

    def close(self) -> None:
        """Give back what it holds; called once, by the thread that ran it."""
        self.end_turn()
        with self._lock:
            for one in self._sockets:
                one.close()
            self._sockets.clear()

    # The turn of the handshake.

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold one of the Collector's turns, at most TURN_SECONDS long."""
        self.is_waiting_for_turn = True
        while not self._turns.acquire(timeout=0.1):
            self.check()
        self.is_waiting_for_turn = False
        self._turn_until = monotonic() + TURN_SECONDS
        try:
            yield
        finally:
            self.end_turn()

    def end_turn(self) -> None:
        with self._lock:
            held, self._turn_until = self._turn_until, None
        if held is not None:
            self._turns.release()

    # What other threads call.

    def cut(self, why: ConfigBackupError) -> None:
        """Cut the dialogue off, for the first reason given."""
        self._cut = self._cut or why
        self.shut_down()

    def shut_down(self) -> None:
        with self._lock:
            for one in self._sockets:
                # Not connected, or gone already: both are what we want.
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def watch(self) -> None:
        """One look of the watchdog."""
        if (until := self._turn_until) is not None and monotonic() > until:
            self.end_turn()
        with self._lock:
            received = sum(_bytes_received(one) for one in self._sockets)
        if received > 2 * self.request.maximum_bytes:
            # Twice, because encryption and JSON make the wire's bytes more than the text's.
            self._cut = self._cut or self._too_many_bytes()
        if self.was_cut:
            self.shut_down()

    def _too_many_bytes(self) -> TooManyBytes:
        return TooManyBytes(f"sent more than {self.request.maximum_bytes} bytes")


def _bytes_received(one: socket.socket) -> int:
    """What the kernel received on it; 0 where it does not say (not TCP, not Linux)."""
    try:
        info = one.getsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", 11), 256)
        received: int = struct.unpack_from("Q", info, _BYTES_RECEIVED_OFFSET)[0]
    except (OSError, struct.error):
        return 0
    return received


def _has_peer(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


class _Carried(threading.local):
    session: Session | None = None


_CARRIED = _Carried()
#: A cache alone would let two first threads set the hooks twice.
_STARTING = threading.Lock()


def current_session() -> Session | None:
    """The session that this thread runs."""
    return _CARRIED.session


class _Watchdog:
    """Looks after every session that is carried by a thread of this process."""

    def __init__(self) -> None:
        self._sessions: set[Session] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="collection-watchdog", daemon=True).start()

    def add(self, session: Session) -> None:
        with self._changed:
            self._sessions.add(session)
            self._changed.notify()

    def remove(self, session: Session) -> None:
        with self._changed:
            self._sessions.discard(session)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sessions)
                watched = tuple(self._sessions)
            for session in watched:
                session.watch()
            threading.Event().wait(_WATCH_SECONDS)


@contextlib.contextmanager
def carried(session: Session) -> Iterator[Session]:
    """Run a session in this thread: its sockets and handshakes are watched."""
    with _STARTING:
        watchdog = _watchdog()
    watchdog.add(session)
    _CARRIED.session = session
    try:
        yield session
    finally:
        _CARRIED.session = None
        watchdog.remove(session)
        session.close()


@cache
def _watchdog() -> _Watchdog:
    """Start the watchdog and set the two hooks, once in a process."""
    original = paramiko.Transport.start_client

    def start_client(
        self: paramiko.Transport, event: threading.Event | None = None, timeout: float | None = None
    ) -> None:
        if (session := current_session()) is None:
            original(self, event, timeout)
        else:
            _start_client(self, session, lambda: original(self, None, session.remaining))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and _CARRIED.session is not None:
            _CARRIED.session.adopt(arguments[0])

    paramiko.Transport.start_client = start_client  # type: ignore[method-assign]
    sys.addaudithook(hook)
    return _Watchdog()


def _start_client(transport: paramiko.Transport, session: Session, start: Any) -> None:
    """Shake hands in turn and check the host key, before anything secret is sent."""
    try:
        if isinstance(transport.sock, socket.socket):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A device that stays silent must not hold a turn.
            _wait_for_banner(transport.sock, session)
        _prefer_pinned_type(transport, session.request.pinned_key)
        with session.turn():
            start()
        key = transport.get_remote_server_key()
        session.host_key = HostKeyPin(key.get_name(), key.get_base64())
        _check_host_key(session.host_key, session.request.pinned_key)
    except BaseException:
        transport.close()
        # A transport that never started leaves its socket open.
        transport.sock.close()
        raise
    session.connected_at = monotonic()


def _wait_for_banner(connected: socket.socket, session: Session) -> None:
    """Wait until the SSH banner is there, without taking it from paramiko.

    Other lines may come before it (RFC 4253, 4.2); too many of them are left to paramiko.
    """
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    until = min(session.deadline, monotonic() + BANNER_SECONDS)
    while (left := until - monotonic()) > 0:
        session.check()
        if not poll.poll(left * 1000):
            continue
        seen = connected.recv(_BANNER_BYTES, socket.MSG_PEEK)
        if not seen or len(seen) == _BANNER_BYTES or _BANNER.search(seen):
            return
        sleep(_PEEK_SECONDS)
    session.check()
    raise NoBanner(f"no SSH banner within {BANNER_SECONDS:g} s")


def _prefer_pinned_type(transport: paramiko.Transport, pinned: HostKeyPin | None) -> None:
    """A device with several keys shall show the one that was pinned, as OpenSSH's client asks."""
    if pinned is None:
        return
    options = transport.get_security_options()
    wanted = "rsa" if pinned.key_type == "ssh-rsa" else pinned.key_type
    options.key_types = tuple(sorted(options.key_types, key=lambda kind: wanted not in kind))


def _check_host_key(seen: HostKeyPin, pinned: HostKeyPin | None) -> None:
    if pinned is not None and seen != pinned:
        raise HostKeyChanged(
            f"the device shows {seen.fingerprint} ({seen.key_type}), "
            f"pinned is {pinned.fingerprint} ({pinned.key_type})"
        )


__all__ = [
    "DeadlineExceeded",
    "HostKeyChanged",
    "NoBanner",
    "Session",
    "SessionCancelled",
    "TooManyBytes",
    "carried",
    "current_session",
]
