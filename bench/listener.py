"""The listener under 200 open streams and 1,000 slow clients.

A server process serves the application of the package with two routes beside it, a stream of
numbers and an answer of 5 MB; this process is all the clients. Slow senders send one byte of a
header a second; slow readers take 16 KiB a second of the large answer.
"""

import asyncio
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise

import psutil
import sqlalchemy
from flask import Flask, Response

from bench.report import Result, at_most, write
from exporter import logs
from exporter.settings import HttpSettings, LogSettings, Settings
from exporter.web import Listener, create_app
from exporter.web.streams import Streams

STREAMS = 200
SLOW_CLIENTS = 1_000
MESSAGES_A_SECOND = 10
MEASURED_SECONDS = 8.0
LARGE_ANSWER_BYTES = 5_000_000
HEARTBEAT_SECONDS = 15


class Numbers:
    """Sends 1, 2, 3, ... to every open stream, once it is told to begin."""

    def __init__(self) -> None:
        self.streams: dict[int, queue.SimpleQueue[int]] = {}
        self.may_send = threading.Event()

    def send(self) -> None:
        number = 0
        while self.may_send.wait():
            number += 1
            for stream in list(self.streams.values()):
                stream.put(number)
            time.sleep(1 / MESSAGES_A_SECOND)

    def receive(self, stopping: threading.Event) -> Iterator[bytes]:
        waiting = queue.SimpleQueue[int]()
        self.streams[id(waiting)] = waiting
        try:
            yield b": hello\n\n"
            while not stopping.is_set():
                try:
                    yield b"data: %d\n\n" % waiting.get(timeout=HEARTBEAT_SECONDS)
                except queue.Empty:
                    yield b": still here\n\n"
        finally:
            del self.streams[id(waiting)]

    def add_routes(self, app: Flask) -> None:
        large = b"x" * LARGE_ANSWER_BYTES

        @app.get("/stream")
        def stream() -> Response:
            streams: Streams = app.extensions["streams"]
            messages = streams.admit(self.receive(streams.stopping))
            return Response(messages, content_type="text/event-stream")

        @app.post("/begin")
        def begin() -> str:
            self.may_send.set()
            return ""

        @app.get("/large")
        def answer_at_length() -> bytes:
            return bytes(bytearray(large))  # as a page of metrics: made anew for each request


def serve() -> None:
    """The server process: prints its port, serves until SIGTERM, prints how long stopping took."""
    numbers = Numbers()
    # Nothing asks PostgreSQL here: the engine connects at first use.
    app = create_app(sqlalchemy.create_engine("postgresql+psycopg2://nobody@/"), Settings())
    numbers.add_routes(app)
    listener = Listener(app, HttpSettings(port=0))
    logs.configure(LogSettings(level="warning"))
    listener.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=numbers.send, daemon=True).start()
    print(listener.port, flush=True)
    signal.sigwait([signal.SIGTERM])
    began_at = time.monotonic()
    listener.stop()
    print(time.monotonic() - began_at, flush=True)


