"""Live events: one reader a process, which hands what is new to all its listeners.

It is woken by NOTIFY (see `database.waking`) and looks every second besides. A listener that does
not take its events in time is dropped; it comes back with Last-Event-ID and misses nothing.
"""

import json
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from exporter import logs
from exporter.database.waking import CHANNEL
from exporter.queries.events import Place, events_between, events_boundary
from exporter.queries.rows import Row

log = logs.get_logger(__name__)

HEARTBEAT_SECONDS = 10.0
#: How soon a stream notices that the listener stops.
_LOOK_SECONDS = 1.0
#: Without a notification the reader looks after this long.
_NET_SECONDS = 1.0
#: Between two looks: what ends together is read together.
_PAUSE_SECONDS = 0.05
_BATCH = 1_000
#: Batches of events that wait for a slow listener before it is dropped.
_WAITING_BATCHES = 600

Wanted = Callable[[Row], bool]


class _Listener:
    def __init__(self, wanted: Wanted, since: Place) -> None:
        self.wanted = wanted
        self.since = since
        self.batches: queue.Queue[bytes] = queue.Queue(_WAITING_BATCHES)
        self.is_dropped = False


class Events:
    """The reader and its listeners; it reads only while there are some."""

    def __init__(self, engine: Engine, stopping: threading.Event) -> None:
        self._engine = engine
        self._stopping = stopping
        self._lock = threading.Lock()
        self._listeners: set[_Listener] = set()
        self._place = Place(0, 0)
        self._thread: threading.Thread | None = None

    def listen(self, wanted: Wanted, last: Place | None) -> Iterator[bytes]:
        """Messages of Server-Sent Events from now, or from behind `last`, without end.

        Raises DatabaseProblem or SQLAlchemyError at once where PostgreSQL is away.
        """
        if last is None:
            return self._messages(self._add(wanted), None)
        # Another process may have told the client more than this one has read yet.
        listener = self._add(lambda row: _place(row) > last and wanted(row))
        return self._messages(listener, last)

    def _add(self, wanted: Wanted) -> _Listener:
        with self._lock:
            if self._thread is None:
                with self._engine.connect() as connection:
                    self._place = events_boundary(connection)
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            listener = _Listener(wanted, self._place)
            self._listeners.add(listener)
        return listener

    def _messages(self, listener: _Listener, last: Place | None) -> Iterator[bytes]:
        try:
            yield b"retry: 1000\n\n"
            if last is not None:
                yield from self._missed(listener, last)
            heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
            while not self._stopping.is_set():
                try:
                    yield listener.batches.get(timeout=_LOOK_SECONDS)
                    heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
                except queue.Empty:
                    if time.monotonic() > heartbeat_at:
                        yield b": heartbeat\n\n"
                        heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
                if listener.is_dropped and listener.batches.empty():
                    return
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _missed(self, listener: _Listener, last: Place) -> Iterator[bytes]:
        while True:
            with self._engine.connect() as connection:
                rows = events_between(connection, last, listener.since, limit=_BATCH)
            if not rows:
                return
            last = _place(rows[-1])
            yield b"".join(_message(row) for row in rows if listener.wanted(row))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._engine.connect().execution_options(
                    isolation_level="AUTOCOMMIT"
                ) as connection:
                    connection.execute(text(f"LISTEN {CHANNEL}"))
                    try:
                        if self._read_while_wanted(connection):
                            return
                    finally:
                        # The pool must not hand out a connection that still listens.
                        connection.invalidate()
            except SQLAlchemyError as error:
                log.warning("events cannot be read", error=type(error).__name__)
                self._stopping.wait(_NET_SECONDS)

    def _read_while_wanted(self, connection: Connection) -> bool:
        raw: Any = connection.connection.dbapi_connection
        while not self._stopping.is_set():
            with self._lock:
                if not self._listeners:
                    self._thread = None
                    return True
            self._read(connection)
            time.sleep(_PAUSE_SECONDS)
            select.select([raw], [], [], _NET_SECONDS)
            raw.poll()
            raw.notifies.clear()
        return True

    def _read(self, connection: Connection) -> None:
        boundary = events_boundary(connection)
        place = self._place
        while rows := events_between(connection, place, boundary, limit=_BATCH):
            self._hand_out(rows)
            place = _place(rows[-1])
        with self._lock:
            self._place = max(place, boundary)

    def _hand_out(self, rows: list[Row]) -> None:
        messages = [(row, _message(row)) for row in rows]
        with self._lock:
            for listener in list(self._listeners):
                batch = b"".join(message for row, message in messages if listener.wanted(row))
                if not batch:
                    continue
                try:
                    listener.batches.put_nowait(batch)
                except queue.Full:
                    listener.is_dropped = True
                    self._listeners.discard(listener)
                    log.info("a slow listener was dropped")
            # Within the lock: who comes now begins behind what the others have just got.
            self._place = _place(rows[-1])


def _place(row: Row) -> Place:
    return Place(row["transaction_id"], row["id"])


def _message(row: Row) -> bytes:
    content = {name: row[name] for name in row if name not in {"transaction_id", "id"}}
    content["created_at"] = row["created_at"].isoformat()
    data = json.dumps(content, default=str)
    return f"id: {_place(row)}\nevent: {row['kind']}\ndata: {data}\n\n".encode()
