"""Logins for a worker process, out of an inventory that is read again in the background."""

import threading
from time import monotonic

from exporter.collection import Login
from exporter.errors import CollectionFailed, InvalidInventory, Reason
from exporter.inventory.loading import Inventory, fingerprint, load_inventory
from exporter.logs import get_logger
from exporter.settings import CollectionSettings, InventorySettings

log = get_logger(__name__)

#: How long a login waits for the first inventory, or for one that may have its new device.
PATIENCE_SECONDS = 60.0
#: An inventory that is no older than this is not read again for the sake of one device.
FRESH_SECONDS = 10.0
#: How often it is tried again while there is no inventory at all.
FIRST_RETRY_SECONDS = 15.0


class LoginSource:
    """Holds the last good inventory; a broken one is logged and changes nothing.

    One thread reads it: at once, every `refresh_seconds`, and on request. Unchanged files are not
    read again. Collection never waits for it, but for the first one and for unknown devices.
    """

    def __init__(self, settings: InventorySettings, collection: CollectionSettings) -> None:
        self._settings = settings
        self._collection = collection
        self._inventory: Inventory | None = None
        self._fingerprint: tuple[object, ...] | None = None
        self._read_at = -FRESH_SECONDS
        self._reads = 0
        self._has_read = threading.Condition()
        self._is_wanted = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep_fresh, name="inventory", daemon=True)
        self._thread.start()

    def login(self, device_name: str) -> Login:
        """Raises CollectionFailed (`guarded`) where the device or its credentials are missing."""
        inventory = self._inventory
        if inventory is None or device_name not in inventory.devices:
            inventory = self._newer_inventory()
        if inventory is None:
            message = "the inventory is broken and this worker has no earlier one; see its log"
            raise CollectionFailed(Reason.GUARDED, message)
        return inventory.login(device_name)

    def request_reload(self) -> None:
        """Read the inventory again soon; returns at once. Safe in a signal handler's loop."""
        self._is_wanted.set()

    def close(self) -> None:
        """End the thread; a read that is under way is waited for."""
        self._is_closed = True
        self._is_wanted.set()
        self._thread.join()

    def _newer_inventory(self) -> Inventory | None:
        with self._has_read:
            if self._reads and monotonic() - self._read_at < FRESH_SECONDS:
                return self._inventory
            reads = self._reads
            self._is_wanted.set()
            self._has_read.wait_for(lambda: self._reads > reads, PATIENCE_SECONDS)
            return self._inventory

    def _keep_fresh(self) -> None:
        while True:
            # In this order no request, and no end, is overlooked.
            self._is_wanted.clear()
            if self._is_closed:
                return
            self._read()
            retry_seconds = FIRST_RETRY_SECONDS if self._inventory is None else float("inf")
            self._is_wanted.wait(min(self._settings.refresh_seconds, retry_seconds))

    def _read(self) -> None:
        try:
            found = fingerprint(self._settings)
            if found is None or found != self._fingerprint:
                self._inventory = load_inventory(self._settings, self._collection)
                self._fingerprint = found
        except InvalidInventory as error:
            faults = [str(fault) for fault in error.faults]
            log.error("the inventory is broken; the last good one stays in force", faults=faults)
        except Exception:  # the thread must outlive it
            log.exception("the inventory cannot be read; the last good one stays in force")
        with self._has_read:
            self._reads += 1
            self._read_at = monotonic()
            self._has_read.notify_all()
