"""What was read of devices and counts, kept from one refresh to the next and rendered."""

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from sqlalchemy import Connection

from exporter.metrics import devices, names, sums
from exporter.metrics.rendering import Family
from exporter.metrics.store import Body, Store
from exporter.metrics.sums import Pair, Sums
from exporter.queries import metrics as queries
from exporter.queries.metrics import CounterKey, Counts, DeviceFacts, Ended, Snapshot

#: All rows are read where the last reading is older: events, which tell whose counts changed, are
#: not kept for ever.
_TOO_OLD_SECONDS = 3600.0


@dataclass(frozen=True)
class Changes:
    """What one reading brought; nothing of it was applied yet."""

    snapshot: Snapshot
    devices: Sequence[DeviceFacts]
    #: `devices` and `counts` are all there are; else only those that changed.
    is_whole: bool
    counts: dict[CounterKey, Counts]
    ended: Sequence[Ended] = ()
    exemplars: dict[str, list[tuple[CounterKey, str, float, float]]] = field(default_factory=dict)


def read_all(connection: Connection, present: Snapshot) -> Changes:
    return Changes(
        snapshot=present,
        devices=queries.all_devices(connection),
        is_whole=True,
        counts=queries.execution_counts(connection),
        exemplars={kind: queries.exemplars(connection, kind=kind) for kind in ("duration", "wait")},
    )


@dataclass
class Fleet:
    """Rendered devices and sums; not thread-safe, but for `bodies`, which is replaced as a whole.

    Device ids and pairs of site and platform are the keys of the two stores.
    """

    snapshot: Snapshot | None = None
    rendered: int = 0
    _facts: dict[int, DeviceFacts] = field(default_factory=dict)
    _sums: Sums = field(default_factory=Sums)
    _devices: Store = field(default_factory=lambda: _store(devices.FAMILIES))
    _pairs: Store = field(default_factory=lambda: _store(sums.FAMILIES))
    #: (when, device): the heap of changes that time alone will bring.
    _deadlines: list[tuple[float, int]] = field(default_factory=list)
    #: By "is it for OpenMetrics".
    bodies: dict[bool, Body] = field(default_factory=lambda: {False: Body(()), True: Body(())})

    def read_changes(self, connection: Connection, present: Snapshot) -> Changes:
        """What changed since the last reading that was applied; everything where that is unknown.

        It is also unknown after a purge, which leaves no trace of what it took, and where the
        numbers of transactions are lower than they were: this is another server.
        """
        since = self.snapshot
        if since is None or present.xmin < since.xmin or present.now - since.now > _TOO_OLD_SECONDS:
            return read_all(connection, present)
        changed = queries.changed_devices(connection, since, present)
        here = self._facts.keys() - {d.id for d in changed if d.is_retired}
        here |= {d.id for d in changed if not d.is_retired}
        if len(here) != queries.count_devices(connection):
            return read_all(connection, present)
        ended = queries.ended_since(connection, since, present)
        keys = {one.key for one in ended}
        return Changes(
            snapshot=present,
            devices=changed,
            is_whole=False,
            counts=queries.execution_counts(connection, keys) if keys else {},
            ended=ended,
        )

    def apply(self, changes: Changes) -> int:
        """Render what the reading brought; returns how many devices and counts were others."""
        now = changes.snapshot.now
        differing = [d for d in changes.devices if self._facts.get(d.id) != d]
        gone = {d.id for d in changes.devices if d.is_retired}
        if changes.is_whole:
            gone = self._facts.keys() - {d.id for d in changes.devices}
        present_before = {(d.site, d.platform) for d in self._facts.values()}
        for device_id in gone & self._facts.keys():
            del self._facts[device_id]
            self._devices.remove(device_id)
        for facts in differing:
            if not facts.is_retired:
                self._facts[facts.id] = facts
        due = self._due(now)
        self._render(due | {d.id for d in differing if not d.is_retired}, now)
        pairs = self._take_counts(changes)
        present = {(d.site, d.platform) for d in self._facts.values()}
        for pair in pairs | (present - present_before):
            self._pairs.put(pair, sums.render_pair(pair, self._sums.of_pair(pair)))
        for pair in present_before - present - set(self._sums.pairs()):
            self._pairs.remove(pair)
        self.snapshot = changes.snapshot
        self._seal()
        return len(differing) + len(pairs)

    def pass_time(self, now: float) -> None:
        """Render what time alone changed; for as long as nothing can be read."""
        self._render(self._due(now), now)
        self._seal()

    def histograms(self) -> list[Metric]:
        return self._sums.histograms({d.platform for d in self._facts.values()})

    def _take_counts(self, changes: Changes) -> set[Pair]:
        self._sums.take_exemplars(changes.ended)
        for kind, name in (("duration", names.EXECUTION_DURATION), ("wait", names.EXECUTION_WAIT)):
            for key, task_id, value, at in changes.exemplars.get(kind, ()):
                self._sums.take_exemplar(name, key, task_id, value=value, at=at)
        return self._sums.take(changes.counts)

    def _due(self, now: float) -> set[int]:
        due = set()
        while self._deadlines and self._deadlines[0][0] < now:
            due.add(heapq.heappop(self._deadlines)[1])
        return due & self._facts.keys()

    def _render(self, ids: Collection[int], now: float) -> None:
        for device_id in ids:
            facts = self._facts[device_id]
            self._devices.put(device_id, devices.render_device(facts, now))
            for moment in devices.deadlines(facts, now):
                heapq.heappush(self._deadlines, (moment, device_id))
        self.rendered = len(ids)

    def _seal(self) -> None:
        stores = (self._devices, self._pairs)
        changed = [store.seal() for store in stores]
        if any(changed):
            self.bodies = {
                openmetrics: Body(
                    [part for store in stores for part in store.chunks(openmetrics=openmetrics)]
                )
                for openmetrics in (False, True)
            }


def _store(families: Iterable[Family[Any]]) -> Store:
    return Store([family.name for family in families])
