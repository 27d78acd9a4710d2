"""Inventories written as a person writes them: YAML files in a folder of the test."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from exporter.errors import InvalidInventory
from exporter.inventory import Inventory, load_inventory
from exporter.settings import CollectionSettings, InventorySettings

LoadFiles = Callable[..., Inventory]

DEFAULTS = """
    username: backup
    password: env:TEST_PASSWORD
"""


@pytest.fixture
def inventory_settings(tmp_path: Path) -> InventorySettings:
    options = {f"{key}_file": str(tmp_path / f"{key}.yaml") for key in ("host", "group")}
    return InventorySettings(
        options={**options, "defaults_file": str(tmp_path / "defaults.yaml")}, refresh_seconds=3600
    )


@pytest.fixture
def load(inventory_settings: InventorySettings, tmp_path: Path) -> LoadFiles:
    def write_and_load(hosts: str, groups: str = "", defaults: str = DEFAULTS) -> Inventory:
        for name, text in (("host", hosts), ("group", groups), ("defaults", defaults)):
            (tmp_path / f"{name}.yaml").write_text(dedent(text))
        return load_inventory(inventory_settings, CollectionSettings(deadline_seconds=90))

    return write_and_load


@pytest.fixture
def faults_of(load: LoadFiles) -> Callable[..., list[str]]:
    """The faults of an inventory that must be refused, without the folder of the files."""

    def refuse(hosts: str, groups: str = "", defaults: str = DEFAULTS) -> list[str]:
        with pytest.raises(InvalidInventory) as refusal:
            load(hosts, groups, defaults)
        return [
            f"{Path(fault.file).name}: {fault.path}: {fault.found} | {fault.expected}"
            for fault in refusal.value.faults
        ]

    return refuse
