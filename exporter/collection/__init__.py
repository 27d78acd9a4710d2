"""Fetch one device's configuration under a hard deadline and judge it.

It is handed a login and imports no inventory; retries, storing and statuses are of floors above.
"""

from exporter.collection.collector import Collector, Probe, probe
from exporter.collection.contracts import Fetched, HostKeyPin, Login, Request
from exporter.collection.judging import Check

__all__ = [
    "Check",
    "Collector",
    "Fetched",
    "HostKeyPin",
    "Login",
    "Probe",
    "Request",
    "probe",
]
