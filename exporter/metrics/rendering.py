"""Samples of one object as text, by a table of families; for the stores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.utils import floatToGoString

from exporter.metrics.names import Name
from exporter.metrics.store import Pieces

Facts = TypeVar("Facts")

#: Values of the labels that come after those which all families of the object share, and a value.
Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Family(Generic[Facts]):
    """A metric of a kind of object, and how its samples follow from the facts and the time."""

    name: Name
    samples: Callable[[Facts, float], Iterable[Sample]]


def one(value: Callable[[Facts], float | None]) -> Callable[[Facts, float], Iterable[Sample]]:
    """A single sample without further labels; absent for None."""

    def samples(facts: Facts, _now: float) -> Iterable[Sample]:
        found = value(facts)
        return () if found is None else (((), found),)

    return samples


def render(
    families: Sequence[Family[Facts]], facts: Facts, now: float, shared: Sequence[str]
) -> Pieces:
    """A piece for each family; `shared` are the values of the first labels of all of them."""
    first = families[0].name.labels[: len(shared)]
    labels = ",".join(_label(label, value) for label, value in zip(first, shared, strict=True))
    return tuple(_piece(family, facts, now, labels, len(shared)) for family in families)


def _piece(
    family: Family[Facts], facts: Facts, now: float, shared: str, number_shared: int
) -> bytes:
    name = family.name.name
    lines = []
    for values, value in family.samples(facts, now):
        labels = shared
        if values:
            further = zip(family.name.labels[number_shared:], values, strict=True)
            labels = ",".join([shared, *(_label(label, value) for label, value in further)])
        lines.append(f"{name}{{{labels}}} {number(value)}\n")
    return "".join(lines).encode()


def number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'
