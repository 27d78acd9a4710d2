"""The metrics of each device."""

from exporter.metrics import names
from exporter.metrics.names import Name
from exporter.metrics.rendering import Family, Sample, one, render
from exporter.metrics.store import Pieces
from exporter.models import ENDED_STATUSES
from exporter.queries.metrics import DeviceFacts

STATES = ("never", "abnormal", "stale", "normal")


def stale_at(facts: DeviceFacts) -> float | None:
    """When it becomes stale unless a success comes first; None: never."""
    if facts.last_success is None or facts.interval is None:
        return None
    return facts.last_success + 2 * facts.interval


def state(facts: DeviceFacts, now: float) -> str:
    """The same as `queries.devices.STATE` says in SQL; the difference is proved by a test."""
    if not facts.success_count + facts.failed_count + facts.timeout_count:
        return "never"
    if facts.consecutive_failures:
        return "abnormal"
    stale = stale_at(facts)
    return "stale" if stale is not None and stale < now else "normal"


def deadlines(facts: DeviceFacts, now: float) -> list[float]:
    """When time alone will change what is rendered."""
    found = (stale_at(facts), facts.paused_until)
    return [moment for moment in found if moment is not None and moment >= now]


def render_device(facts: DeviceFacts, now: float) -> Pieces:
    return render(FAMILIES, facts, now, (facts.name, facts.site))


def _info(facts: DeviceFacts, _now: float) -> tuple[Sample]:
    groups = ",".join(facts.groups)
    return (((facts.address, facts.vendor, facts.platform, facts.zone, groups), 1),)


def _states(facts: DeviceFacts, now: float) -> list[Sample]:
    present = state(facts, now)
    return [((name,), name == present) for name in STATES]


def _paused_until(facts: DeviceFacts, now: float) -> tuple[Sample, ...]:
    until = facts.paused_until
    return (((), until),) if until is not None and until > now else ()


def _last_execution_success(facts: DeviceFacts) -> bool | None:
    return None if facts.last_attempt is None else not facts.consecutive_failures


def _last_failure(facts: DeviceFacts, _now: float) -> tuple[Sample, ...]:
    return () if facts.last_reason is None else (((facts.last_reason,), 1),)


def _executions(facts: DeviceFacts, _now: float) -> list[Sample]:
    return [((status,), getattr(facts, f"{status}_count")) for status in ENDED_STATUSES]


def _family(name: Name, attribute: str) -> Family[DeviceFacts]:
    return Family(name, one(lambda facts: getattr(facts, attribute)))


FAMILIES = (
    Family(names.DEVICE_INFO, _info),
    _family(names.DEVICE_ENABLED, "enabled"),
    _family(names.DEVICE_SCHEDULED, "is_scheduled"),
    Family(names.DEVICE_PAUSED_UNTIL, _paused_until),
    Family(names.DEVICE_STATE, _states),
    _family(names.DEVICE_CREATED, "created"),
    _family(names.DEVICE_LAST_ATTEMPT, "last_attempt"),
    _family(names.DEVICE_LAST_SUCCESS, "last_success"),
    _family(names.DEVICE_LAST_CHANGE, "last_change"),
    Family(names.DEVICE_LAST_EXECUTION_SUCCESS, one(_last_execution_success)),
    _family(names.DEVICE_LAST_DURATION, "last_duration"),
    Family(names.DEVICE_LAST_FAILURE, _last_failure),
    _family(names.DEVICE_FAILING_SINCE, "failing_since"),
    _family(names.DEVICE_CONSECUTIVE_FAILURES, "consecutive_failures"),
    _family(names.DEVICE_INTERVAL, "interval"),
    _family(names.DEVICE_DEADLINE, "deadline"),
    _family(names.DEVICE_CONFIG_SIZE, "config_size"),
    Family(names.DEVICE_EXECUTIONS, _executions),
    _family(names.DEVICE_CHANGES, "change_count"),
)
