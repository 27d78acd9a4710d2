"""Answers a scrape: what changed is read and rendered, the rest is put together as it was.

Who asks never waits for long, whatever PostgreSQL does: one reading runs at a time, in a thread
and on a connection of its own, and all scrapes of that moment share it. See
docs/decisions/0003-metrics-while-postgresql-is-away.md for what is served without PostgreSQL.
"""

import platform
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from exporter.database.engine import create_engine
from exporter.errors import ConfigBackupError
from exporter.logs import get_logger
from exporter.metrics import names
from exporter.metrics.fleet import Fleet, read_all
from exporter.metrics.subjects import SUBJECTS
from exporter.queries import metrics as queries
from exporter.settings import DatabaseSettings

log = get_logger(__name__)

#: How long a scrape waits for PostgreSQL's first word, and for a reading that is under way.
PATIENCE_SECONDS = 1.5
READING_SECONDS = 5.0
#: How often all rows are read, to prove that no change was missed.
PROOF_SECONDS = 300.0


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its headers."""

    body: bytes
    headers: Mapping[str, str]


@dataclass
class _Reading:
    """One reading of PostgreSQL, shared by the scrapes that wait for it."""

    began: float = field(default_factory=time.monotonic)
    #: PostgreSQL answered; what it said is rendered, or the reading failed.
    answered: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    failed: bool = False
    #: A proof follows it: until that ends, what was read serves the scrapes that come.
    is_proving: bool = False

    def succeeds(self) -> bool:
        """Wait; False: PostgreSQL is away, or too slow."""
        if not self.answered.wait(self._left(PATIENCE_SECONDS)):
            return False
        # One that finished long ago hangs in its proof.
        is_current = time.monotonic() - self.began < READING_SECONDS
        return self.finished.wait(self._left(READING_SECONDS)) and is_current and not self.failed

    def end(self, error: Exception | None = None) -> None:
        self.failed = error is not None
        self.is_proving = False
        self.answered.set()
        self.finished.set()

    def _left(self, seconds: float) -> float:
        return max(0.0, self.began + seconds - time.monotonic())


@dataclass(frozen=True)
class _Machinery:
    """The families of a reading: those that stay true without PostgreSQL, and those that do not."""

    lasting: Collection[Metric] = ()
    momentary: Collection[Metric] = ()


class _Families(Collector):
    """Families as a collector, for prometheus-client's encoders."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return (family for family in self._families if family.samples)


class Exposition:
    """What /metrics says. `scrape` may be called from any thread."""

    def __init__(self, settings: DatabaseSettings, *, proof_seconds: float = PROOF_SECONDS) -> None:
        # A pool of its own: an exhausted one is what the metrics must be able to tell.
        self._engine = create_engine(
            settings.model_copy(update={"pool_size": 1}), application_name="configbackup metrics"
        )
        self._lock = threading.Lock()
        self._reading: _Reading | None = None
        self._fleet = Fleet()
        self._machinery = _Machinery()
        self._refresh_seconds = 0.0
        self._proved_at: float | None = None
        self._proof_seconds = proof_seconds
        self._proof_due = time.monotonic() + proof_seconds
        self._missed = 0
        self._last_error = ""

    def start(self) -> None:
        """Begin the first reading, so that the first scrape finds it done."""
        self._present_reading()

    def stop(self) -> None:
        """Close the connection; a reading that hangs keeps its own."""
        self._engine.dispose()

    def scrape(self, accept: str = "", accept_encoding: str = "") -> Answer:
        """The metrics in the format and encoding that the two headers ask for."""
        is_up = self._present_reading().succeeds()
        encode, content_type = choose_encoder(accept)
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        tail = encode(_Families(self._tail(is_up=is_up)))
        body = self._fleet.bodies[is_openmetrics]
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if not gzip_accepted(accept_encoding):
            return Answer(body.plain(tail), headers)
        return Answer(body.gzip(tail), {**headers, "Content-Encoding": "gzip"})

    def _tail(self, *, is_up: bool) -> Iterator[Metric]:
        machinery = self._machinery
        yield names.DATABASE_UP.gauge(((), is_up))
        yield from machinery.lasting
        if is_up:
            yield from machinery.momentary
        yield names.BUILD_INFO.info((version("configbackup"), platform.python_version()))
        snapshot = self._fleet.snapshot
        yield names.EXPOSITION_READ.gauge(((), snapshot.now if snapshot else None))
        yield names.EXPOSITION_SECONDS.gauge(((), self._refresh_seconds))
        yield names.EXPOSITION_RENDERED.gauge(((), self._fleet.rendered))
        yield names.EXPOSITION_PROVED.gauge(((), self._proved_at))
        yield names.EXPOSITION_MISSED.gauge(((), self._missed))

    def _present_reading(self) -> _Reading:
        with self._lock:
            reading = self._reading
            if reading is None or (reading.finished.is_set() and not reading.is_proving):
                reading = self._reading = _Reading()
                threading.Thread(
                    target=self._read, args=(reading,), name="metrics", daemon=True
                ).start()
            return reading

    def _read(self, reading: _Reading) -> None:
        """The border where errors end: the next scrape reads again."""
        try:
            self._refresh(reading)
            reading.is_proving = time.monotonic() >= self._proof_due
            reading.finished.set()
            if reading.is_proving:
                self._prove()
        except Exception as error:  # noqa: BLE001 - told below, once it holds nobody up
            self._pass_time()
            reading.end(error)
            self._tell(error)
        else:
            reading.end()
            self._last_error = ""

    def _tell(self, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        if message != self._last_error:
            is_defect = not isinstance(error, (SQLAlchemyError, ConfigBackupError))
            log.error(
                "the metrics cannot be read", error=message, exc_info=error if is_defect else None
            )
        self._last_error = message

    def _refresh(self, reading: _Reading) -> None:
        with _snapshot(self._engine) as connection:
            began = time.monotonic()
            present = queries.snapshot(connection)
            reading.answered.set()
            changes = self._fleet.read_changes(connection, present)
            families = {
                lasts: [
                    family
                    for subject in SUBJECTS
                    if subject.lasts is lasts
                    for family in subject.families(connection)
                ]
                for lasts in (True, False)
            }
        # Only now, when all is read, is any of it taken over.
        self._fleet.apply(changes)
        self._machinery = _Machinery(
            lasting=[*families[True], *self._fleet.histograms()], momentary=families[False]
        )
        self._refresh_seconds = time.monotonic() - began

    def _prove(self) -> None:
        """Read the changes and all rows in one snapshot, and count what only the latter have."""
        with _snapshot(self._engine) as connection:
            present = queries.snapshot(connection)
            changes = self._fleet.read_changes(connection, present)
            everything = read_all(connection, present)
        self._fleet.apply(changes)
        self._missed = self._fleet.apply(everything)
        self._proved_at = present.now
        self._proof_due = time.monotonic() + self._proof_seconds
        if self._missed:
            log.warning("the metrics had missed changes", changes=self._missed)

    def _pass_time(self) -> None:
        """While nothing can be read, devices become stale and pauses end all the same."""
        if self._fleet.snapshot is not None:
            self._fleet.pass_time(time.time())


def _snapshot(engine: Engine) -> "Connection":
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")
