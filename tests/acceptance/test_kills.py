"""The short form of `make soak`: kills at random moments under load lose and double nothing."""

import tempfile
from pathlib import Path

import pytest

from bench.soak import soak
from exporter.simulator import start_fleet


@pytest.mark.embedded
def test_kills_lose_and_double_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="configbackup-soak-", dir="/tmp") as folder:
        directory = Path(folder)
        # Where we are root, the user that the server runs as must reach it.
        directory.chmod(0o755)
        with start_fleet(directory / "fleet", devices=12, change_seconds=0.5) as fleet:
            fleet.set_fault(fleet.names[0], "reset")

            assert soak(directory / "installation", fleet, kills=4) == 0
