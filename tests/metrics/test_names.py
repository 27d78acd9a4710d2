"""The table of names, the reference in docs/ and what is really served are the same."""

import re
import uuid
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from exporter.metrics import Exposition
from exporter.metrics.names import NAMES, PREFIX
from exporter.metrics.stores import measure_stores
from exporter.processes import Heartbeat
from exporter.settings import Settings
from tests.fleets import add_devices
from tests.metrics.endings import back_up, failure

REFERENCE = Path("docs/metrics.md")
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)


@pytest.fixture
def everything(engine: Engine, settings: Settings) -> None:
    """Rows that bring every metric forth, those too that are absent on a quiet day."""
    with engine.begin() as connection:
        add_devices(connection, "a", "b", interval_seconds=3600)
    back_up(engine, "a")
    back_up(engine, "b", ending=failure())
    measure_stores(engine, settings)
    with engine.begin() as connection:
        for statement in (
            "UPDATE devices SET paused_until = now() + interval '1 day', paused_by = 'x'",
            "UPDATE stores SET free_bytes = 1, size_bytes = 2",
            "UPDATE publishing_state SET last_publish_at = now(), failing_since = now(),"
            " last_push_at = now(), repository_bytes = 1",
            "INSERT INTO installation (integrity_checked_at) VALUES (now())"
            " ON CONFLICT (id) DO UPDATE SET integrity_checked_at = now()",
            "INSERT INTO backup_schedules (name, interval_seconds, time_zone, selection, is_active,"
            " paused_at, last_tick_at, next_tick_at)"
            " VALUES ('s', 60, 'UTC', '{}', FALSE, now(), now(), now())",
            "INSERT INTO processes (id, kind, host, pid, version, is_leader, settings_read_at,"
            " scheduler_turn_at) VALUES (gen_random_uuid(), 'daemon', 'h', 1, '1', TRUE, now(),"
            " now())",
        ):
            connection.execute(text(statement))


@pytest.mark.usefixtures("everything")
def test_what_is_served_is_what_the_table_says(settings: Settings) -> None:
    exposition = Exposition(settings.database, proof_seconds=0)
    served: dict[str, tuple[str, str, set[str]]] = {}
    while f"{PREFIX}exposition_last_proof_timestamp_seconds" not in served:
        answer = exposition.scrape("application/openmetrics-text; version=1.0.0")
        for family in openmetrics_families(answer.body.decode()):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            served[family.name] = family.type, family.documentation, labels
    exposition.stop()
    assert served == {
        name.family: (name.kind, name.help, set(name.labels)) for name in NAMES.values()
    }


def test_the_reference_has_every_metric_as_it_is() -> None:
    documented = {row[0]: row[1:] for row in _ROW.findall(REFERENCE.read_text(encoding="utf-8"))}
    assert documented == {
        name.name: (name.kind, ", ".join(name.labels), name.help) for name in NAMES.values()
    }


def test_a_heartbeat_tells_of_statements_that_failed_or_were_slow(engine: Engine) -> None:
    heartbeat = Heartbeat(engine, uuid.uuid4(), kind="daemon")
    with pytest.raises(ProgrammingError), engine.begin() as connection:
        connection.execute(text("SELECT * FROM nothing"))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_sleep(1.01)"))
    heartbeat.beat()
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT failed_statements, slow_statements FROM processes")
        ).one()
    assert tuple(row) == (1, 1)
