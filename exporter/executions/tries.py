"""Running an execution: one try of it, from the claim to the end or to the queue again."""

import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from time import monotonic
from typing import Protocol, TypeVar

import zstandard
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from exporter.collection import Collector, Fetched, HostKeyPin, Login, Request
from exporter.errors import CollectionCancelled, CollectionFailed, Reason
from exporter.executions.claims import Claimed, claim
from exporter.executions.endings import Ending, NewVersion, end_running
from exporter.executions.retries import delay_before_retry, interruption, requeue
from exporter.logs import context, get_logger
from exporter.settings import CollectionSettings

log = get_logger(__name__)

Result = TypeVar("Result")

#: How long a try's result is kept in memory while PostgreSQL is away.
STORE_PATIENCE_SECONDS = 180.0


class LoginSource(Protocol):
    """Hands out logins; the inventory behind it may be read again at any time."""

    def login(self, device_name: str) -> Login: ...


@dataclass(frozen=True)
class Runner:
    """What a worker process runs its executions with."""

    engine: Engine
    worker_id: uuid.UUID
    collector: Collector
    logins: LoginSource
    settings: CollectionSettings
    time_zone: str
    #: True once the worker ends: what is cut off then is queued again.
    is_stopping: Callable[[], bool]


def run_execution(runner: Runner, execution_id: uuid.UUID) -> None:
    """One try of one execution: claim, fetch, and end it or queue it for a further try."""
    claimed = _with_patience(lambda: _claim(runner, execution_id))
    if claimed is None:
        return
    with context(task_id=str(claimed.task_id), device=claimed.device):
        started = monotonic()
        ending = _try_once(runner, claimed, started)
        _finish_try(runner, claimed, ending)


def _claim(runner: Runner, execution_id: uuid.UUID) -> Claimed | None:
    try:
        with runner.engine.begin() as connection:
            return claim(connection, execution_id, runner.worker_id)
    except IntegrityError:
        # Another execution of the device was claimed at the same instant; its end wakes this one.
        return None


def _try_once(runner: Runner, claimed: Claimed, started: float) -> Ending:
    try:
        fetched = runner.collector.fetch(_request(runner, claimed), claimed.id)
    except CollectionCancelled:
        return Ending(status="cancelled", try_seconds=monotonic() - started)
    except CollectionFailed as failure:
        return ending_of_failure(failure, monotonic() - started)
    except Exception as error:  # noqa: BLE001 - the border of a job: one device never stops the rest
        log.error("an error of this program, not of the device", error=type(error).__name__)
        return ending_of_failure(_internal_failure(error), monotonic() - started)
    stored_from = monotonic()
    try:
        version = _with_patience(lambda: _new_version(runner, claimed, fetched))
    except SQLAlchemyError as error:
        return ending_of_failure(_storage_failure(error), monotonic() - started)
    times = replace(fetched.times, store_seconds=monotonic() - stored_from)
    return Ending(
        status="success",
        try_seconds=monotonic() - started,
        extra={"times": asdict(times)},
        configuration_id=claimed.configuration_id,
        size_bytes=version.size_bytes if version else claimed.previous_size,
        new_version=version,
        first_key=fetched.host_key if claimed.key_type is None else None,
    )


def _request(runner: Runner, claimed: Claimed) -> Request:
    pinned = None
    if claimed.key_type is not None and claimed.key_base64 is not None:
        pinned = HostKeyPin(key_type=claimed.key_type, key_base64=claimed.key_base64)
    mask_key = runner.settings.mask_key
    return Request(
        login=runner.logins.login(claimed.device),
        platform=claimed.platform,
        deadline_seconds=claimed.deadline_seconds,
        maximum_bytes=runner.settings.maximum_bytes,
        pinned_key=pinned,
        previous_size=claimed.previous_size,
        accept_shrunk=claimed.accept_shrunk,
        shrink_ratio=runner.settings.shrink_ratio,
        mask_key=mask_key.get_secret_value().encode()
        if mask_key and runner.settings.secrets == "mask"
        else None,
    )


