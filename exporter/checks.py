"""Everything that can be wrong with an installation, found at once: for `configbackup check`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from napalm import get_network_driver
from napalm.base.exceptions import ModuleImportError
from sqlalchemy import text

from exporter.database.engine import create_engine, database_errors, is_embedded
from exporter.database.migrations import is_current
from exporter.errors import ConfigBackupError
from exporter.inventory import Inventory, load_inventory
from exporter.settings import Settings


def faults_of_installation(settings: Settings) -> Iterator[str]:
    """A line a fault: inventory, credentials, drivers, Git, PostgreSQL. Changes nothing."""
    try:
        inventory = load_inventory(settings.inventory, settings.collection)
    except ConfigBackupError as error:
        yield str(error)
    else:
        yield from (str(fault) for fault in inventory.unresolved_credentials())
        yield from _faults_of_drivers(inventory)
        yield from _faults_of_zones(settings, inventory)
    yield from _faults_of_git(settings)
    yield from _faults_of_metrics(settings)
    yield from _faults_of_database(settings)


def _faults_of_drivers(inventory: Inventory) -> Iterator[str]:
    for driver in sorted({device.driver for device in inventory.devices.values()}):
        try:
            get_network_driver(driver)
        except ModuleImportError:
            names = [d.name for d in inventory.devices.values() if d.driver == driver]
            yield (
                f"inventory: hosts.{names[0]}: found the driver {driver!r} ({len(names)} devices), "
                f"expected an installed one; hint: pip install napalm-{driver}"
            )


def _faults_of_zones(settings: Settings, inventory: Inventory) -> Iterator[str]:
    """Zones may be served by workers elsewhere, so this needs no database to be only a warning."""
    unknown = {device.zone for device in inventory.devices.values()} - set(settings.workers.zones)
    for zone in sorted(unknown):
        yield (
            f"inventory: zone {zone!r} is not in workers.zones; unless workers elsewhere serve it "
            f"(configbackup worker --zone {zone}), its devices are never backed up"
        )


def _faults_of_git(settings: Settings) -> Iterator[str]:
    if shutil.which("git") is None:
        yield "git: found no program `git` on the PATH, expected Git 2.30 or newer"
    folder = _first_existing(settings.git.directory)
    if not os.access(folder, os.W_OK):
        yield f"git.directory: found {folder}, which this user cannot write to"


def _faults_of_metrics(settings: Settings) -> Iterator[str]:
    for key, file in settings.metrics:
        if key.endswith("_file") and file is not None and not os.access(file, os.R_OK):
            yield f"metrics.{key}: found {file}, which this user cannot read"


def _faults_of_database(settings: Settings) -> Iterator[str]:
    if is_embedded(settings.database) and not (settings.database.directory / "password").exists():
        # It is made at the first start.
        folder = _first_existing(settings.database.directory)
        if not os.access(folder, os.W_OK):
            yield f"database.directory: found {folder}, which this user cannot write to"
        return
    try:
        engine = create_engine(settings.database, application_name="configbackup check")
        with database_errors(), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        if not is_current(engine):
            yield "database: found an older schema; it is migrated when the daemon starts"
    except ConfigBackupError as error:
        yield f"database: {error}"


def _first_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
