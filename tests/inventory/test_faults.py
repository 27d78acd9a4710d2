"""A broken inventory says exactly what is wrong, everything at once, and never a secret."""

from collections.abc import Callable

import pytest

from exporter.errors import InvalidInventory
from exporter.inventory import load_inventory
from exporter.settings import CollectionSettings, InventorySettings

FaultsOf = Callable[..., list[str]]


def test_all_faults_of_all_files_are_told_at_once(faults_of: FaultsOf) -> None:
    faults = faults_of(
        """
        a: {hostname: a, platform: ios, port: 70000}
        b: {platform: ios}
        c: {hostname: c, groups: [nowhere, old]}
        d: {hostname: "x\\ty", platform: ios, data: {enabled: maybe, site: 12}}
        e: {hostname: e, platform: ios, plattform: eos}
        f: {hostname: e, platform: ios, data: [1]}
        """,
        """
        old: {platform: irix, data: {deadline_seconds: 0}}
        """,
    )

    expected_starts = [
        "host.yaml: hosts.c.groups: 'nowhere' | a group of the inventory",
        "host.yaml: hosts.e.plattform: an unknown key | one of hostname, port,",
        "host.yaml: hosts.f.data: a list | ",
        "host.yaml: hosts.a.port: 70000 | a port from 1 to 65535",
        "host.yaml: hosts.b.hostname: nothing | a host name or an IP address",
        "group.yaml: groups.old.platform: 'irix' | one of ",
        "group.yaml: groups.old.data.deadline_seconds: 0 | seconds above 0",
        "host.yaml: hosts.d.hostname: 'x\\ty' | a host name",
        "host.yaml: hosts.d.data.enabled: 'maybe' | true or false",
        "host.yaml: hosts.d.data.site: 12 | printable text; in quotes if a number",
    ]
    assert len(faults) == len(expected_starts)
    for start in expected_starts:
        assert any(fault.startswith(start) for fault in faults), (start, faults)


def test_a_fault_of_a_group_is_told_once_however_many_devices_share_it(
    faults_of: FaultsOf,
) -> None:
    hosts = "".join(f"r{n}: {{hostname: r{n}, groups: [g]}}\n" for n in range(50))

    faults = faults_of(hosts, "g: {platform: irix}")

    assert len(faults) == 1


def test_a_name_that_stands_twice_is_told_with_its_lines(faults_of: FaultsOf) -> None:
    faults = faults_of("a: {hostname: a, platform: ios}\nb: {hostname: b, platform: ios}\na: {}\n")

    assert "host.yaml: hosts.a: it twice, in lines 1 and 3 | each name once" in faults


def test_an_address_and_port_serve_one_device(faults_of: FaultsOf) -> None:
    faults = faults_of(
        """
        a: {hostname: R1, platform: ios}
        b: {hostname: r1, platform: ios}
        c: {hostname: r1, platform: ios, port: 2022}
        """
    )

    assert faults == [
        "host.yaml: hosts.b.hostname: r1 and the default port, as a has them"
        " | an address and port of its own"
    ]


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("a: {\n  hostname: b\n", "host.yaml: line 3, column 1: "),
        ("- a\n", "host.yaml: hosts: a list | a mapping"),
        ("010: {hostname: a, platform: ios}", "host.yaml: hosts.8: a number | a name"),
        ("no: {hostname: a, platform: ios}", "host.yaml: hosts.False: true or false | a name"),
        ('"": {hostname: a, platform: ios}', "host.yaml: hosts.: '' | a printable name"),
        ('"a\\nb": {hostname: a, platform: ios}', "host.yaml: hosts.a\nb: 'a\\nb' | a printable"),
        ("a: text", "host.yaml: hosts.a: text | "),
        (
            "a: {hostname: a, platform: ios, username: 12}",
            "host.yaml: hosts.a.username: a number |",
        ),
    ],
)
def test_what_is_no_inventory_is_refused(faults_of: FaultsOf, hosts: str, expected: str) -> None:
    assert any(fault.startswith(expected) for fault in faults_of(hosts)), faults_of(hosts)


def test_groups_that_contain_themselves_are_refused(faults_of: FaultsOf) -> None:
    groups = "x: {groups: [y]}\ny: {groups: [x]}\nz: {groups: [x]}\n"

    faults = faults_of("a: {hostname: a, platform: ios, groups: [z]}", groups)

    assert [fault.split(" | ")[0] for fault in faults] == [
        "group.yaml: groups.x.groups: 'x'",
        "group.yaml: groups.y.groups: 'y'",
    ]


@pytest.mark.parametrize(
    "value",
    ["*SECRET", "!SECRET x", "{SECRET: 1}", "[SECRET]", "12345678", "&SECRET *SECRET2", "'SECRET"],
)
def test_a_secret_is_in_no_fault(faults_of: FaultsOf, value: str) -> None:
    for place in (
        f"password: {value}",
        f"data: {{enable_secret: {value}, x: 1}}",
        f"connection_options: {{napalm: {{extras: {{optional_args: {value}}}}}}}",
    ):
        faults = faults_of(f"a:\n  hostname: a\n  platform: irix\n  {place}\n")

        assert not any("SECRET" in fault or "12345678" in fault for fault in faults)


def test_a_missing_host_file_is_a_fault_but_not_missing_groups() -> None:
    settings = InventorySettings(options={"host_file": "/nowhere/hosts.yaml"})

    with pytest.raises(InvalidInventory) as refusal:
        load_inventory(settings, CollectionSettings())

    assert [str(fault) for fault in refusal.value.faults] == [
        "/nowhere/hosts.yaml: (file): found No such file or directory, "
        "expected a readable YAML file in utf-8"
    ]
