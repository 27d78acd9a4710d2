import json
import socket
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

from exporter.database.partitions import ensure_partitions
from exporter.executions.endings import Ending, end_running
from exporter.settings import ScheduleSettings, Settings
from exporter.web import Listener, create_app
from exporter.web.api.configurations import unified_diff
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup
from tests.web.conftest import Client, MakeClient

FAILED = Ending(
    status="failed",
    reason="refused",
    message="nothing listens",
    details="the traceback",
    try_seconds=2.0,
    extra={"last_screen": "secret screen"},
)


@pytest.fixture(autouse=True)
def fleet(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection)
        add_devices(connection, "core-1", "core-2")
        add_devices(connection, "edge-1", site="paris")


def end_next(engine: Engine, ending: Ending) -> uuid.UUID:
    """Run and end the execution that is due first."""
    claimed = claim_next(engine)
    assert end_running(engine, claimed, ending, time_zone="UTC")
    return claimed.id


def test_a_pipeline_triggers_waits_and_gets_the_outcome_in_one_call(
    site: Client, engine: Engine
) -> None:
    # It waits for its schedule already.
    trigger_backup(engine, "core-1", trigger="schedule", spread_seconds=3600.0)
    answers: list[Any] = []
    pipeline = threading.Thread(
        target=lambda: answers.append(
            site.post("/backups?wait=20", json={"devices": ["core-1"], "comment": "change 7"})
        )
    )
    pipeline.start()
    for _ in range(500):
        if rows(engine, "SELECT FROM backups WHERE comment = 'change 7'"):
            break
        time.sleep(0.01)
    end_next(engine, success())
    pipeline.join(20)
    (answer,) = answers
    assert answer.status_code == 202
    content = answer.json()
    assert content["is_ended"]
    assert content["counts"]["success"] == 1
    assert answer.headers["Location"] == f"/backups/{content['task_id']}"


def test_a_trigger_tells_what_it_queued_and_joined(site: Client, engine: Engine) -> None:
    earlier = trigger_backup(engine, "core-1")
    answer = site.post("/backups", json={"site": ["berlin"]})
    content = answer.json()
    assert (answer.status_code, content["queued"], content["joined"]) == (202, 1, 1)
    (joined,) = content["joined_executions"]
    assert (joined["device_name"], joined["task_id"]) == ("core-1", str(earlier.task_id))
    task = content["task_id"]
    assert site.get(f"/backups/{task}").json()["counts"]["queued"] == 2
    executions = site.get(f"/backups/{task}/executions").json()["executions"]
    assert [(e["device_name"], e["is_joined"]) for e in executions] == [
        ("core-1", True),
        ("core-2", False),
    ]
    assert site.post(f"/backups/{task}/cancel").json()["ended"] == 1
    assert len(site.get("/backups").json()["backups"]) == 2


def test_the_same_idempotency_key_twice_starts_one_backup(site: Client, engine: Engine) -> None:
    asked = {"all": True, "idempotency_key": "deploy-7"}
    first, second = (site.post("/backups", json=asked).json() for _ in range(2))
    assert first["task_id"] == second["task_id"]
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert len(rows(engine, "SELECT FROM backups")) == 1


