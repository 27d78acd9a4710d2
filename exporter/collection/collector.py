"""The Collector: fetch one device's configuration under a hard deadline and judge it."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from time import monotonic

from exporter.collection import judging
from exporter.collection.contracts import Fetched, HostKeyPin, Request
from exporter.collection.failures import failure, failure_of
from exporter.collection.judging import Check
from exporter.collection.redaction import redact
from exporter.collection.sessions import Session, SessionCancelled, carried
from exporter.errors import CollectionCancelled, CollectionFailed, Reason, TryTimes
from exporter.platforms import Platform, UnknownPlatform, platform_named


@dataclass(frozen=True)
class Probe:
    """What a trial of one device showed."""

    times: TryTimes
    checks: tuple[Check, ...]
    #: What the device sent, redacted; empty where the transport is no command line.
    dialogue: str
    #: Why nothing was fetched, or the first check that failed; None: all is well.
    failure: CollectionFailed | None
    #: The key that the device showed; None: the transport has none, or it was not reached.
    host_key: HostKeyPin | None
    #: The configuration, redacted; empty where none was fetched.
    text: str


class Collector:
    """One process's collection: its sessions and the handshakes that may run at once.

    Thread-safe: each try runs in the thread that calls `fetch`.
    """

    def __init__(self, handshakes: int = 15, grace_seconds: float = 10.0) -> None:
        """`grace_seconds`: how long after its deadline a try may hold its session."""
        self._grace_seconds = grace_seconds
        self._turns = threading.Semaphore(handshakes)
        self._sessions: dict[Hashable, Session] = {}
        self._lock = threading.Lock()

    def fetch(self, request: Request, name: Hashable) -> Fetched:
        """A configuration that passed every check; `name` is what cancels it.

        Raises CollectionFailed with the reason, or CollectionCancelled.
        """
        session = self._begin(request, name)
        try:
            text = _fetch_text(session)
        finally:
            self._end(name)
        if failed := judging.first_failed(_judge(text, session)):
            raise _failed_check(session, failed)
        if request.mask_key is not None:
            text = judging.mask_secrets(text, session.platform, request.mask_key)
        return Fetched(
            text=text.encode("latin-1"),
            stable_hash=judging.stable_hash(text, session.platform),
            times=session.times(),
            host_key=session.host_key,
        )

    def cancel(self, name: Hashable) -> bool:
        """Cut a running try off from another thread; False: none of this name runs."""
        with self._lock:
            session = self._sessions.get(name)
        if session is not None:
            session.cut(SessionCancelled("cancelled"))
        return session is not None

    def cancel_all(self) -> None:
        """Cut off every try that runs."""
        with self._lock:
            names = list(self._sessions)
        for name in names:
            self.cancel(name)

    @property
    def sessions_in_use(self) -> int:
        return len(self._sessions)

    @property
    def handshakes_waiting(self) -> int:
        with self._lock:
            return sum(session.is_waiting_for_turn for session in self._sessions.values())

    @property
    def sessions_stuck(self) -> int:
        """Tries that run longer than deadline and grace: their threads are lost."""
        latest = monotonic() - self._grace_seconds
        with self._lock:
            return sum(session.deadline < latest for session in self._sessions.values())

    def _begin(self, request: Request, name: Hashable) -> Session:
        session = Session(request, _platform_of(request), self._turns)
        with self._lock:
            if name in self._sessions:
                raise ValueError(f"a try named {name!r} runs already")
            self._sessions[name] = session
        return session

    def _end(self, name: Hashable) -> None:
        with self._lock:
            del self._sessions[name]


def probe(request: Request) -> Probe:
    """Try one device and tell everything about it; nothing is recorded."""
    session = Session(request, _platform_of(request), threading.Semaphore(1), keeps_transcript=True)
    text = ""
    failed: CollectionFailed | None = None
    checks: tuple[Check, ...] = ()
    try:
        text = _fetch_text(session)
    except CollectionFailed as error:
        failed = error
    else:
        checks = _judge(text, session)
        if check := judging.first_failed(checks):
            failed = _failed_check(session, check)
    login = request.login
    return Probe(
        times=session.times(),
        checks=checks,
        dialogue=redact(session.transcript, login, session.platform),
        failure=failed,
        host_key=session.host_key,
        text=redact(text, login, session.platform),
    )


def _platform_of(request: Request) -> Platform:
    try:
        return platform_named(request.platform)
    except UnknownPlatform as error:
        raise CollectionFailed(Reason.UNSUPPORTED, str(error)) from None


def _fetch_text(session: Session) -> str:
    """Fetch; every exception of the libraries becomes one of ours."""
    # The drivers and their libraries are loaded by the first try, not by the command line.
    from exporter.collection.drivers import fetch_text

    with carried(session):
        try:
            return fetch_text(session)
        except Exception as error:  # noqa: BLE001 - the border to the libraries
            if isinstance(session.was_cut, SessionCancelled):
                raise CollectionCancelled("cancelled") from None
            raise failure_of(error, session) from None


def _judge(text: str, session: Session) -> tuple[Check, ...]:
    request = session.request
    return judging.judge(
        text,
        session.platform,
        previous_size=request.previous_size,
        accept_shrunk=request.accept_shrunk,
        shrink_ratio=request.shrink_ratio,
    )


def _failed_check(session: Session, check: Check) -> CollectionFailed:
    reason = check.reason or Reason.INTERNAL
    return failure(session, reason, check.note)


__all__ = ["Collector", "Probe", "probe"]
