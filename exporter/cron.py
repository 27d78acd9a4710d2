"""Cron expressions of five fields, read as crontab(5) reads them, as triggers of APScheduler.

APScheduler 3 counts weekdays from Monday = 0, crontab(5) from Sunday = 0 or 7; numbers are
therefore replaced by names. Where both the day of the month and the weekday are given, both must
match (`0 2 1-7 * mon` is the first Monday), as everywhere in APScheduler.
"""

import re
from datetime import UTC, datetime, tzinfo

from apscheduler.triggers.cron import CronTrigger

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY = rf"\d|{'|'.join(_WEEKDAYS)}"
_WEEKDAY_RANGE = re.compile(
    rf"(?P<first>\*|{_DAY})(?:-(?P<last>{_DAY}))?(?:/(?P<step>[1-9]\d*))?", re.IGNORECASE
)


def cron_trigger(expression: str, zone: tzinfo = UTC) -> CronTrigger:
    """Raises ValueError for what is no cron expression, or one that never comes true."""
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"found {len(fields)} fields, expected 5")
    *others, weekdays = fields
    names = ",".join(_weekday_names(part) for part in weekdays.split(","))
    trigger = CronTrigger.from_crontab(" ".join([*others, names]), timezone=zone)
    if trigger.get_next_fire_time(None, datetime.now(zone)) is None:
        raise ValueError("no day of any year matches")
    return trigger


def _weekday_names(part: str) -> str:
    """`1-5` -> `mon,tue,wed,thu,fri`; `fri-sun` -> `fri,sat,sun`; `*` stays."""
    if part == "*":
        return part
    match = _WEEKDAY_RANGE.fullmatch(part)
    if match is None:
        raise ValueError(f"no weekday: {part!r}")
    first = 0 if match["first"] == "*" else _weekday_number(match["first"])
    if match["last"]:
        last = _weekday_number(match["last"])
    else:
        last = 6 if match["first"] == "*" or match["step"] else first
    if last < first:
        last += 7
    days = range(first, last + 1, int(match["step"] or 1))
    return ",".join(_WEEKDAYS[day % 7] for day in days)


def _weekday_number(day: str) -> int:
    if not day.isdigit():
        return _WEEKDAYS.index(day.lower())
    if int(day) > 7:
        raise ValueError(f"weekdays are 0 to 7 or sun to sat, not {day}")
    return int(day)