def test_an_unknown_device_is_named_and_nothing_starts(site: Client, engine: Engine) -> None:
    answer = site.post("/backups", json={"devices": ["core-1", "nowhere-9"]})
    assert answer.status_code == 404
    assert "nowhere-9" in answer.json()["detail"]
    assert not rows(engine, "SELECT FROM backups")
    assert not rows(engine, "SELECT FROM audit_log")


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/monitoring/backup-statistics?days=0", None, "query.days"),
        ("GET", "/monitoring/backup-statistics?days=x", None, "query.days"),
        ("GET", "/monitoring/execution-trend?days=91", None, "query.days"),
        ("GET", "/monitoring/failed-devices?limit=51", None, "query.limit"),
        ("GET", "/monitoring/failed-devices?colour=red", None, "query.colour"),
        ("GET", "/monitoring/recent-executions?cursor=x", None, "query.cursor"),
        ("GET", "/devices/all?x=1", None, "query.x"),
        ("GET", "/configurations/search?q=(", None, "query.q"),
        ("POST", "/backups", {"devices": [1]}, "json.devices.0"),
        ("POST", "/backups", {"devices": ["a\0"]}, "json.devices.0"),
        ("POST", "/backups", {"site": ["nowhere"]}, "json"),
        ("POST", "/devices/core-1/pause", {"until": "2001-01-01T00:00:00Z", "note": ""}, "json."),
        ("GET", "/events?task=7", None, "query.task"),
    ],
)
def test_a_wrong_request_is_told_its_field(
    site: Client, method: str, path: str, body: Any, field: str
) -> None:
    answer = site.call(method, path, json=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert any(error["field"].startswith(field) for error in answer.json()["errors"])


def test_an_execution_shows_its_screen_to_operators_alone(
    caller: MakeClient, engine: Engine
) -> None:
    viewer, operator = caller("viewer"), caller("operator")
    trigger_backup(engine, "core-1")
    waiting = row(engine, "SELECT id FROM open_executions").id
    assert viewer.get(f"/executions/{waiting}").json()["status"] == "queued"
    end_next(engine, FAILED)
    shown = operator.get(f"/executions/{waiting}").json()
    assert shown["extra_info"]["last_screen"] == "secret screen"
    assert shown["error_details"] == "the traceback"
    hidden = viewer.get(f"/executions/{waiting}")
    assert hidden.json()["error_message"] == "nothing listens"
    assert "secret screen" not in hidden.text
    assert "the traceback" not in hidden.text
    for who, expected in ((operator, "the traceback"), (viewer, None), (operator, "the traceback")):
        (recent,) = who.get("/monitoring/recent-executions").json()["executions"]
        assert recent["error_details"] == expected


def test_versions_are_shown_compared_and_searched(site: Client, engine: Engine) -> None:
    for content in (b"hostname a\nntp 1\n", b"hostname a\nntp 2\n"):
        trigger_backup(engine, "core-1")
        end_next(engine, success(content))
    new, old = (
        v["id"] for v in site.get("/devices/core-1/configurations").json()["configurations"]
    )
    text_of_new = site.get(f"/devices/core-1/configurations/{new}")
    assert text_of_new.text == "hostname a\nntp 2\n"
    again = {"If-None-Match": text_of_new.headers["ETag"]}
    assert site.get(f"/devices/core-1/configurations/{new}", headers=again).status_code == 304
    changes = site.get(f"/devices/core-1/configurations/{new}/diff").json()
    assert (changes["from_id"], changes["to_id"]) == (old, new)
    assert "-ntp 1\n+ntp 2" in changes["diff"]
    assert not site.get(f"/devices/core-1/configurations/{new}/diff?against={new}").json()["diff"]
    assert site.get(f"/devices/core-2/configurations/{new}").status_code == 404
    current = site.get("/configurations/search", params={"q": "^ntp [12]$"}).json()["matches"]
    assert [match["config_id"] for match in current] == [new]
    assert current[0]["lines"] == [{"number": 2, "text": "ntp 2"}]
    since = {"q": "^ntp", "since": "2001-01-01T00:00:00Z"}
    history = site.get("/configurations/search", params=since).json()
    assert [match["config_id"] for match in history["matches"]] == [new, old]
    assert history["is_complete"]


def test_an_explosive_expression_ends_in_time(
    site: Client, engine: Engine, monkeypatch: Any
) -> None:
    monkeypatch.setattr("exporter.web.api.configurations._SEARCH_SECONDS", 0.5)
    trigger_backup(engine, "core-1")
    end_next(engine, success(b"a" * 5_000 + b"!\n"))
    began = time.monotonic()
    answer = site.get("/configurations/search", params={"q": "(a+)+(?<=a)c"}).json()
    assert not answer["is_complete"]
    assert time.monotonic() - began < 5


def test_texts_of_a_megabyte_are_compared_in_bounded_time() -> None:
    old = "\n".join(f"line {n * 7919 % 65_537} {n}" for n in range(60_000)).encode()
    new = "\n".join(f"line {n * 104_729 % 65_537} {n % 977}" for n in range(60_000)).encode()
    began = time.monotonic()
    assert unified_diff(old, new, "a", "b")
    assert time.monotonic() - began < 6


def test_schedules_rest_fire_again_and_run_by_hand(
    site: Client, engine: Engine, make_settings: Any
) -> None:
    from exporter.schedules import synchronise_schedules

    settings = make_settings(
        schedules=[ScheduleSettings(name="nightly", cron="0 2 * * *").model_dump()]
    )
    with engine.begin() as connection:
        synchronise_schedules(connection, settings)
    assert not site.post("/schedules/nightly/pause", json={"note": "works"}).json()["is_active"]
    assert site.get("/schedules").json()["schedules"][0]["paused_note"] == "works"
    assert site.post("/schedules/nightly/resume").json()["is_active"]
    ran = site.post("/schedules/nightly/run")
    assert (ran.status_code, ran.json()["queued"]) == (202, 3)
    assert site.post("/schedules/hourly/run").status_code == 404
    end_next(engine, success())
    recent = site.get("/monitoring/recent-executions?schedule=nightly").json()
    assert recent["executions"][0]["trigger"] == "api"


def test_a_device_is_paused_until_a_date(site: Client) -> None:
    until = datetime.now(UTC) + timedelta(days=1)
    asked = {"until": until.isoformat(), "note": "moving house"}
    paused = site.post("/devices/edge-1/pause", json=asked).json()
    assert datetime.fromisoformat(paused["paused_until"]) == until
    assert site.post("/devices/edge-1/resume").json()["paused_until"] is None
    assert site.get("/devices/nowhere").status_code == 404
    names = [device["name"] for device in site.get("/devices/all").json()["devices"]]
    assert names == ["core-1", "core-2", "edge-1"]


def test_answers_are_kept_until_refreshed(site: Client, engine: Engine) -> None:
    path = "/monitoring/backup-statistics"
    first = site.get(path)
    assert first.headers["Cache-Control"].startswith("private, max-age=")
    trigger_backup(engine, "core-1")
    end_next(engine, success())
    assert site.get(path).json() == first.json()
    kept = {"If-None-Match": first.headers["ETag"]}
    assert site.get(path, headers=kept).status_code == 304
    fresh = site.get(f"{path}?refresh=true").json()
    assert (fresh["total_executions"], fresh["today_total"]) == (1, 1)
    assert fresh["computed_at"] > first.json()["computed_at"]
    assert site.get(path).json() == fresh


def test_a_stampede_computes_once(site: Client, engine: Engine, monkeypatch: Any) -> None:
    from exporter.queries import monitoring

    computed: list[int] = []
    compute = monitoring.execution_trend

    def slow(*values: Any, **named: Any) -> Any:
        computed.append(1)
        time.sleep(0.3)
        return compute(*values, **named)

    monkeypatch.setattr(monitoring, "execution_trend", slow)
    answers: list[int] = []
    callers = [
        threading.Thread(
            target=lambda: answers.append(site.get("/monitoring/execution-trend").status_code)
        )
        for _ in range(20)
    ]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert answers == [200] * 20
    assert len(computed) == 1


def test_health_tells_what_does_not_work(site: Client) -> None:
    answer = site.get("/monitoring/health-check")
    content = answer.json()
    assert (answer.status_code, content["status"], content["database"]) == (
        503,
        "degraded",
        "healthy",
    )
    assert content["workers"].startswith("unhealthy: ")


def test_health_answers_in_time_without_a_token_while_postgresql_says_nothing(
    settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"postgresql+psycopg2://nobody@127.0.0.1:{frozen.getsockname()[1]}/nothing"
        listener = Listener(create_app(sqlalchemy.create_engine(url), settings), settings.http)
        listener.start()
        site = Client(f"http://127.0.0.1:{listener.port}")
        began = time.monotonic()
        answer = site.get("/monitoring/health-check")
        assert time.monotonic() - began < 2
        assert answer.status_code == 503
        assert answer.json()["database"].startswith("unhealthy: ")
        assert site.get("/devices/all").status_code == 503
        listener.stop()


def test_the_reference_has_every_path_and_a_page(site: Client) -> None:
    spec = site.get("/openapi.json").json()
    assert "/monitoring/backup-statistics" in spec["paths"]
    page = site.get("/docs")
    assert page.status_code == 200
    assert all(path in page.text for path in spec["paths"])
    assert json.dumps(spec)