def ending_of_failure(failure: CollectionFailed, try_seconds: float) -> Ending:
    """The ending that a failed try leads to when no try is left."""
    return Ending(
        status="timeout" if failure.reason is Reason.TIMEOUT else "failed",
        reason=failure.reason,
        message=failure.message,
        details=failure.details or None,
        try_seconds=try_seconds,
        extra={"times": asdict(failure.times)}
        | ({"last_screen": failure.last_screen} if failure.last_screen else {}),
    )


def _storage_failure(error: SQLAlchemyError) -> CollectionFailed:
    return CollectionFailed(Reason.STORAGE, f"could not be stored: {type(error).__name__}")


def _internal_failure(error: Exception) -> CollectionFailed:
    """Class and frames only: the text of a foreign exception may hold a secret."""
    return CollectionFailed(
        Reason.INTERNAL,
        f"an error of this program: {type(error).__name__}",
        details="".join(traceback.format_tb(error.__traceback__)),
    )


def _new_version(runner: Runner, claimed: Claimed, fetched: Fetched) -> NewVersion | None:
    """None where the text did not change but for lines that change by themselves."""
    if fetched.stable_hash == claimed.previous_stable_hash:
        return None
    previous = b""
    if claimed.previous_sha256 is not None:
        with runner.engine.connect() as connection:
            compressed = connection.scalar(
                text("SELECT compressed FROM configuration_texts WHERE sha256 = :sha256"),
                {"sha256": claimed.previous_sha256},
            )
        previous = zstandard.decompress(compressed) if compressed else b""
    added, removed = count_changed_lines(previous, fetched.text)
    return NewVersion(
        sha256=sha256(fetched.text).digest(),
        stable_hash=fetched.stable_hash,
        compressed=zstandard.compress(fetched.text),
        size_bytes=len(fetched.text),
        lines_added=added,
        lines_removed=removed,
    )


def count_changed_lines(old: bytes, new: bytes) -> tuple[int, int]:
    """(added, removed) lines, as multisets: a line that only moved counts as neither.

    Linear in the size of the texts, where a minimal difference is quadratic at worst.
    """
    before, after = Counter(old.splitlines()), Counter(new.splitlines())
    return (after - before).total(), (before - after).total()


def _finish_try(runner: Runner, claimed: Claimed, ending: Ending) -> None:
    """Record the try, also when PostgreSQL is away for a while."""
    try:
        _with_patience(lambda: _record_try(runner, claimed, ending))
    except SQLAlchemyError as error:
        log.error("the try could not be recorded", error=type(error).__name__)
        if ending.new_version is not None:
            failed = ending_of_failure(_storage_failure(error), ending.try_seconds or 0.0)
            _finish_try(runner, claimed, failed)
        # Else the row stays open, and the leader ends it when deadline and grace are over.


def _record_try(runner: Runner, claimed: Claimed, ending: Ending) -> None:
    if ending.status == "cancelled" and runner.is_stopping():
        cut_off = interruption("the worker ended while the execution ran", ending.try_seconds)
        with runner.engine.begin() as connection:
            if requeue(connection, claimed, cut_off, delay_seconds=0.0):
                return
    delay = delay_before_retry(runner.settings, ending.reason, claimed.failed_try_count)
    if delay is not None:
        with runner.engine.begin() as connection:
            if requeue(connection, claimed, ending, delay_seconds=delay):
                log.info("a try failed, a further one follows", reason=ending.reason)
                return
    if end_running(runner.engine, claimed, ending, time_zone=runner.time_zone):
        _log_ending(ending)
    else:
        log.info("the execution was ended by somebody else first")


def _with_patience(action: Callable[[], Result]) -> Result:
    """The action's result; it is repeated while PostgreSQL is away, at most for the patience."""
    return Retrying(
        retry=retry_if_exception_type((OperationalError, InterfaceError, PoolTimeout)),
        wait=wait_exponential_jitter(initial=0.2, max=5.0),
        stop=stop_after_delay(STORE_PATIENCE_SECONDS),
        reraise=True,
    )(action)


def _log_ending(ending: Ending) -> None:
    if ending.status == "success":
        log.info("backed up", changed=ending.new_version is not None, size_bytes=ending.size_bytes)
    else:
        log.warning(
            "not backed up", status=ending.status, reason=ending.reason, error=ending.message
        )
