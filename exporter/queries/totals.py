"""How many ended executions a page has."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text

from exporter.queries.executions import ALL_ENDED

#: What is not in the statistics is counted up to here.
COUNTED_AT_MOST = 10_000


@dataclass(frozen=True)
class Total:
    """`is_exact` false: there are more than `count`."""

    count: int
    is_exact: bool


def statistics_total(
    connection: Connection,
    *,
    first_day: date | None = None,
    last_day: date | None = None,
    site: str | None = None,
    platform: str | None = None,
    status: str | None = None,
) -> Total:
    """Ended executions of whole days, from the statistics: exact, however many there are."""
    conditions = {
        "day >= :first_day": first_day,
        "day <= :last_day": last_day,
        "site = :site": site,
        "platform = :platform": platform,
        "status = :status": status,
    }
    where, values = _where(conditions)
    count = connection.scalar(
        text(f"SELECT coalesce(sum(count), 0) FROM daily_statistics WHERE {where}"), values
    )
    return Total(int(count or 0), is_exact=True)


def counted_total(
    connection: Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    site: str | None = None,
    platform: str | None = None,
    status: str | None = None,
    reason: str | None = None,
    trigger: str | None = None,
    device_id: int | None = None,
    schedule_id: int | None = None,
) -> Total:
    """Ended executions that match all that is given, counted up to COUNTED_AT_MOST."""
    conditions = {
        "created_at >= :since": since,
        "created_at < :until": until,
        "site = :site": site,
        "platform = :platform": platform,
        "status = :status": status,
        "reason = :reason": reason,
        "trigger = :trigger": trigger,
        "device_id = :device_id": device_id,
        "schedule_id = :schedule_id": schedule_id,
    }
    where, values = _where(conditions)
    count = connection.scalar(
        text(f"""
            SELECT count(*) FROM (
                SELECT FROM {ALL_ENDED} AS l WHERE {where} LIMIT {COUNTED_AT_MOST + 1}) AS l
        """),
        values,
    )
    found = int(count or 0)
    return Total(min(found, COUNTED_AT_MOST), is_exact=found <= COUNTED_AT_MOST)


def _where(conditions: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The conditions whose value is given, and their values by the name after the colon."""
    given = {sql: value for sql, value in conditions.items() if value is not None}
    values = {sql.rsplit(":", 1)[1]: value for sql, value in given.items()}
    return " AND ".join(given) or "TRUE", values
