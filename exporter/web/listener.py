"""The one listener: waitress in a thread, with every wait and every buffer bounded.

Why waitress, and the numbers: docs/decisions/0001-listener.md. Its main loop reads requests and
sends answers, so slow clients hold no thread; its threads run the application. A stream of events
has a thread for as long as it lasts. What waitress leaves unbounded (how long a request may
trickle in, an answer trickle out, and what unsent answers take together) is bounded here.
"""

import logging
import resource
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error

from exporter import logs
from exporter.errors import ListenerProblem
from exporter.settings import HttpSettings
from exporter.web.problems import MEDIA_TYPE, problem
from exporter.web.streams import Streams

log = logs.get_logger(__name__)

#: The system's send buffer of a connection: its memory too is bounded (on loopback it grows to
#: several MB), and waitress reads this much of a waiting answer for each attempt to send.
_SEND_BUFFER_BYTES = 128 * 1024


@dataclass(frozen=True)
class Limits:
    """What clients may take of this process."""

    #: Requests that the application answers at once; each open stream has one more thread.
    threads: int = 8
    connections: int = 2_000
    header_bytes: int = 16 * 1024
    #: Ten thousand names of devices fit.
    body_bytes: int = 1024 * 1024
    #: An answer up to this size never makes its thread wait for the client.
    buffered_answer_bytes: int = 16 * 1024 * 1024
    #: Unsent answers of all clients together. Beyond it requests are refused; from half of it on,
    #: those answers are cut off that have been on their way for the longest time.
    buffered_bytes: int = 64 * 1024 * 1024
    #: From the first byte of a request to its last.
    request_seconds: float = 30
    #: From the end of an answer's making to its last byte sent.
    answer_seconds: float = 60
    #: A stream whose client takes nothing.
    stalled_seconds: float = 60
    #: A connection without a request.
    idle_seconds: float = 90
    #: How long running requests may go on once the listener stops.
    stop_seconds: float = 3


