"""The listener of the metrics alone where it speaks TLS, which waitress does not.

A thread a connection and a request a connection: a scraper comes every few seconds. Handshakes
happen in those threads, and none of them lasts longer than the limits below.
"""

import socket
import ssl
import threading
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flask import Flask

from exporter.errors import ListenerProblem
from exporter.web.listener import bind

MAXIMUM_CONNECTIONS = 32
#: From the first byte of a connection to its last.
CONNECTION_SECONDS = 30.0


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, bound: socket.socket, context: ssl.SSLContext) -> None:
        self.address_family = bound.family
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_address = bound.getsockname()[:2]
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()
        self._context = context
        self._free = threading.Semaphore(MAXIMUM_CONNECTIONS)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """False: too many are open, and this one is closed at once."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(CONNECTION_SECONDS)
        # The timeout is of each step alone; this ends those who trickle.
        cut = threading.Timer(CONNECTION_SECONDS, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            # The handshake is here, not in the thread that accepts.
            with self._context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as wrapped:
                wrapped.do_handshake()
                super().finish_request(wrapped, client_address)
        finally:
            cut.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is nobody's concern; Flask answers errors of ours itself."""


def _cut(request: socket.socket) -> None:
    if request.fileno() >= 0:
        request.shutdown(socket.SHUT_RDWR)


class TlsListener:
    """Serves an application by TLS, from `start` to `stop`."""

    def __init__(
        self, app: Flask, address: str, port: int, *, certificate_file: Path, key_file: Path
    ) -> None:
        self._app = app
        self._address = address, port
        self._files = certificate_file, key_file
        self._server: _Server | None = None

    def start(self) -> None:
        """Bind and serve, in threads of its own. Raises ListenerProblem where it cannot."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise ListenerProblem(
                f"metrics.certificate_file and key_file: cannot be used: {error}"
            ) from error
        self._server = _Server(bind(*self._address), context)
        self._server.set_app(self._app)
        threading.Thread(
            target=self._server.serve_forever, name="metrics listener", daemon=True
        ).start()

    @property
    def port(self) -> int:
        """The port it is bound to, also where the settings leave the choice to the system."""
        assert self._server is not None, "the listener was not started"
        return int(self._server.server_port)

    def stop(self) -> None:
        """Close the port; a request that runs keeps no process alive."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