class Clients:
    """All the clients of one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[list[int]] = [[] for _ in range(STREAMS)]
        self.open = 0
        self.refused = 0

    async def request(
        self, method: str, path: str, end: str = "\r\n"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Both ends of a new connection; a writer that is let go of closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{end}".encode())
        return reader, writer

    async def begin(self) -> None:
        reader, writer = await self.request("POST", "/begin", "Connection: close\r\n\r\n")
        await reader.read()
        writer.close()

    async def follow(self, received: list[int]) -> None:
        reader, writer = await self.request("GET", "/stream")
        while line := await reader.readline():
            if line.startswith(b"data: "):
                received.append(int(line[6:]))
        writer.close()

    async def send_slowly(self) -> None:
        _, writer = await self.request("GET", "/healthz", "X-Slow: ")
        self.open += 1
        try:
            while True:
                await asyncio.sleep(1)
                writer.write(b"a")
                await writer.drain()
        finally:
            self.open -= 1
            writer.close()

    async def read_slowly(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nHost: bench\r\n\r\n")
            self.open += 1
            try:
                first = await loop.sock_recv(client, 1024)
                self.refused += first.startswith(b"HTTP/1.1 503")
                while await loop.sock_recv(client, 16 * 1024):
                    await asyncio.sleep(1)
            finally:
                self.open -= 1

    async def latencies(self, seconds: float) -> list[float]:
        """Milliseconds that /healthz took on new connections, one after the other, sorted."""
        taken = []
        end_at = time.monotonic() + seconds
        while time.monotonic() < end_at:
            began_at = time.monotonic()
            reader, writer = await self.request("GET", "/healthz", "Connection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert b'"ok"' in answer, answer
            taken.append((time.monotonic() - began_at) * 1000)
            await asyncio.sleep(0.02)
        return sorted(taken)

    @property
    def streams_with_gaps(self) -> int:
        lasts = [numbers[-1] if numbers else 0 for numbers in self.received]
        return sum(
            1
            for numbers, last in zip(self.received, lasts, strict=True)
            if last < max(lasts) - 1
            or any(later - sooner != 1 for sooner, later in pairwise(numbers))
        )


async def measure(server: psutil.Process, port: int) -> list[Result]:
    clients = Clients(port)
    results = [_megabytes("memory, no client", server)]
    results += _quantiles("no client", await clients.latencies(3))
    followers = [asyncio.create_task(clients.follow(numbers)) for numbers in clients.received]
    await asyncio.sleep(3)
    idle = await _cpu_share(server, asyncio.sleep(5))
    results += [
        at_most(f"CPU, {STREAMS} quiet streams", idle, "% of a core", 5),
        at_most("threads", server.num_threads(), "", 230),
    ]
    await clients.begin()
    results += _quantiles(f"{STREAMS} streams", await clients.latencies(MEASURED_SECONDS))
    for name, behave in (("senders", clients.send_slowly), ("readers", clients.read_slowly)):
        results += await _under_slow_clients(name, behave, clients, server)
    results += [at_most("streams that missed a message", clients.streams_with_gaps, "", 0)]
    for follower in followers:
        follower.cancel()
    return results


async def _under_slow_clients(
    name: str, behave: Callable[[], Awaitable[None]], clients: Clients, server: psutil.Process
) -> list[Result]:
    slow = [asyncio.ensure_future(behave()) for _ in range(SLOW_CLIENTS)]
    # From the start on: the burst of their requests belongs to it.
    began_at, before = time.monotonic(), sum(server.cpu_times()[:2])
    latencies = await clients.latencies(2 * MEASURED_SECONDS)
    cpu = 100 * (sum(server.cpu_times()[:2]) - before) / (time.monotonic() - began_at)
    title = f"{STREAMS} streams, {SLOW_CLIENTS} slow {name}"
    results = [
        *_quantiles(title, latencies),
        Result(f"CPU, {title}", cpu, "% of a core"),
        _megabytes(f"memory, {title}", server, goal=300),
        Result(f"slow {name} still open", clients.open, ""),
    ]
    if clients.refused:
        results += [Result(f"slow {name} refused", clients.refused, "")]
    for client in slow:
        client.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    return results


def _quantiles(when: str, sorted_milliseconds: list[float]) -> list[Result]:
    middle = sorted_milliseconds[len(sorted_milliseconds) // 2]
    late = sorted_milliseconds[int(len(sorted_milliseconds) * 0.99)]
    return [
        at_most(f"/healthz p50, {when}", middle, "ms", 50),
        at_most(f"/healthz p99, {when}", late, "ms", 500),
    ]


def _megabytes(name: str, server: psutil.Process, goal: float = 150) -> Result:
    return at_most(name, server.memory_full_info().pss / 1e6, "MB (PSS)", goal)


async def _cpu_share(server: psutil.Process, wait: Awaitable[None]) -> float:
    began_at, before = time.monotonic(), sum(server.cpu_times()[:2])
    await wait
    used = sum(server.cpu_times()[:2]) - before
    return float(100 * used / (time.monotonic() - began_at))


def main() -> bool:
    """Run it; True where every goal is met."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.listener", "serve"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        results = asyncio.run(measure(psutil.Process(server.pid), port))
    finally:
        server.terminate()
        stopped = server.communicate(timeout=60)[0]
    return write("listener", [*results, at_most("stopping", float(stopped), "s", 5)])


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.exit(0 if main() else 1)
