"""The same metrics rendered plainly, by prometheus-client alone: what the stores must equal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from exporter.metrics import devices, sums
from exporter.metrics.rendering import Family
from exporter.queries.metrics import DeviceFacts

Object = tuple[Any, tuple[str, ...]]


class PlainFamilies(Collector):
    """Objects (facts and the values of their first labels) rendered anew at each scrape."""

    def __init__(
        self, families: Sequence[Family[Any]], objects: Iterable[Object], now: float
    ) -> None:
        self._families, self._objects, self._now = families, list(objects), now

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            name = family.name
            metric = Metric(name.family, name.help, name.kind)
            for facts, shared in self._objects:
                for further, value in family.samples(facts, self._now):
                    labels = dict(zip(name.labels, (*shared, *further), strict=True))
                    metric.add_sample(name.name, labels, float(value))
            if metric.samples:
                yield metric


def plain_registry(
    facts: Iterable[DeviceFacts], pairs: Iterable[tuple[sums.PairSums, sums.Pair]], now: float
) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PlainFamilies(devices.FAMILIES, [(f, (f.name, f.site)) for f in facts], now))
    registry.register(PlainFamilies(sums.FAMILIES, pairs, now))
    return registry