class _Busy(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


def _asks_life(request: HTTPRequestParser) -> bool:
    """Such requests go before all others and are never refused."""
    return not request.error and request.path == "/healthz"


class _ProblemTask(ErrorTask):  # type: ignore[misc]
    """Requests that never reach the application are answered in the shape of all other errors."""

    def execute(self) -> None:
        error = self.request.error
        body = problem(error.code, error.reason, error.body)
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", MEDIA_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when it receives, sends or idles (wall clock, as waitress)."""

    error_task_class = _ProblemTask
    #: Of the request that is received, else of the answer that is sent; 0 before the first one.
    phase_began_at = 0.0

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.phase_began_at = time.time()
        return bool(super().received(data))

    def write_soon(self, data: bytes) -> int:
        if not self.total_outbufs_len:
            # What is written only now has not stalled yet.
            self.last_activity = time.time()
        return int(super().write_soon(data))

    def service(self) -> None:
        request = self.requests[0]
        if self.server.unsent_bytes > self.server.limits.buffered_bytes and not _asks_life(request):
            request.error = _Busy("too many answers wait for slow clients; try again in a second")
        super().service()
        self.phase_began_at = time.time()

    @property
    def is_sending(self) -> bool:
        """The answer is made, and the client has not taken all of it."""
        return not self.requests and self.total_outbufs_len > 0

    def is_overdue(self, now: float) -> bool:
        limits: Limits = self.server.limits
        if self.requests:
            is_stalled = now - self.last_activity > limits.stalled_seconds
            return is_stalled and self.total_outbufs_len > 0
        if self.is_sending:
            limit = limits.answer_seconds
        else:
            limit = limits.idle_seconds if self.request is None else limits.request_seconds
        return bool(now - max(self.phase_began_at, self.creation_time) > limit)

    def cut(self) -> None:
        """End the connection; the loop then cleans up, also where the client reads nothing."""
        # One that has ended by itself meanwhile needs no cutting.
        with suppress(OSError):
            # A reset instead of an orderly end, for which the system would keep what is unsent.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """The threads; whether the process lives is answered before what else waits."""

    def add_task(self, task: _Channel) -> None:
        if not _asks_life(task.requests[0]):
            super().add_task(task)
            return
        with self.lock:
            self.queue.appendleft(task)
            self.queue_cv.notify()


class _Server(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel
    limits: Limits

    @property
    def unsent_bytes(self) -> int:
        return sum(channel.total_outbufs_len for channel in list(self.active_channels.values()))

    def maintenance(self, now: float) -> None:
        """Cut off what is overdue or in the way; the loop calls this every second."""
        channels: list[_Channel] = list(self.active_channels.values())
        overdue = [channel for channel in channels if channel.is_overdue(now)]
        crowding = self._crowding(channels)
        for channel in overdue + crowding:
            channel.cut()
        if overdue or crowding:
            log.info("slow clients were cut off", overdue=len(overdue), crowding=len(crowding))

    def _crowding(self, channels: list[_Channel]) -> list[_Channel]:
        excess = self.unsent_bytes - self.limits.buffered_bytes // 2
        cut = []
        sending = [channel for channel in channels if channel.is_sending]
        for channel in sorted(sending, key=lambda channel: channel.phase_began_at):
            if excess <= 0:
                break
            excess -= channel.total_outbufs_len
            cut.append(channel)
        return cut

    def accept_no_more(self) -> None:
        """In the loop's thread: close the port, keep the connections."""
        self.del_channel()
        self.socket.close()

    def end_loop(self) -> None:
        """In the loop's thread: close all connections and let the loop return."""
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        self._map.clear()


class Listener:
    """Serves an application on the address of the settings, from `start` to `stop`."""

    def __init__(self, app: Flask, settings: HttpSettings, limits: Limits = Limits()) -> None:
        self._app = app
        self._streams: Streams = app.extensions["streams"]
        self._settings = settings
        self._limits = limits
        self._server: _Server | None = None
        self._loop: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve, in threads of its own. Raises ListenerProblem where it cannot bind."""
        # One line a waiting request would let clients fill the log.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        bound = bind(self._settings.address, self._settings.port)
        limits = self._limits
        adjustments = Adjustments(
            sockets=[bound],
            connection_limit=_connection_limit(limits.connections),
            max_request_header_size=limits.header_bytes,
            max_request_body_size=limits.body_bytes,
            outbuf_high_watermark=limits.buffered_answer_bytes,
            # No temporary files: writing them takes longer than making the answer.
            outbuf_overflow=limits.buffered_answer_bytes,
            cleanup_interval=1,
            # select() knows no file descriptors beyond 1,024.
            asyncore_use_poll=True,
            log_socket_errors=False,
            # Nothing is believed of them; that they are there tells who came through a proxy.
            clear_untrusted_proxy_headers=False,
            ident=None,
        )
        dispatcher = _Dispatcher()
        dispatcher.set_thread_count(limits.threads)
        self._streams.when_changed(
            lambda count: dispatcher.set_thread_count(limits.threads + count)
        )
        self._server = _Server(
            self._app,
            _sock=bound,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
            bind_socket=False,
        )
        self._server.limits = limits
        self._loop = threading.Thread(target=self._server.run, name="listener", daemon=True)
        self._loop.start()

    @property
    def port(self) -> int:
        """The port it is bound to, also where the settings leave the choice to the system."""
        assert self._server is not None, "the listener was not started"
        return int(self._server.effective_port)

    def stop(self) -> None:
        """Close the port, let running requests end, close the connections; takes seconds at most.

        A request that does not end in `stop_seconds` loses its connection; its thread keeps
        no process alive.
        """
        if self._server is None or self._loop is None:
            return
        server, self._server = self._server, None
        self._streams.stop()
        server.trigger.pull_trigger(server.accept_no_more)
        server.task_dispatcher.shutdown(timeout=self._limits.stop_seconds)
        server.trigger.pull_trigger(server.end_loop)
        self._loop.join()
        if server.task_dispatcher.threads:
            # They may still write to the trigger's pipe; closed, its number could by then belong
            # to another file. So only our end of it goes.
            server.trigger.socket.close()
        else:
            server.trigger.close()


def bind(address: str, port: int) -> socket.socket:
    """A listening socket. Raises ListenerProblem."""
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, sockaddr = found[0]
        bound = socket.create_server(sockaddr[:2], family=family)
    except OSError as error:
        raise ListenerProblem(
            f"cannot listen on {address} port {port}: {error.strerror or error}\n"
            "hint: another daemon may run already; set http.address and http.port to what is free "
            "on this machine"
        ) from error
    # The connections that it accepts inherit it.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return bound


def _connection_limit(wanted_connections: int) -> int:
    """As many connections as the files that this process may open bear.

    The soft limit is raised where it is in the way: many systems set it to 1,024. A connection
    may take a second file, for an answer that waits to be read.
    """
    wanted = 2 * wanted_connections + 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bearable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < bearable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (bearable, hard))
    return max(100, min(wanted_connections, (bearable - 300) // 2))
