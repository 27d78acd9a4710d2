"""The machinery, read anew in each scrape: a module a subject.

A subject has `families(connection)`, which asks `queries` and yields families of `names`, and a
row in the table below. One that `lasts` is still true while PostgreSQL is away, and is served on;
the others say what is so at the moment, which nobody knows then, and are left out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics.subjects import (
    database,
    fleet,
    git,
    integrity,
    processes,
    queue,
    schedules,
)


@dataclass(frozen=True)
class Subject:
    families: Callable[[Connection], Iterable[Metric]]
    lasts: bool


SUBJECTS = (
    Subject(fleet.families, lasts=True),
    Subject(queue.families, lasts=False),
    Subject(processes.families, lasts=False),
    Subject(schedules.families, lasts=True),
    Subject(git.families, lasts=True),
    Subject(database.families, lasts=True),
    Subject(integrity.families, lasts=True),
)
