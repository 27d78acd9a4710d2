"""Simulated devices for a first try, tests and benchmarks.

Hundreds of devices in one process on loopback, which unmodified NAPALM drivers fetch from. What
goes wrong with them is data (`FAULTS`), and can be changed while they run.

    with start_fleet(directory, devices=3, platforms=("ios",)) as fleet:
        fleet.set_fault(fleet.names[0], "stalled")
"""

from exporter.simulator.client import Fleet, SimulatedLogin, start_fleet
from exporter.simulator.faults import COMMON_FAULTS, FAULTS
from exporter.simulator.texts import PLATFORMS

__all__ = ["COMMON_FAULTS", "FAULTS", "PLATFORMS", "Fleet", "SimulatedLogin", "start_fleet"]
