"""A simulated fleet, and requests for its devices."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.collection import Login, Request
from exporter.simulator import Fleet, start_fleet

MakeRequest = Callable[..., Request]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory: Path = tmp_path_factory.mktemp("fleet")
    with start_fleet(directory, devices=120, configuration_bytes=6_000) as running:
        yield running


@pytest.fixture
def device_of(fleet: Fleet) -> Callable[[str], str]:
    """A healthy device of a platform: the last one that nobody broke."""
    free = fleet.names[-30:]
    return lambda platform: next(name for name in free if fleet.login(name).platform == platform)


def request_for(fleet: Fleet, name: str, **options: Any) -> Request:
    login = fleet.login(name)
    defaults = {"deadline_seconds": 20.0, "maximum_bytes": 2_000_000}
    return Request(
        login=Login(
            device=name,
            address=login.address,
            driver=options.pop("driver", ""),
            port=login.port,
            username=login.username,
            password=options.pop("password", login.password),
            optional_args=login.optional_args,
        ),
        platform=options.pop("platform", login.platform),
        **{**defaults, **options},
    )


@pytest.fixture(scope="module")
def make_request(fleet: Fleet) -> MakeRequest:
    return lambda name, **options: request_for(fleet, name, **options)
