"""The sums that belong to no device: the lifetime counts as counters and histograms.

Changed counts are read anew, never added up here, so that they are those of the rows whatever
happened. Exemplars are those of the last execution seen in each bucket.
"""

from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import fsum

from prometheus_client import Metric
from prometheus_client.samples import Exemplar

from exporter.errors import Reason
from exporter.metrics import names
from exporter.metrics.names import Name
from exporter.metrics.rendering import Family, Sample, number, render
from exporter.metrics.store import Pieces
from exporter.models import ENDED_STATUSES, HISTOGRAM_BOUNDS_SECONDS, TRIGGERS
from exporter.queries.metrics import CounterKey, Counts, Ended

_BOUNDS = (*(number(bound) for bound in HISTOGRAM_BOUNDS_SECONDS), "+Inf")
#: One site's platform.
Pair = tuple[str, str]


@dataclass(frozen=True)
class PairSums:
    """The counts of one site's platform; what did not occur is missing."""

    executions: Mapping[tuple[str, str], int]
    failures: Mapping[str, int]
    retries: int


# Every combination is there with 0 from the first device on: else increase() misses the first.
def _executions(sums: PairSums, _now: float) -> Iterable[Sample]:
    for status in ENDED_STATUSES:
        for trigger in TRIGGERS:
            yield (status, trigger), sums.executions.get((status, trigger), 0)


def _failures(sums: PairSums, _now: float) -> Iterable[Sample]:
    return (((reason.value,), sums.failures.get(reason, 0)) for reason in Reason)


FAMILIES = (
    Family(names.EXECUTIONS, _executions),
    Family(names.EXECUTION_FAILURES, _failures),
    Family[PairSums](names.EXECUTION_RETRIES, lambda sums, _now: (((), sums.retries),)),
)


def render_pair(pair: Pair, sums: PairSums) -> Pieces:
    return render(FAMILIES, sums, 0, pair)


@dataclass
class Sums:
    """The counts as they were read last; not thread-safe."""

    counts: dict[CounterKey, Counts] = field(default_factory=dict)
    _of_pair: dict[Pair, dict[CounterKey, Counts]] = field(default_factory=dict)
    _exemplars: dict[Hashable, Exemplar] = field(default_factory=dict)

    def take(self, counts: Mapping[CounterKey, Counts]) -> set[Pair]:
        """Take over counts that were read; returns the pairs whose counts are others now."""
        changed = {key for key, found in counts.items() if self.counts.get(key) != found}
        for key in changed:
            self.counts[key] = counts[key]
            self._of_pair.setdefault((key.site, key.platform), {})[key] = counts[key]
        return {(key.site, key.platform) for key in changed}

    def take_exemplars(self, ended: Collection[Ended]) -> None:
        """Of executions, oldest first."""
        for one in ended:
            for name, value in (
                (names.EXECUTION_DURATION, one.duration),
                (names.EXECUTION_WAIT, one.wait),
            ):
                if value is not None:
                    self.take_exemplar(name, one.key, one.task_id, value=value, at=one.at)

    def take_exemplar(
        self, name: Name, key: CounterKey, task_id: str, *, value: float, at: float
    ) -> None:
        bucket = bisect_left(HISTOGRAM_BOUNDS_SECONDS, value)
        self._exemplars[name, _labels(name, key), bucket] = Exemplar(
            {"task_id": task_id}, value, at
        )

    def of_pair(self, pair: Pair) -> PairSums:
        executions: dict[tuple[str, str], int] = {}
        failures: dict[str, int] = {}
        retries = 0
        for key, counts in self._of_pair.get(pair, {}).items():
            by_trigger = key.status, key.trigger
            executions[by_trigger] = executions.get(by_trigger, 0) + counts.executions
            if key.reason:
                failures[key.reason] = failures.get(key.reason, 0) + counts.executions
            retries += counts.retries
        return PairSums(executions, failures, retries)

    def pairs(self) -> Collection[Pair]:
        return self._of_pair.keys()

    def histograms(self, platforms: Collection[str]) -> list[Metric]:
        """Both histograms; those of the platforms are there from the first device on."""
        durations = {(platform, status) for platform in platforms for status in ENDED_STATUSES}
        return [
            self._histogram(names.EXECUTION_DURATION, durations),
            self._histogram(names.EXECUTION_WAIT, {(trigger,) for trigger in TRIGGERS}),
        ]

    def _histogram(self, name: Name, initial: Collection[tuple[str, ...]]) -> Metric:
        groups: dict[tuple[str, ...], list[Counts]] = {labels: [] for labels in initial}
        for key, counts in self.counts.items():
            groups.setdefault(_labels(name, key), []).append(counts)
        family = name.histogram()
        is_wait = name is names.EXECUTION_WAIT
        for labels, members in sorted(groups.items()):
            columns = zip(
                *(m.wait_buckets if is_wait else m.duration_buckets for m in members), strict=True
            )
            totals = [sum(column) for column in columns] or [0] * len(_BOUNDS)
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for bucket, (bound, total) in enumerate(zip(_BOUNDS, accumulate(totals), strict=True)):
                exemplar = self._exemplars.get((name, labels, bucket))
                buckets.append((bound, total, exemplar) if exemplar else (bound, total))
            # Exactly rounded, so in any order the same.
            total_sum = fsum(m.wait_sum if is_wait else m.duration_sum for m in members)
            family.add_metric(labels, buckets, total_sum)
        return family


def _labels(name: Name, key: CounterKey) -> tuple[str, ...]:
    return (key.trigger,) if name is names.EXECUTION_WAIT else (key.platform, key.status)
