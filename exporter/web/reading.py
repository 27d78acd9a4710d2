"""What many requests share of PostgreSQL, read within a bounded time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from exporter.errors import DatabaseProblem

Value = TypeVar("Value")

#: How long a request waits for PostgreSQL before it says that it is away.
PATIENCE_SECONDS = 1.5


class Shared(Generic[Value]):
    """A value that is read in a thread of its own, one reading at a time.

    A database that does not answer (a frozen server sends no error) therefore holds one thread
    and one connection however many ask, and each of them waits no longer than PATIENCE_SECONDS.
    """

    def __init__(self, read: Callable[[], Value], fresh_seconds: float) -> None:
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._reading: Future[Value] | None = None
        self._began_at = 0.0

    def get(self, *, at_most_seconds_old: float | None = None) -> Value:
        """The value, read at most so long ago. Raises DatabaseProblem where it takes too long."""
        age = self._fresh_seconds if at_most_seconds_old is None else at_most_seconds_old
        try:
            return self._present(age).result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            raise DatabaseProblem(
                f"PostgreSQL does not answer within {PATIENCE_SECONDS} seconds"
            ) from None

    def forget(self) -> None:
        """What is asked from now on is read anew, also where a reading is on its way."""
        with self._lock:
            self._reading = None

    def _present(self, age: float) -> Future[Value]:
        with self._lock:
            is_old = time.monotonic() - self._began_at > age
            if self._reading is None or (self._reading.done() and is_old):
                self._reading, self._began_at = Future(), time.monotonic()
                threading.Thread(
                    target=self._fill, args=(self._reading,), name="reading", daemon=True
                ).start()
            return self._reading

    def _fill(self, reading: Future[Value]) -> None:
        try:
            reading.set_result(self._read())
        except Exception as error:  # noqa: BLE001 - raised again in each request that waits for it
            reading.set_exception(error)
