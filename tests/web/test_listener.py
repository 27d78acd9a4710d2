import select
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy
from flask import Response

from exporter.errors import ListenerProblem
from exporter.settings import HttpSettings, Settings
from exporter.web import Listener, create_app
from exporter.web.listener import Limits
from exporter.web.streams import MAXIMUM_STREAMS, Streams

LOOPBACK = HttpSettings(port=0)
FAST = Limits(
    request_seconds=1,
    answer_seconds=1,
    stalled_seconds=1,
    idle_seconds=1,
    stop_seconds=1,
)
PATIENT = Limits(stop_seconds=1)
CROWDED = Limits(buffered_bytes=20 * 1024 * 1024, stop_seconds=1)


class Site:
    """A running listener whose application also streams and answers at length."""

    def __init__(self, limits: Limits) -> None:
        # Nothing here asks PostgreSQL: the engine connects at first use.
        app = create_app(sqlalchemy.create_engine("postgresql+psycopg2://nobody@/"), Settings())
        self.let_go = threading.Event()
        self.ended_streams = threading.Semaphore(0)
        streams: Streams = app.extensions["streams"]

        @app.get("/stream")
        def stream() -> Response:
            def messages() -> Iterator[bytes]:
                try:
                    while not streams.stopping.wait(0.02):
                        yield b"data: tick\n\n"
                finally:
                    self.ended_streams.release()

            return Response(streams.admit(messages()), content_type="text/event-stream")

        @app.get("/large")
        def large() -> bytes:
            return b"x" * 12 * 1024 * 1024

        @app.get("/flood")
        def flood() -> Response:
            return Response(b"x" * 1024 * 1024 for _ in range(1_000_000))

        @app.get("/slow")
        def slow() -> str:
            self.let_go.wait(0.1)
            return "done"

        @app.get("/stubborn")
        def stubborn() -> str:
            self.let_go.wait(30)
            return "done"

        self.listener = Listener(app, LOOPBACK, limits)
        self.listener.start()

    def connect(self, request: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.listener.port), timeout=10)
        client.sendall(request)
        return client

    def get(self, path: str) -> socket.socket:
        return self.connect(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())

    def is_well(self) -> bool:
        url = f"http://127.0.0.1:{self.listener.port}/healthz"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)


@contextmanager
def running(limits: Limits) -> Iterator[Site]:
    site = Site(limits)
    try:
        yield site
    finally:
        site.let_go.set()
        site.listener.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with running(FAST) as site:
        yield site


@pytest.fixture
def patient_site() -> Iterator[Site]:
    with running(PATIENT) as site:
        yield site


def seconds_until_closed(client: socket.socket, meanwhile: Callable[[], object]) -> float:
    """How long the server kept the connection open; `meanwhile` is called ten times a second."""
    began_at = time.monotonic()
    client.settimeout(0.1)
    while time.monotonic() - began_at < 10:
        try:
            if not client.recv(1024):
                break
        except TimeoutError:
            pass
        except ConnectionError:
            break
        try:
            meanwhile()
        except (ConnectionError, BrokenPipeError):
            break
    return time.monotonic() - began_at


def test_a_taken_port_is_named_with_a_remedy(site: Site) -> None:
    taken = HttpSettings(port=site.listener.port)
    app = create_app(sqlalchemy.create_engine("postgresql+psycopg2://nobody@/"), Settings())
    with pytest.raises(ListenerProblem) as problem:
        Listener(app, taken).start()
    assert f"cannot listen on 127.0.0.1 port {taken.port}" in str(problem.value)
    assert "hint:" in str(problem.value)


def test_an_address_of_another_machine_is_refused() -> None:
    app = create_app(sqlalchemy.create_engine("postgresql+psycopg2://nobody@/"), Settings())
    with pytest.raises(ListenerProblem, match=r"192\.0\.2\.1"):
        Listener(app, HttpSettings(address="192.0.2.1", port=0)).start()


def test_more_slow_requests_than_threads_hold_nobody_up(patient_site: Site) -> None:
    with ExitStack() as clients:
        for _ in range(40):
            clients.enter_context(patient_site.connect(b"GET /healthz HTTP/1.1\r\nX-Slow: "))
        assert patient_site.is_well()


def test_more_slow_readers_than_threads_hold_nobody_up(patient_site: Site) -> None:
    with ExitStack() as clients:
        for _ in range(16):
            clients.enter_context(patient_site.get("/large"))
        assert patient_site.is_well()


