import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, text

from exporter.database.partitions import ensure_partitions
from exporter.database.waking import notify_of_events
from exporter.executions.endings import end_running
from exporter.web.events import Events
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup
from tests.web.conftest import Client


@pytest.fixture(autouse=True)
def fleet(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection)
        add_devices(connection, "core-1", "core-2")
        add_devices(connection, "edge-1", site="paris")


class Stream:
    """An open stream of events."""

    def __init__(self, site: Client, path: str = "/events", **headers: str) -> None:
        self.answer = requests.get(site.url + path, headers=headers, stream=True, timeout=20)
        self.lines = self.answer.iter_lines(chunk_size=1)
        assert next(self.lines) == b"retry: 1000"

    def next(self) -> tuple[str, dict[str, Any]]:
        """Id and content of the next event."""
        number = ""
        for line in self.lines:
            if line.startswith(b"id: "):
                number = line[4:].decode()
            if line.startswith(b"data: "):
                return number, json.loads(line[6:])
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.answer.close()


def streaming(*values: Any, **headers: str) -> Any:
    return closing(Stream(*values, **headers))


def test_what_starts_and_ends_is_told(site: Client, engine: Engine) -> None:
    notify_of_events(engine)
    with streaming(site) as stream:
        trigger_backup(engine, "core-1")
        claimed = claim_next(engine)
        end_running(engine, claimed, success(), time_zone="UTC")
        events = [stream.next()[1] for _ in range(3)]
    assert [event["kind"] for event in events] == [
        "backup_started",
        "execution_started",
        "execution_ended",
    ]
    assert (events[2]["device"], events[2]["status"]) == ("core-1", "success")


def test_filters_leave_out_the_others(site: Client, engine: Engine) -> None:
    with streaming(site, "/events?site=paris") as stream:
        trigger_backup(engine)
        for _ in range(3):
            claim_next(engine)
        assert stream.next()[1]["device"] == "edge-1"


def test_an_event_of_a_late_commit_is_neither_lost_nor_told_twice(
    site: Client, engine: Engine
) -> None:
    # Others may hold transactions open: what came just before may be told too.
    task = uuid.uuid4()
    path = f"/events?task={task}"
    insert = text("INSERT INTO events (kind, task_id) VALUES ('backup_ended', :task)")
    with streaming(site, path) as stream:
        with engine.connect() as late:
            late.execute(insert, {"task": task})
            with engine.begin() as early:
                early.execute(insert, {"task": task})
            late.commit()
        numbers = [stream.next()[0] for _ in range(2)]
    with streaming(site, path, **{"Last-Event-ID": numbers[0]}) as resumed:
        assert resumed.next()[0] == numbers[1]
        with engine.begin() as connection:
            connection.execute(insert, {"task": task})
        numbers.append(resumed.next()[0])
    ids = [event.id for event in rows(engine, "SELECT id FROM events ORDER BY id")]
    assert [int(number.split("-")[1]) for number in numbers] == ids


def test_resuming_from_the_beginning_tells_everything_once(site: Client, engine: Engine) -> None:
    for _ in range(3):
        trigger_backup(engine, "core-1")
    with streaming(site, "/events", **{"Last-Event-ID": "0-0"}) as stream:
        seen = [stream.next()[0] for _ in range(3)]
        trigger_backup(engine, "core-2")
        seen.append(stream.next()[0])
    assert len(set(seen)) == 4
    assert row(engine, "SELECT count(*) AS events FROM events").events == 4


def test_a_slow_listener_is_dropped_and_the_others_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.web.events._WAITING_BATCHES", 2)
    stopping = threading.Event()
    events = Events(engine, stopping)
    slow, quick = (events.listen(lambda _: True, None) for _ in range(2))
    next(slow)
    next(quick)

    def kinds(messages: Iterator[bytes]) -> bytes:
        return next(messages)

    for _ in range(4):
        trigger_backup(engine, "core-1")
        assert b"backup_started" in kinds(quick)
    assert len(list(slow)) == 2
    stopping.set()
