"""schemathesis against the running server: nothing it makes up may break what is promised."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from sqlalchemy import Engine

from exporter.database.partitions import ensure_partitions
from tests.fleets import add_devices
from tests.web.conftest import Client, Serve


@pytest.fixture
def api_schema(serve: Serve, make_settings: object, engine: Engine) -> object:
    with engine.begin() as connection:
        ensure_partitions(connection)
        add_devices(connection, "core-1")
    unlimited = {"port": 0, "trigger_rate": "1000000 per second"}
    site = Client(serve(make_settings(http=unlimited)))  # type: ignore[operator]
    return schemathesis.openapi.from_url(f"{site.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.exclude(path="/events").parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_what_the_reference_promises(case: Case) -> None:
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query.pop("wait")
    case.call_and_validate(timeout=20)
