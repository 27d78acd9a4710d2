"""schemathesis against the running server: nothing it makes up may break what is promised."""

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from sqlalchemy import Engine, text

from exporter.database.partitions import ensure_partitions
from exporter.web.tokens import create_token
from tests.fleets import add_devices
from tests.web.conftest import Serve

_REFINED = {"/backups", "/configurations/search", "/devices/{name}/pause"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_keeps_what_the_reference_promises(
    mode: GenerationMode, serve: Serve, make_settings: Any, engine: Engine
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
    url = serve(make_settings(http={"port": 0, "trigger_rate": "1000000 per second"}))
    with engine.begin() as connection:
        secret = create_token(connection, "bot", role="admin", by="test", days=None)
    headers = {"Authorization": f"Bearer {secret}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path="/events")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        _try(operation, mode, headers)


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    # A time that is over, a selection of nothing and half an expression fit the schema.
    unfit = [CHECKS.get_one("positive_data_acceptance")] if operation.path in _REFINED else []

    @given(case=operation.as_strategy(generation_mode=mode))
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
        case.call_and_validate(headers=headers, timeout=20, excluded_checks=unfit)

    # What takes nothing cannot be given anything wrong.
    with suppress(Unsatisfiable):
        keeps_its_promise()
