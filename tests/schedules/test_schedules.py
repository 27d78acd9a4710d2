"""Schedules' rows: synchronised with the file, paused by people, and the intervals of devices."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, update

from exporter.errors import NothingSelected, UnknownDevice, UnknownSchedule
from exporter.models import BackupSchedule, Device, DeviceState
from exporter.queries import select_devices
from exporter.schedules import (
    ScheduleChanges,
    pause_schedule,
    refresh_intervals,
    resume_schedule,
    synchronise_schedules,
)
from exporter.settings import Selection, Settings
from tests.fleets import add_devices
from tests.schedules.rows import schedule_named

MakeSettings = Callable[..., Settings]
NIGHTLY = {"name": "nightly", "cron": "0 2 * * *"}
HOURLY = {"name": "hourly", "every_seconds": 3600, "selection": {"site": ["berlin"]}}
UNCHANGED = ScheduleChanges((), (), (), ())


def intervals(connection: Connection) -> dict[str, tuple[float | None, bool]]:
    rows = connection.execute(select(Device.name, Device.interval_seconds, Device.is_scheduled))
    return {row.name: (row.interval_seconds, row.is_scheduled) for row in rows}


def test_schedules_of_the_file_are_added_once(engine: Engine, make_settings: MakeSettings) -> None:
    settings = make_settings(schedules=[NIGHTLY, HOURLY], time_zone="Europe/Berlin")
    with engine.begin() as connection:
        first = synchronise_schedules(connection, settings)
        second = synchronise_schedules(connection, settings)
        nightly = schedule_named(connection, "nightly")

    assert (first.added, second) == (("nightly", "hourly"), UNCHANGED)
    assert nightly.time_zone == "Europe/Berlin"
    assert nightly.selection == {"all": True}
    assert nightly.next_tick_at > datetime.now(UTC)


def test_one_that_leaves_the_file_is_retired_and_returns(
    engine: Engine, make_settings: MakeSettings
) -> None:
    with engine.begin() as connection:
        synchronise_schedules(connection, make_settings(schedules=[NIGHTLY]))
        before = schedule_named(connection, "nightly")

        assert synchronise_schedules(connection, make_settings()).retired == ("nightly",)
        retired = schedule_named(connection, "nightly")
        assert (retired.next_tick_at, retired.retired_at is None) == (None, False)
        assert synchronise_schedules(connection, make_settings()) == UNCHANGED

        changes = synchronise_schedules(connection, make_settings(schedules=[NIGHTLY]))
        after = schedule_named(connection, "nightly")

    assert changes.returned == ("nightly",)
    assert (after.id, after.retired_at) == (before.id, None)
    assert after.next_tick_at == before.next_tick_at


def test_a_changed_time_counts_from_now_on(engine: Engine, make_settings: MakeSettings) -> None:
    with engine.begin() as connection:
        synchronise_schedules(connection, make_settings(schedules=[NIGHTLY]))
        connection.execute(
            update(BackupSchedule).values(next_tick_at=func.now() - timedelta(days=3))
        )
        changed = {**NIGHTLY, "cron": "0 4 * * *"}

        changes = synchronise_schedules(connection, make_settings(schedules=[changed]))

        assert changes.changed == ("nightly",)
        assert schedule_named(connection, "nightly").next_tick_at > datetime.now(UTC)


def test_a_persons_pause_survives_a_reload_and_catches_nothing_up(
    engine: Engine, make_settings: MakeSettings
) -> None:
    with engine.begin() as connection:
        synchronise_schedules(connection, make_settings(schedules=[NIGHTLY]))
        pause_schedule(connection, "nightly", by="ann", note="migration")
        changed = {**NIGHTLY, "cron": "0 4 * * *"}
        synchronise_schedules(connection, make_settings(schedules=[changed]))
        paused = schedule_named(connection, "nightly")
        resume_schedule(connection, "nightly")
        resumed = schedule_named(connection, "nightly")

    assert (paused.is_active, paused.next_tick_at, paused.paused_by) == (False, None, "ann")
    assert (resumed.is_active, resumed.paused_note) == (True, None)
    assert resumed.next_tick_at > datetime.now(UTC)


def test_an_unknown_schedule_is_named(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(UnknownSchedule, match="'weekly'"):
        pause_schedule(connection, "weekly", by="ann")


def test_a_device_has_the_interval_of_all_its_schedules(
    engine: Engine, make_settings: MakeSettings
) -> None:
    failing = {"name": "again", "every_seconds": 60, "selection": {"failing": True}}
    nightly = {**NIGHTLY, "selection": {"platform": ["ios"]}}
    with engine.begin() as connection:
        add_devices(connection, "both")
        add_devices(connection, "night", site="rome")
        add_devices(connection, "hour", platform="eos")
        add_devices(connection, "none", platform="eos", site="rome")
        synchronise_schedules(connection, make_settings(schedules=[nightly, HOURLY, failing]))

        assert refresh_intervals(connection) == 3
        assert refresh_intervals(connection) == 0
        assert intervals(connection) == {
            "both": (3600, True),
            "night": (86_400, True),
            "hour": (3600, True),
            "none": (None, False),
        }


def test_a_paused_schedule_keeps_the_interval_but_schedules_nothing(
    engine: Engine, make_settings: MakeSettings
) -> None:
    with engine.begin() as connection:
        add_devices(connection, "core")
        synchronise_schedules(connection, make_settings(schedules=[HOURLY]))
        pause_schedule(connection, "hourly", by="ann")
        assert intervals(connection) == {"core": (3600, False)}

        synchronise_schedules(connection, make_settings())
        refresh_intervals(connection)
        assert intervals(connection) == {"core": (None, False)}


def test_a_selection_takes_what_has_every_property(engine: Engine) -> None:
    with engine.begin() as connection:
        add_devices(connection, "a", groups=["edge", "core"])
        add_devices(connection, "b", site="rome", zone="dmz")
        add_devices(connection, "c", platform="eos")
        add_devices(connection, "gone", retired_at=datetime.now(UTC))
        add_devices(connection, "failing", site="rome")
        connection.execute(
            update(DeviceState)
            .where(DeviceState.device_id == Device.id, Device.name == "failing")
            .values(failing_since=func.now())
        )

        def names(**selection: Any) -> list[str]:
            found = select_devices(connection, Selection(**selection), by_person=False)
            return [device.name for device in found]

        assert names(all=True) == ["a", "b", "c", "failing"]
        assert names(site=["rome"]) == ["b", "failing"]
        assert names(site=["rome"], zone=["dmz", "lab"]) == ["b"]
        assert names(group=["core"]) == ["a"]
        assert names(platform=["eos"]) == ["c"]
        assert names(failing=True) == ["failing"]
        assert names(devices=["a", "gone", "nobody"]) == ["a"]


def test_paused_and_disabled_devices_are_only_taken_by_name_and_by_a_person(engine: Engine) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    with engine.begin() as connection:
        add_devices(connection, "disabled", enabled=False)
        add_devices(connection, "paused", paused_until=now + day, paused_by="ann")
        add_devices(connection, "over", paused_until=now - day, paused_by="ann")
        named = Selection(devices=["disabled", "paused", "over"])

        def names(selection: Selection, *, by_person: bool) -> list[str]:
            found = select_devices(connection, selection, by_person=by_person)
            return [device.name for device in found]

        assert names(named, by_person=True) == ["disabled", "over", "paused"]
        assert names(named, by_person=False) == ["over"]
        assert names(Selection(all=True), by_person=True) == ["over"]


def test_unknown_names_and_empty_selections_are_errors(engine: Engine) -> None:
    with engine.begin() as connection:
        add_devices(connection, "a")
        add_devices(connection, "gone", retired_at=datetime.now(UTC))

        with pytest.raises(UnknownDevice, match="'b', 'gone'"):
            select_devices(connection, Selection(devices=["a", "gone", "b"]), by_person=True)
        with pytest.raises(NothingSelected):
            select_devices(connection, Selection(site=["rome"]), by_person=True)
