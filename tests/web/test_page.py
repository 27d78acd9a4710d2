import html
import json
import socket
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, func, insert, text

from exporter.database.partitions import ensure_partitions
from exporter.models import BackupExecutionLog, Device, DeviceState, OpenExecution
from exporter.queries.overview import FleetCounts, OpenCounts, fleet_counts, open_counts
from exporter.settings import Settings
from exporter.web import Listener, create_app

Answer = tuple[int, dict[str, str], str]
Fetch = Callable[..., Answer]


def fetch_from(listener: Listener) -> Fetch:
    def fetch(path: str, method: str = "GET", **headers: str) -> Answer:
        url = f"http://127.0.0.1:{listener.port}{path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
                return answer.status, dict(answer.headers), answer.read().decode()
        except HTTPError as answer:
            with answer:
                return answer.code, dict(answer.headers), answer.read().decode()

    return fetch


@pytest.fixture
def fetch(engine: Engine, settings: Settings) -> Iterator[Fetch]:
    listener = Listener(create_app(engine, settings), settings.http)
    listener.start()
    yield fetch_from(listener)
    listener.stop()


@pytest.fixture
def fetch_with_frozen_database(settings: Settings) -> Iterator[Fetch]:
    """PostgreSQL's machine takes connections and its server says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"postgresql+psycopg2://nobody@127.0.0.1:{frozen.getsockname()[1]}/nothing"
        app = create_app(sqlalchemy.create_engine(url), settings)
        listener = Listener(app, settings.http)
        listener.start()
        yield fetch_from(listener)
        listener.stop()


def add_device(
    connection: Connection, name: str, state: dict[str, Any] | None = None, **values: Any
) -> int:
    facts = {
        "address": name,
        "platform": "ios",
        "driver": "ios",
        "vendor": "Cisco",
        "site": "berlin",
        "zone": "default",
        "deadline_seconds": 60,
        "interval_seconds": 86_400,
        "is_scheduled": True,
    }
    device_id: int = connection.scalars(
        insert(Device).values(name=name, **{**facts, **values}).returning(Device.id)
    ).one()
    connection.execute(insert(DeviceState).values(device_id=device_id, **(state or {})))
    return device_id


def add_end(connection: Connection, device_id: int, **values: Any) -> None:
    facts = {
        "id": uuid.uuid4(),
        "task_id": uuid.uuid4(),
        "device_id": device_id,
        "status": "success",
        "queued_at": func.now(),
        "started_at": func.now(),
        "execution_time": 4.2,
        "extra_info": {},
        "site": "berlin",
        "platform": "ios",
        "zone": "default",
        "trigger": "command",
    }
    connection.execute(insert(BackupExecutionLog).values(**{**facts, **values}))


def succeeded(before: timedelta) -> dict[str, Any]:
    return {"success_count": 1, "last_success_at": datetime.now(UTC) - before}


def test_devices_are_counted_by_state(engine: Engine) -> None:
    failing = {**succeeded(timedelta(hours=1)), "consecutive_failures": 2, "failed_count": 2}
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with engine.begin() as connection:
        add_device(connection, "fresh")
        add_device(connection, "cancelled only", {"cancelled_count": 1})
        add_device(connection, "failing", failing)
        add_device(connection, "old", succeeded(timedelta(days=2, minutes=1)))
        add_device(connection, "good", succeeded(timedelta(days=1)))
        add_device(connection, "by hand", succeeded(timedelta(days=900)), interval_seconds=None,
                   is_scheduled=False)  # fmt: skip
        add_device(connection, "paused", failing, paused_until=tomorrow, paused_by="ann")
        add_device(connection, "disabled", failing, enabled=False, is_scheduled=False)
        add_device(connection, "retired", failing, retired_at=datetime.now(UTC))
        counts = fleet_counts(connection)
    assert counts == FleetCounts(
        never=2, abnormal=2, stale=1, normal=2, unscheduled=1, paused=1, disabled=1
    )
    assert counts.devices == 8


def test_open_executions_are_counted_by_status(engine: Engine) -> None:
    facts = {"priority": 0, "site": "s", "platform": "ios", "zone": "z", "trigger": "command"}
    run = {"status": "running", "worker_id": uuid.uuid4(), "deadline_at": func.now()}
    with engine.begin() as connection:
        devices = [add_device(connection, name) for name in ("a", "b")]
        for device_id, more in ((devices[0], {}), (devices[1], {}), (devices[1], run)):
            connection.execute(
                insert(OpenExecution).values(
                    task_id=uuid.uuid4(), device_id=device_id, **facts, **more
                )
            )
        assert open_counts(connection) == OpenCounts(queued=2, running=1)


def test_the_page_shows_the_last_twenty_ends_newest_first(engine: Engine, fetch: Fetch) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection)
        device_id = add_device(connection, "core-1")
        for minute in range(22):
            moment = datetime.now(UTC) - timedelta(seconds=minute)
            reason = {"status": "failed", "reason": "auth"} if minute == 0 else {}
            add_end(connection, device_id, created_at=moment, error_message=f"<{minute}>", **reason)
    status, _, page = fetch("/")
    assert status == 200
    shown = [minute for minute in range(22) if f"&lt;{minute}&gt;" in page]
    assert shown == list(range(20))
    assert page.index("&lt;0&gt;") < page.index("&lt;19&gt;")
    assert "auth" in page


def test_names_and_messages_are_escaped(engine: Engine, fetch: Fetch) -> None:
    nasty = "<script>alert('1')</script>\"&"
    with engine.begin() as connection:
        ensure_partitions(connection)
        device_id = add_device(connection, nasty)
        add_end(connection, device_id, status="failed", reason="command", error_message=nasty)
    _, _, page = fetch("/")
    assert "<script" not in page
    assert html.unescape(page).count(nasty) == 2


def test_the_page_of_an_empty_installation_says_how_to_begin(fetch: Fetch) -> None:
    status, _, page = fetch("/")
    assert (status, "0 devices" in page) == (200, True)
    assert "configbackup backup --all" in page


def test_the_page_says_that_a_frozen_database_is_away(fetch_with_frozen_database: Fetch) -> None:
    fetch = fetch_with_frozen_database
    for _ in range(2):
        began_at = time.monotonic()
        status, _, page = fetch("/")
        assert time.monotonic() - began_at < 2
        assert (status, "PostgreSQL does not answer" in page) == (503, True)
    assert fetch("/healthz")[0] == 200


def test_the_page_comes_back_with_the_database(engine: Engine, fetch: Fetch) -> None:
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE devices"))
        began_at = time.monotonic()
        assert fetch("/")[0] == 503
        assert time.monotonic() - began_at < 2
    while fetch("/")[0] != 200:
        assert time.monotonic() - began_at < 10


def test_the_page_keeps_others_out_and_runs_nothing(fetch: Fetch) -> None:
    for path in ("/", "/healthz", "/static/page.css", "/nowhere"):
        _, headers, _ = fetch(path)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("method", "path", "expected"), [("GET", "/nowhere", 404), ("POST", "/", 405)]
)
def test_errors_have_one_shape(fetch: Fetch, method: str, path: str, expected: int) -> None:
    status, headers, body = fetch(path, method)
    assert status == expected
    assert headers["Content-Type"] == "application/problem+json"
    content = json.loads(body)
    assert set(content) == {"type", "title", "status", "detail"}
    assert content["status"] == expected


def test_a_defect_is_a_problem_without_details(engine: Engine, settings: Settings) -> None:
    app = create_app(engine, settings)
    app.add_url_rule("/defect", view_func=lambda: 1 / 0)
    listener = Listener(app, settings.http)
    listener.start()
    status, headers, body = fetch_from(listener)("/defect")
    listener.stop()
    assert (status, headers["Content-Type"]) == (500, "application/problem+json")
    assert "division" not in body


@pytest.mark.parametrize("host", ["backup.example:443", "[::1]:9876", "10.0.0.1", "a_b"])
def test_any_host_header_gets_the_same_page(fetch: Fetch, host: str) -> None:
    status, _, page = fetch("/", Host=host)
    assert status == 200
    assert host not in page
