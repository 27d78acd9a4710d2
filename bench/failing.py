"""Fifty failing devices, of every kind, beside two hundred good ones: who slows whom."""

import sys
import tempfile
from itertools import cycle
from pathlib import Path

from bench.report import Result, at_most, write
from bench.whole_way import database, fleet_of
from exporter.simulator import FAULTS, Fleet
from tests.installation import Installation

_GOOD, _FAILING = 200, 50
_DEADLINE_SECONDS = 15.0
#: Faults that do not make every try fail: they are dealt with, or belong to other transports.
_HARMLESS = {"banner", "pager", "enable_secret"}


def main() -> int:
    with (
        database() as url,
        fleet_of(_GOOD + _FAILING) as fleet,
        tempfile.TemporaryDirectory(prefix="configbackup-bench-") as folder,
    ):
        installation = Installation(
            Path(folder),
            url,
            fleet,
            collection={"deadline_seconds": _DEADLINE_SECONDS, "retries": 0, "sessions": 50},
            workers={"processes": 2},
            logs={"level": "info"},
        )
        installation.start()
        try:
            results = _measure(installation, fleet)
        finally:
            installation.close()
    return 0 if write("failing", results) else 1


def _measure(installation: Installation, fleet: Fleet) -> list[Result]:
    good, failing = fleet.names[:_GOOD], fleet.names[_GOOD:]
    _back_up(installation, *fleet.names)
    alone = _back_up(installation, *good)
    kinds = [fault for fault in FAULTS if fault not in _HARMLESS]
    for name, fault in zip(failing, cycle(kinds), strict=False):
        fleet.set_fault(name, fault)
    beside = _back_up(installation, *fleet.names)
    longest = installation.row("SELECT max(execution_time) AS s FROM backup_execution_logs").s
    states = installation.row("""
        SELECT count(*) FILTER (WHERE consecutive_failures > 0) AS failing FROM device_states""")
    assert states.failing == _FAILING, states.failing
    return [
        Result("200 good devices alone", alone, "s"),
        Result("200 good devices beside 50 failing ones", beside, "s"),
        at_most("the good ones are slowed to", beside / alone, "ratio", 1.25),
        at_most("longest try", longest, "s", _DEADLINE_SECONDS + 10),
    ]


def _back_up(installation: Installation, *names: str) -> float:
    """Seconds from the trigger to the last success."""
    started = installation.command("backup", *names, "--wait", timeout=600)
    task_id = started.stderr.split()[1]
    seconds: float = installation.row(
        """
        SELECT extract(epoch FROM max(l.completed_at) - min(b.created_at))::float AS seconds
        FROM backups AS b JOIN backup_execution_logs AS l USING (task_id)
        WHERE b.task_id = :task_id AND l.status = 'success'""",
        task_id=task_id,
    ).seconds
    return seconds


if __name__ == "__main__":
    sys.exit(main())
