"""Nornir's inventory -> `devices`, and a login for a device.

`loading` reads it through a plugin (`files` for SimpleInventory), `validation` judges it,
`synchronisation` writes it, `logins` hands out `credentials`, `people` is what persons may do.
"""

from exporter.inventory.loading import Inventory, load_inventory
from exporter.inventory.logins import LoginSource
from exporter.inventory.people import pause_device, purge_device, resume_device
from exporter.inventory.synchronisation import (
    Change,
    SynchronisationPlan,
    plan_synchronisation,
    synchronise,
)
from exporter.inventory.validation import InventoryDevice

__all__ = [
    "Change",
    "Inventory",
    "InventoryDevice",
    "LoginSource",
    "SynchronisationPlan",
    "load_inventory",
    "pause_device",
    "plan_synchronisation",
    "purge_device",
    "resume_device",
    "synchronise",
]
