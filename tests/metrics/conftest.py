"""An exposition on the test's database, and its answers as samples."""

import socket
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.metrics import Exposition
from exporter.settings import Settings

#: Samples by name and sorted labels.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Scrape = Callable[[], Samples]


def samples_of(text: str) -> Samples:
    """Each sample once: a series that is there twice fails."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all series of the name that have the labels."""
    return sum(
        value
        for (found, have), value in samples.items()
        if found == f"configbackup_{name}" and labels.items() <= dict(have).items()
    )


def series(samples: Samples, name: str, **labels: str) -> list[dict[str, str]]:
    """The labels of each series of the name that has the labels."""
    return [
        dict(have)
        for found, have in samples
        if found == f"configbackup_{name}" and labels.items() <= dict(have).items()
    ]


@pytest.fixture
def exposition(settings: Settings) -> Iterator[Exposition]:
    exposition = Exposition(settings.database)
    yield exposition
    exposition.stop()


@pytest.fixture
def scrape(exposition: Exposition) -> Scrape:
    return lambda: samples_of(exposition.scrape().body.decode())


@pytest.fixture
def frozen_port() -> Iterator[int]:
    """PostgreSQL's machine takes connections and its server says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        yield frozen.getsockname()[1]


@pytest.fixture
def free_ports() -> list[int]:
    """Three TCP ports of loopback that nobody uses now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
