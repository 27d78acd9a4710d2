"""Answers without an end, such as streams of events: how many may be open, and when they end."""

import threading
from collections.abc import Callable, Iterator

from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wsgi import ClosingIterator

#: Each holds a thread; waiting ones cost next to nothing (docs/decisions/0001-listener.md).
MAXIMUM_STREAMS = 200


class Streams:
    """The open streams of an application.

    The listener gives each its own thread beside those of ordinary requests, so that neither kind
    can starve the other.
    """

    def __init__(self, maximum: int = MAXIMUM_STREAMS) -> None:
        #: Set when the listener stops: messages end soon after.
        self.stopping = threading.Event()
        self._maximum = maximum
        self._open = 0
        self._lock = threading.Lock()
        self._resize: Callable[[int], object] = lambda count: None

    def admit(self, messages: Iterator[bytes]) -> ClosingIterator:
        """The body of an answer that sends these messages.

        `messages` must yield at least every 15 seconds, for only then is it noticed that the
        client went away. Answers 503 where the maximum is open already.
        """
        with self._lock:
            if self._open >= self._maximum or self.stopping.is_set():
                raise ServiceUnavailable(f"{self._maximum} streams are open; try again later")
            self._change(+1)
        return ClosingIterator(messages, self._release)

    def when_changed(self, resize: Callable[[int], object]) -> None:
        """Call this with the number of open streams whenever it changes."""
        with self._lock:
            self._resize = resize

    def stop(self) -> None:
        with self._lock:
            self._resize = lambda count: None
            self.stopping.set()

    def _release(self) -> None:
        with self._lock:
            self._change(-1)

    def _change(self, difference: int) -> None:
        self._open += difference
        self._resize(self._open)
