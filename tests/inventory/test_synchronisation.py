"""Devices follow the inventory: added, changed, renamed, retired, returned; nothing by mistake."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Row, event, func, insert, select

from exporter.errors import InventoryShrinks, UnknownDevice
from exporter.inventory import (
    Change,
    Inventory,
    SynchronisationPlan,
    pause_device,
    plan_synchronisation,
    purge_device,
    resume_device,
    synchronise,
)
from exporter.models import (
    BackupExecutionLog,
    Configuration,
    ConfigurationText,
    Device,
    DeviceState,
)

LoadFiles = Callable[..., Inventory]


@pytest.fixture
def fleet(load: LoadFiles) -> Callable[..., Inventory]:
    """An inventory of devices that are their own address: `fleet("a", b="{hostname: x}")`."""

    def make(*names: str, **hosts: str) -> Inventory:
        lines = [f"{name}: {{hostname: {name}}}" for name in names]
        lines += [f"{name}: {host}" for name, host in hosts.items()]
        return load("\n".join(lines), "g: {data: {site: rome}}", "platform: ios")

    return make


def device_named(connection: Connection, name: str) -> Row[Any]:
    return connection.execute(select(Device.__table__).where(Device.name == name)).one()


def in_force(connection: Connection) -> set[str]:
    return set(connection.scalars(select(Device.name).where(Device.retired_at.is_(None))))


def test_new_devices_get_a_row_and_a_state(engine: Engine, fleet: Any) -> None:
    inventory = fleet("a", b="{hostname: x, port: 22, groups: [g], data: {deadline_seconds: 7}}")
    with engine.begin() as connection:
        plan = synchronise(connection, inventory)
        row = device_named(connection, "b")
        states = connection.scalar(select(func.count()).select_from(DeviceState))

    assert plan == SynchronisationPlan(added=("a", "b"))
    assert plan.counts() == {"added": 2}
    assert (row.address, row.port, row.site, row.groups) == ("x", 22, "rome", ["g"])
    assert (row.platform, row.deadline_seconds, row.enabled) == ("ios", 7, True)
    assert states == 2


def test_nothing_is_written_where_nothing_changed(engine: Engine, fleet: Any) -> None:
    inventory = fleet("a", "b")
    with engine.begin() as connection:
        synchronise(connection, inventory)
    statements: list[str] = []
    with engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", lambda *call: statements.append(call[2]))
        plan = synchronise(connection, inventory)

    assert plan.is_empty
    assert [statement.split()[0] for statement in statements] == ["SELECT", "SELECT"]


def test_changed_facts_are_named_with_old_and_new(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b"))
        before = device_named(connection, "a")
        plan = synchronise(connection, fleet("b", a="{hostname: a, port: 23, groups: [g]}"))
        after = device_named(connection, "a")

    assert plan.changed == {
        "a": (
            Change("port", None, 23),
            Change("site", "default", "rome"),
            Change("groups", (), ("g",)),
        )
    }
    assert (after.id, after.port, after.created_at) == (before.id, 23, before.created_at)


def test_a_renamed_device_keeps_its_row(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b"))
        before = device_named(connection, "a")
        renamed = fleet("b", core="{hostname: a, groups: [g]}")
        plan = synchronise(connection, renamed)
        after = device_named(connection, "core")

        assert (plan.renamed, plan.added, plan.retired) == ({"a": "core"}, (), ())
        assert (after.id, after.site) == (before.id, "rome")
        assert synchronise(connection, renamed).is_empty


def test_another_platform_under_another_name_is_another_device(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b"))
        plan = synchronise(connection, fleet("b", core="{hostname: a, platform: eos}"))

    assert (plan.renamed, plan.added, plan.retired) == ({}, ("core",), ("a",))


def test_a_device_that_left_is_retired_and_returns_to_its_row(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b", "c"))
        before = device_named(connection, "a")

        left = synchronise(connection, fleet("b", "c"))
        assert (left.retired, left.retired_ids) == (("a",), (before.id,))
        assert in_force(connection) == {"b", "c"}
        assert synchronise(connection, fleet("b", "c")).is_empty

        back = synchronise(connection, fleet("a", "b", "c"))
        after = device_named(connection, "a")
        assert (back.returned, back.added, back.changed) == (("a",), (), {})
        assert (after.id, after.retired_at) == (before.id, None)


def test_a_name_that_was_retired_is_not_taken_by_a_rename(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b", "c"))
        synchronise(connection, fleet("b", "c"))
        plan = synchronise(connection, fleet("c", a="{hostname: b}"))

    assert (plan.returned, plan.retired, plan.renamed) == (("a",), ("b",), {})


def test_losing_more_than_half_of_the_fleet_needs_a_confirmation(
    engine: Engine, fleet: Any
) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b", "c", "d", "e"))
        assert not plan_synchronisation(connection, fleet("a", "b", "c")).shrinks
        assert plan_synchronisation(connection, fleet("a", "b")).shrinks

        with pytest.raises(InventoryShrinks, match="retire 3 of 5 devices"):
            synchronise(connection, fleet("a", "b"))
        assert len(in_force(connection)) == 5

        synchronise(connection, fleet("a", "b"), confirm_shrink=True)
        assert in_force(connection) == {"a", "b"}


def test_a_plan_writes_nothing(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        plan = plan_synchronisation(connection, fleet("a"))

        assert (plan.added, in_force(connection)) == (("a",), set())


def test_two_daemons_synchronise_one_after_the_other(engine: Engine, fleet: Any) -> None:
    inventory = fleet(*(f"r{number}" for number in range(200)))

    def run(_: int) -> dict[str, int]:
        with engine.begin() as connection:
            return synchronise(connection, inventory).counts()

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(run, range(4)))

    assert sorted(counts, key=len) == [{}, {}, {}, {"added": 200}]


def test_a_pause_has_an_end_a_note_and_a_person(engine: Engine, fleet: Any) -> None:
    until = datetime.now(UTC) + timedelta(days=2)
    with engine.begin() as connection:
        synchronise(connection, fleet("a"))
        pause_device(connection, "a", until=until, note="moving", by="ann")
        paused = device_named(connection, "a")
        synchronise(connection, fleet(a="{hostname: a, port: 23}"))
        kept = device_named(connection, "a")
        resume_device(connection, "a")
        resumed = device_named(connection, "a")

        assert (paused.paused_until, paused.paused_note, paused.paused_by) == (
            until,
            "moving",
            "ann",
        )
        assert kept.paused_until == until
        assert (resumed.paused_until, resumed.paused_note, resumed.paused_by) == (None, None, None)
        with pytest.raises(UnknownDevice, match="'b'"):
            pause_device(connection, "b", until=until, note=None, by="ann")


def test_purging_deletes_a_device_and_what_only_it_had(engine: Engine, fleet: Any) -> None:
    with engine.begin() as connection:
        synchronise(connection, fleet("a", "b"))
        for name, digest in (("a", b"own"), ("a", b"shared"), ("b", b"shared")):
            add_success(connection, device_named(connection, name).id, digest)

        purge_device(connection, "a")

        assert in_force(connection) == {"b"}
        assert connection.scalars(select(ConfigurationText.sha256)).all() == [b"shared"]
        assert connection.scalar(select(func.count()).select_from(BackupExecutionLog)) == 1
        with pytest.raises(UnknownDevice):
            purge_device(connection, "a")


def add_success(connection: Connection, device_id: int, sha256: bytes) -> None:
    execution, now = func.gen_random_uuid(), func.now()
    facts = {"device_id": device_id, "task_id": execution, "trigger": "command"}
    connection.execute(
        insert(ConfigurationText).from_select(
            ["sha256"],
            select(func.decode(sha256.hex(), "hex")).where(
                ~select(ConfigurationText).where(ConfigurationText.sha256 == sha256).exists()
            ),
        )
    )
    configuration_id = connection.scalars(
        insert(Configuration)
        .values(
            **facts,
            sha256=sha256,
            stable_hash=sha256,
            size_bytes=1,
            lines_added=1,
            lines_removed=0,
            execution_id=execution,
        )
        .returning(Configuration.id)
    ).one()
    connection.execute(
        insert(BackupExecutionLog).values(
            **facts,
            id=execution,
            config_id=configuration_id,
            status="success",
            queued_at=now,
            extra_info={},
            site="s",
            platform="ios",
            zone="z",
        )
    )
