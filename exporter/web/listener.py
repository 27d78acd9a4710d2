"""The one listener: waitress in a thread, with every wait and every buffer bounded.

Why waitress, and the numbers: docs/decisions/0001-listener.md. Its main loop reads requests and
sends answers, so slow clients hold no thread; its threads run the application. A stream of events
holds a thread for as long as it lasts. What waitress leaves unbounded (how long a request may
trickle in, an answer trickle out, and what unsent answers take together) is bounded here.
"""

import logging
import resource
import socket
import struct
import threading
import time
from dataclasses import dataclass

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

from exporter import logs
from exporter.errors import ListenerProblem
from exporter.settings import HttpSettings
from exporter.web.problems import MEDIA_TYPE, problem

log = logs.get_logger(__name__)

#: Streams of events that may be open at once; whoever opens them keeps to it.
MAXIMUM_STREAMS = 200


@dataclass(frozen=True)
class Limits:
    """What clients may take of this process."""

    #: One a stream, and some for everything else.
    threads: int = MAXIMUM_STREAMS + 16
    connections: int = 2_000
    header_bytes: int = 16 * 1024
    #: Ten thousand names of devices fit.
    body_bytes: int = 1024 * 1024
    #: An answer up to this size never makes its thread wait for the client.
    buffered_answer_bytes: int = 16 * 1024 * 1024
    #: Unsent answers of all clients together, most of it in temporary files; beyond it those that
    #: have been on their way for the longest time are cut off.
    buffered_bytes: int = 256 * 1024 * 1024
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


class _ProblemTask(ErrorTask):  # type: ignore[misc]
    """Requests that waitress itself refuses are answered in the shape of all other errors."""

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
        try:
            # A reset instead of an orderly end, for which the system would keep what is unsent.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("a connection ended before it was cut off")


class _Server(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel
    limits: Limits

    def maintenance(self, now: float) -> None:
        """Cut off what is overdue; the loop calls this every second."""
        channels: list[_Channel] = list(self.active_channels.values())
        overdue = [channel for channel in channels if channel.is_overdue(now)]
        for channel in overdue + self._too_much_unsent(channels):
            channel.cut()

    def _too_much_unsent(self, channels: list[_Channel]) -> list[_Channel]:
        excess = sum(channel.total_outbufs_len for channel in channels) - self.limits.buffered_bytes
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
        self._settings = settings
        self._limits = limits
        self._server: _Server | None = None
        self._loop: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve, in threads of its own. Raises ListenerProblem where it cannot bind."""
        # One line a waiting request would let clients fill the log.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        bound = _bind(self._settings)
        limits = self._limits
        adjustments = Adjustments(
            sockets=[bound],
            threads=limits.threads,
            connection_limit=_connection_limit(limits.connections),
            max_request_header_size=limits.header_bytes,
            max_request_body_size=limits.body_bytes,
            outbuf_high_watermark=limits.buffered_answer_bytes,
            cleanup_interval=1,
            # select() knows no file descriptors beyond 1,024.
            asyncore_use_poll=True,
            log_socket_errors=False,
            ident=None,
        )
        self._server = _Server(
            self._app,
            _sock=bound,
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
        self._app.extensions["stopping"].set()
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


def _bind(settings: HttpSettings) -> socket.socket:
    address, port = settings.address, settings.port
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, sockaddr = found[0]
        return socket.create_server(sockaddr[:2], family=family)
    except OSError as error:
        raise ListenerProblem(
            f"cannot listen on {address} port {port}: {error.strerror or error}\n"
            "hint: another daemon may run already; set http.address and http.port to what is free "
            "on this machine"
        ) from error


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
