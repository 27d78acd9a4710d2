"""Bring `devices` in line with the inventory: added, changed, renamed, retired, returned.

A device that leaves the inventory is retired, never deleted; when its name comes back, so does its
row. One that comes with another name, but the address, port and platform of one that has left, is
the same device renamed: its history goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    Connection,
    Double,
    Integer,
    Text,
    any_,
    bindparam,
    column,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.selectable import TableValuedAlias

from exporter.errors import InventoryShrinks
from exporter.inventory.loading import Inventory
from exporter.inventory.validation import InventoryDevice
from exporter.models import Device, DeviceState

#: One synchronisation at a time; "invsync" in ASCII.
LOCK_KEY = 0x696E7673796E63
#: A fleet smaller than this may lose any share of its devices without a confirmation.
SMALLEST_GUARDED_FLEET = 4

_TYPES: Mapping[str, Any] = {
    "port": Integer(),
    "groups": ARRAY(Text()),
    "enabled": Boolean(),
    "deadline_seconds": Double(),
}
_COLUMNS = tuple(attribute.name for attribute in fields(InventoryDevice))


@dataclass(frozen=True)
class Change:
    """One fact of a device that the inventory has anew."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class SynchronisationPlan:
    """What a synchronisation changes; names of devices unless said otherwise."""

    added: tuple[str, ...] = ()
    #: Returned and renamed devices are here too, where they also changed.
    changed: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    #: Old name -> new name.
    renamed: Mapping[str, str] = field(default_factory=dict)
    retired: tuple[str, ...] = ()
    #: Rows of `devices`: their waiting executions are now pointless.
    retired_ids: tuple[int, ...] = ()
    returned: tuple[str, ...] = ()
    #: Devices in force before.
    fleet_size: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.counts()

    def counts(self) -> dict[str, int]:
        """How many devices of each kind, for a log line."""
        kinds = ("added", "changed", "renamed", "retired", "returned")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    @property
    def shrinks(self) -> bool:
        """It would retire more than half of the fleet: most likely a broken source."""
        is_guarded = self.fleet_size >= SMALLEST_GUARDED_FLEET
        return is_guarded and len(self.retired) * 2 > self.fleet_size


@dataclass(frozen=True)
class _Known:
    """A row of `devices`."""

    id: int
    is_retired: bool
    device: InventoryDevice


def plan_synchronisation(connection: Connection, inventory: Inventory) -> SynchronisationPlan:
    """What `synchronise` would change; writes nothing."""
    return _plan(_known_devices(connection), inventory.devices)


def synchronise(
    connection: Connection, inventory: Inventory, *, confirm_shrink: bool = False
) -> SynchronisationPlan:
    """Write what has changed, and nothing where nothing has; the caller commits.

    Waits for another synchronisation to commit first. Raises InventoryShrinks, before anything
    is written, where more than half of the fleet would be retired and nobody confirmed it.
    """
    connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
    plan = plan_synchronisation(connection, inventory)
    if plan.shrinks and not confirm_shrink:
        raise InventoryShrinks(
            f"the inventory would retire {len(plan.retired)} of {plan.fleet_size} devices\n"
            "hint: see configbackup inventory; if it is right: "
            "configbackup inventory --apply --confirm-shrink"
        )
    # 1. Renames, so that the rows of the next step are found by their new names.
    if plan.renamed:
        _rename(connection, plan.renamed)
    # 2. New and changed rows, then the states of the new ones.
    written = {*plan.added, *plan.changed, *plan.returned}
    if written:
        _upsert(connection, [inventory.devices[name] for name in sorted(written)])
    if plan.added:
        _add_states(connection)
    # 3. What has left.
    if plan.retired_ids:
        connection.execute(
            update(Device)
            .where(Device.id == any_(literal(list(plan.retired_ids), ARRAY(Device.id.type))))
            .values(retired_at=func.now())
        )
    return plan


def _known_devices(connection: Connection) -> dict[str, _Known]:
    rows = connection.execute(
        select(Device.id, Device.retired_at, *(getattr(Device, name) for name in _COLUMNS))
    )
    return {
        row.name: _Known(
            row.id,
            row.retired_at is not None,
            InventoryDevice(
                **{name: getattr(row, name) for name in _COLUMNS if name != "groups"},
                groups=tuple(row.groups),
            ),
        )
        for row in rows
    }


def _plan(
    known: Mapping[str, _Known], wanted: Mapping[str, InventoryDevice]
) -> SynchronisationPlan:
    present = {name for name, row in known.items() if not row.is_retired}
    renamed = _renames(
        {name: known[name].device for name in present - wanted.keys()},
        {name: device for name, device in wanted.items() if name not in known},
    )
    old_names = {new: old for old, new in renamed.items()}
    changed = {}
    for name, device in wanted.items():
        before = known.get(old_names.get(name, name))
        if before and (changes := _changes(before.device, device)):
            changed[name] = changes
    retired = sorted(present - wanted.keys() - renamed.keys())
    return SynchronisationPlan(
        added=tuple(sorted(wanted.keys() - known.keys() - old_names.keys())),
        changed=changed,
        renamed=renamed,
        retired=tuple(retired),
        retired_ids=tuple(known[name].id for name in retired),
        returned=tuple(sorted(n for n in wanted.keys() & known.keys() if known[n].is_retired)),
        fleet_size=len(present),
    )


def _renames(
    left: Mapping[str, InventoryDevice], came: Mapping[str, InventoryDevice]
) -> dict[str, str]:
    # No two devices of an inventory share address and port, so each key stands for one.
    names = {(d.address, d.port, d.platform): name for name, d in came.items()}
    keys = {name: (d.address, d.port, d.platform) for name, d in left.items()}
    return {old: names[key] for old, key in sorted(keys.items()) if key in names}


def _changes(before: InventoryDevice, after: InventoryDevice) -> tuple[Change, ...]:
    if before == after:
        return ()
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in _COLUMNS[1:])
    return tuple(Change(name, old, new) for name, old, new in pairs if old != new)


def _rename(connection: Connection, renamed: Mapping[str, str]) -> None:
    rows = [{"before": before, "after": after} for before, after in renamed.items()]
    names = _rows("names", rows, {"before": Text(), "after": Text()})
    connection.execute(
        update(Device).where(Device.name == names.c.before).values(name=names.c.after)
    )


def _upsert(connection: Connection, devices: Sequence[InventoryDevice]) -> None:
    types = {name: _TYPES.get(name, Text()) for name in _COLUMNS}
    rows = _rows("wanted", [asdict(device) for device in devices], types)
    statement = insert(Device).from_select(_COLUMNS, select(*rows.c))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                **{name: statement.excluded[name] for name in _COLUMNS[1:]},
                "retired_at": None,
            },
        )
    )


def _add_states(connection: Connection) -> None:
    stateless = select(Device.id).where(
        ~select(DeviceState).where(DeviceState.device_id == Device.id).exists()
    )
    connection.execute(
        insert(DeviceState).from_select(["device_id"], stateless).on_conflict_do_nothing()
    )


def _rows(
    alias: str, rows: Sequence[Mapping[str, Any]], types: Mapping[str, Any]
) -> TableValuedAlias:
    """All rows as one parameter: one statement, however many they are."""
    return (
        func.jsonb_to_recordset(bindparam(None, list(rows), type_=JSONB))
        .table_valued(*(column(key, type_) for key, type_ in types.items()), name=alias)
        .render_derived(with_types=True)
    )
