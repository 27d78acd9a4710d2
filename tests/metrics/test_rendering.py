import gzip
import math
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from exporter.errors import Reason
from exporter.metrics import devices, sums
from exporter.metrics.devices import render_device
from exporter.metrics.store import Body, Store
from exporter.metrics.sums import Pair, PairSums, render_pair
from exporter.models import ENDED_STATUSES, TRIGGERS
from exporter.queries.metrics import DeviceFacts
from tests.metrics.conftest import samples_of
from tests.metrics.plain import plain_registry

NOW = 1_750_000_000.25

# What PostgreSQL can hold: any text without NUL and surrogates, and often the troublesome.
names = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
    st.text(st.sampled_from('"\\\n{},= #é中\u2028\r\t'), max_size=8),
)
moments = st.one_of(st.none(), st.floats(0, 2 * NOW))
counts = st.integers(0, 2**53)
facts = st.builds(
    DeviceFacts,
    id=st.integers(1, 2**63 - 1),
    name=names,
    site=names,
    address=names,
    vendor=names,
    platform=names,
    zone=names,
    groups=st.lists(names, max_size=3),
    is_retired=st.just(False),
    paused_until=moments,
    created=st.floats(0, 2 * NOW),
    interval=st.one_of(st.none(), st.floats(0, 1e9)),
    deadline=st.floats(0, 1e6),
    last_attempt=moments,
    last_success=moments,
    last_change=moments,
    last_duration=st.one_of(st.none(), st.floats(0, 1e6)),
    last_reason=st.one_of(st.none(), st.sampled_from([str(reason) for reason in Reason])),
    failing_since=moments,
    consecutive_failures=st.integers(0, 1000),
    config_size=st.one_of(st.none(), counts),
    success_count=counts,
    failed_count=counts,
    timeout_count=counts,
    cancelled_count=counts,
    change_count=counts,
)
fleets = st.lists(facts, max_size=5, unique_by=(lambda f: f.id, lambda f: f.name))
pair_sums = st.builds(
    PairSums,
    executions=st.dictionaries(
        st.tuples(st.sampled_from(ENDED_STATUSES), st.sampled_from(TRIGGERS)), counts, max_size=4
    ),
    failures=st.dictionaries(st.sampled_from([str(reason) for reason in Reason]), counts),
    retries=counts,
)
pairs = st.dictionaries(st.tuples(names, names), pair_sums, max_size=3)


def body_of(fleet: list[DeviceFacts], of_pairs: dict[Pair, PairSums], *, openmetrics: bool) -> Body:
    stores = [Store([f.name for f in devices.FAMILIES]), Store([f.name for f in sums.FAMILIES])]
    for one in fleet:
        stores[0].put(one.id, render_device(one, NOW))
    for pair, found in of_pairs.items():
        stores[1].put(pair, render_pair(pair, found))
    for store in stores:
        store.seal()
    return Body([chunk for store in stores for chunk in store.chunks(openmetrics=openmetrics)])


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, of_pairs=pairs)
def test_stores_render_the_samples_that_prometheus_client_renders(
    fleet: list[DeviceFacts], of_pairs: dict[Pair, PairSums]
) -> None:
    plain = plain_registry(fleet, [(found, pair) for pair, found in of_pairs.items()], NOW)
    ours = body_of(fleet, of_pairs, openmetrics=False)
    assert gzip.decompress(ours.gzip(b"# tail\n")) == ours.plain(b"# tail\n")
    assert samples_of(ours.plain(b"").decode()) == samples_of(generate_latest(plain).decode())
    assert parsed(body_of(fleet, of_pairs, openmetrics=True).plain(b"# EOF\n")) == parsed(
        generate_openmetrics(plain)
    )


def parsed(openmetrics: bytes) -> dict[str, object]:
    return {
        family.name: (
            family.type,
            family.documentation,
            sorted((s.name, sorted(s.labels.items()), s.value) for s in family.samples),
        )
        for family in openmetrics_families(openmetrics.decode())
    }


@settings(max_examples=60, deadline=None)
@given(
    operations=st.lists(
        st.tuples(st.integers(0, 200), st.one_of(st.none(), st.integers(0, 3))), max_size=120
    )
)
def test_a_store_holds_what_was_put_last_whatever_was_put_and_removed(
    operations: list[tuple[int, int | None]],
) -> None:
    store = Store([devices.FAMILIES[1].name])
    expected: dict[int, bytes] = {}
    for key, value in operations:
        if value is None:
            store.remove(key)
            expected.pop(key, None)
        else:
            line = f'configbackup_device_enabled{{device="{key}"}} {value}\n'.encode()
            # Sealed now and then, as scrapes come now and then.
            expected[key] = line if value else b""
            store.put(key, (expected[key],))
        if key % 3 == 0:
            store.seal()
    store.seal()
    lines = Body(store.chunks(openmetrics=False)).plain(b"").splitlines(keepends=True)
    found = [line for line in lines if not line.startswith(b"#")]
    assert sorted(found) == sorted(filter(None, expected.values()))


@pytest.mark.parametrize("value", [0, 1, 1e7, 1.5e300, math.pi, 2**53])
def test_numbers_are_read_back_as_they_were(value: float) -> None:
    body = body_of([example(config_size=value)], {}, openmetrics=False)
    key = ("configbackup_device_config_size_bytes", (("device", "d"), ("site", "s")))
    assert samples_of(body.plain(b"").decode())[key] == value


def test_promtool_finds_nothing_wrong_with_hostile_names() -> None:
    hostile = 'quote" back\\slash\nnew line é中 {}'
    fleet = [example(), example(id=2, name=hostile, site=hostile, groups=[hostile, "x"])]
    body = body_of(fleet, {(hostile, "ios"): PairSums({}, {}, 0)}, openmetrics=False)
    check_with_promtool(body.plain(b""))


def example(**fields: object) -> DeviceFacts:
    values = {
        **dict.fromkeys(DeviceFacts._fields),
        **dict.fromkeys(("name", "site", "address", "vendor", "platform", "zone"), "d"),
        "site": "s",
        "id": 1,
        "groups": [],
        "enabled": True,
        "is_scheduled": True,
        "created": NOW,
        "deadline": 60.0,
        "consecutive_failures": 0,
        **{name: 0 for name in DeviceFacts._fields if name.endswith("_count")},
    }
    return DeviceFacts(**{**values, **fields})  # type: ignore[arg-type]


def check_with_promtool(text: bytes) -> None:
    checked = subprocess.run(
        ["build/servers/usr/bin/promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
        env={**os.environ, "HOME": str(Path.cwd())},
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
