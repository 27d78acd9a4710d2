"""schemathesis against the running server: nothing it makes up may break what is promised."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from sqlalchemy import Engine, text

from exporter.database.partitions import ensure_partitions
from tests.fleets import add_devices
from tests.web.conftest import Client, Serve


def test_the_server_keeps_what_the_reference_promises(
    serve: Serve, make_settings: Any, engine: Engine
) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection)
        add_devices(connection, "core-1")
        # The health check promises 503 where nobody works.
        connection.execute(
            text("""
                INSERT INTO processes (id, kind, host, pid, version, is_leader, heartbeat_at,
                    scheduler_turn_at)
                SELECT gen_random_uuid(), kind, 'here', 1, '1', kind = 'daemon',
                    now() + interval '1 hour', now() + interval '1 hour'
                FROM unnest(ARRAY['daemon', 'worker']) AS kind
            """)
        )
    site = Client(serve(make_settings(http={"port": 0, "trigger_rate": "1000000 per second"})))
    schema = schemathesis.openapi.from_url(f"{site.url}/openapi.json").exclude(path="/events")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        _try(operation)


def _try(operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def keeps_its_promise(case: Case) -> None:
        if case.query:
            # Nothing runs here: it would wait in vain.
            case.query.pop("wait", None)
        case.call_and_validate(timeout=20)

    keeps_its_promise()
