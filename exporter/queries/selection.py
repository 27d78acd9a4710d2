"""Which devices a selection means."""

from dataclasses import dataclass

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Text,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    true,
)

from exporter.errors import NothingSelected, UnknownDevice
from exporter.models import Device, DeviceState
from exporter.settings import Selection


@dataclass(frozen=True)
class SelectedDevice:
    """What a new execution needs of its device."""

    id: int
    name: str
    site: str
    platform: str
    zone: str


def matches_selection(selection: Selection) -> ColumnElement[bool]:
    """Condition over `devices`: the device has every property that the selection asks for.

    Whether it is retired, enabled or paused plays no part: see `selection_condition`.
    """
    conditions: list[ColumnElement[bool]] = [true()]
    if selection.devices:
        conditions.append(Device.name.in_(selection.devices))
    if selection.site:
        conditions.append(Device.site.in_(selection.site))
    if selection.platform:
        conditions.append(Device.platform.in_(selection.platform))
    if selection.zone:
        conditions.append(Device.zone.in_(selection.zone))
    if selection.group:
        conditions.append(Device.groups.bool_op("&&")(literal(selection.group, ARRAY(Text()))))
    if selection.failing:
        conditions.append(
            exists().where(
                DeviceState.device_id == Device.id, DeviceState.failing_since.is_not(None)
            )
        )
    return and_(*conditions)


def selection_condition(selection: Selection, *, by_person: bool) -> ColumnElement[bool]:
    """Condition over `devices`: those that a backup of this selection takes.

    Retired ones never; disabled and paused ones only where a person names them.
    """
    is_free = and_(
        Device.enabled, or_(Device.paused_until.is_(None), Device.paused_until <= func.now())
    )
    is_named = by_person and bool(selection.devices)
    return and_(
        matches_selection(selection),
        Device.retired_at.is_(None),
        true() if is_named else is_free,
    )


def select_devices(
    connection: Connection, selection: Selection, *, by_person: bool
) -> list[SelectedDevice]:
    """The devices that a backup of this selection takes, by name.

    Raises UnknownDevice where a person names one that is not in the inventory (a schedule that
    names one that has left still backs up its others), NothingSelected where none matches.
    """
    if by_person and selection.devices:
        known = connection.scalars(
            select(Device.name).where(
                Device.name.in_(selection.devices), Device.retired_at.is_(None)
            )
        )
        if unknown := sorted(set(selection.devices) - set(known)):
            raise UnknownDevice(unknown)
    rows = connection.execute(
        select(Device.id, Device.name, Device.site, Device.platform, Device.zone)
        .where(selection_condition(selection, by_person=by_person))
        .order_by(Device.name)
    ).all()
    if not rows:
        raise NothingSelected("the selection matches no enabled device")
    return [SelectedDevice(*row) for row in rows]