def test_a_request_that_trickles_in_is_cut_off(site: Site) -> None:
    with site.connect(b"GET /healthz HTTP/1.1\r\nX-Slow: ") as client:
        assert 0.9 < seconds_until_closed(client, lambda: client.sendall(b"a")) < 5


def test_a_connection_without_a_request_is_closed(site: Site) -> None:
    with site.connect() as client:
        assert 0.9 < seconds_until_closed(client, lambda: None) < 5


def test_an_answer_that_nobody_takes_is_cut_off(site: Site) -> None:
    with site.get("/large") as client:
        closed_within(client, 5)


def test_slow_readers_make_room_for_others() -> None:
    with running(CROWDED) as site, ExitStack() as clients:
        slow = [clients.enter_context(site.get("/large")) for _ in range(8)]
        assert site.is_well()
        closed_within(slow[0], 5)
        while not starts_well(site.get("/large")):
            pass


def test_a_stream_that_nobody_takes_gives_its_thread_back(site: Site) -> None:
    with ExitStack() as clients:
        for _ in range(FAST.threads):
            clients.enter_context(site.get("/flood"))
        assert site.is_well()


def test_a_stream_whose_client_reads_stays_open(site: Site) -> None:
    with site.get("/stream") as client:
        began_at = time.monotonic()
        while time.monotonic() - began_at < 3:
            assert client.recv(1024)


def test_streams_take_no_thread_from_other_requests(patient_site: Site) -> None:
    with ExitStack() as clients:
        streams = [clients.enter_context(patient_site.get("/stream")) for _ in range(50)]
        for stream in streams:
            assert stream.recv(1024).startswith(b"HTTP/1.1 200")
        assert patient_site.is_well()


def test_a_stream_beyond_the_maximum_is_refused_until_one_ends(patient_site: Site) -> None:
    with ExitStack() as clients:
        streams = [clients.enter_context(patient_site.get("/stream")) for _ in range(200)]
        for stream in streams:
            assert stream.recv(1024).startswith(b"HTTP/1.1 200")
        assert len(streams) == MAXIMUM_STREAMS
        with patient_site.get("/stream") as refused:
            assert refused.recv(1024).startswith(b"HTTP/1.1 503")
        streams[0].close()
        assert patient_site.ended_streams.acquire(timeout=5)
        # The place is free a moment after its messages have ended.
        while not starts_well(patient_site.get("/stream")):
            pass


def test_the_process_lives_is_answered_before_what_waits(patient_site: Site) -> None:
    with ExitStack() as clients:
        for _ in range(300):
            clients.enter_context(patient_site.get("/slow"))
        began_at = time.monotonic()
        assert patient_site.is_well()
        assert time.monotonic() - began_at < 1


def test_a_stream_whose_client_went_away_ends(patient_site: Site) -> None:
    with patient_site.get("/stream") as client:
        assert client.recv(1024)
    assert patient_site.ended_streams.acquire(timeout=5)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: ".ljust(PATIENT.header_bytes, b"a"), 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n", 413),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_a_request_beyond_the_limits_is_answered_with_a_problem(
    patient_site: Site, request_bytes: bytes, status: int
) -> None:
    with patient_site.connect(request_bytes) as client:
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.")
    assert b"Content-Type: application/problem+json" in answer
    assert f'"status": {status}'.encode() in answer


def test_it_stops_at_once_with_open_streams(patient_site: Site) -> None:
    with ExitStack() as clients:
        streams = [clients.enter_context(patient_site.get("/stream")) for _ in range(6)]
        for stream in streams:
            assert stream.recv(1024)
        began_at = time.monotonic()
        patient_site.listener.stop()
        assert time.monotonic() - began_at < 1


def test_it_stops_within_its_grace_with_a_request_that_does_not_end(patient_site: Site) -> None:
    with patient_site.get("/stubborn") as client:
        assert patient_site.is_well()
        began_at = time.monotonic()
        patient_site.listener.stop()
        assert time.monotonic() - began_at < 3
        assert client.recv(1024) == b""


def test_a_stopped_port_is_free_again(patient_site: Site) -> None:
    port = patient_site.listener.port
    patient_site.listener.stop()
    socket.create_server(("127.0.0.1", port)).close()


def starts_well(client: socket.socket) -> bool:
    with client:
        return client.recv(1024).startswith(b"HTTP/1.1 200")


def closed_within(client: socket.socket, seconds: float) -> None:
    """Wait, reading nothing, until the peer has reset or closed the connection."""
    poll = select.poll()
    poll.register(client, 0)
    assert poll.poll(seconds * 1000)
