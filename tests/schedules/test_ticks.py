"""Ticks: crontab's weekdays, the clock changes of Berlin in 2026, and intervals without drift."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.cron import cron_trigger
from exporter.schedules import HORIZON, Timing, longest_gap_seconds, next_ticks

BERLIN = ZoneInfo("Europe/Berlin")
BEFORE_SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)
BEFORE_AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)

TIMINGS = st.one_of(
    st.sampled_from(
        ["30 2 * * *", "*/20 * * * *", "0 1-3 * * *", "15 2,3 * * sun", "0 0 1 * *", "5 */2 * * *"]
    ).map(lambda cron: Timing(cron, None, "Europe/Berlin")),
    st.floats(1, 1_000_000).map(lambda seconds: Timing(None, seconds, "UTC")),
)
AROUND_CLOCK_CHANGES = st.sampled_from([BEFORE_SPRING, BEFORE_AUTUMN]).flatmap(
    lambda start: st.integers(0, 2 * 86_400).map(lambda s: start + timedelta(seconds=s))
)


def cron(expression: str, time_zone: str = "Europe/Berlin") -> Timing:
    return Timing(expression, None, time_zone)


def every(seconds: float) -> Timing:
    return Timing(None, seconds, "UTC")


def local(moments: list[datetime]) -> list[str]:
    return [moment.astimezone(BERLIN).strftime("%d %H:%M %Z") for moment in moments]


def test_a_time_that_spring_skips_comes_an_hour_later_once() -> None:
    found = next_ticks(cron("30 2 * * *"), BEFORE_SPRING, count=2)

    assert local(found) == ["29 03:30 CEST", "30 02:30 CEST"]


def test_a_time_that_autumn_repeats_comes_once() -> None:
    found = next_ticks(cron("30 2 * * *"), BEFORE_AUTUMN, count=2)

    assert local(found) == ["25 02:30 CEST", "26 02:30 CET"]


def test_an_hourly_schedule_ticks_in_every_hour_of_a_clock_change() -> None:
    for start in (BEFORE_SPRING, BEFORE_AUTUMN):
        found = next_ticks(cron("0 * * * *"), start, count=24)

        assert {b - a for a, b in pairwise(found)} == {timedelta(hours=1)}


@pytest.mark.parametrize(
    ("weekdays", "expected"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("*/2", "sun,tue,thu,sat"),
        ("Fri-mon", "fri,sat,sun,mon"),
        ("mon,3", "mon,wed"),
        ("*", "*"),
    ],
)
def test_weekdays_count_from_sunday_as_in_crontab(weekdays: str, expected: str) -> None:
    fields = {field.name: str(field) for field in cron_trigger(f"0 2 * * {weekdays}").fields}

    assert fields["day_of_week"] == expected


@pytest.mark.parametrize(
    "expression", ["0 2 * *", "0 2 * * 8", "0 2 * * x", "0 2 31 2 *", "61 * * * *"]
)
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        cron_trigger(expression)


def test_intervals_count_from_1970_so_that_a_restart_does_not_shift_them() -> None:
    restarted_at = datetime(2026, 5, 1, 10, 7, 3, tzinfo=UTC)

    found = next_ticks(every(900), restarted_at, count=2)

    assert [tick.strftime("%H:%M:%S") for tick in found] == ["10:15:00", "10:30:00"]


@settings(max_examples=200, deadline=None)
@given(TIMINGS, AROUND_CLOCK_CHANGES)
def test_ticks_rise_and_are_the_same_whoever_asks_when(timing: Timing, start: datetime) -> None:
    found = next_ticks(timing, start, count=6)

    assert start < found[0]
    assert found == sorted(set(found))
    for asked_at in (*found[:-1], max(start, found[2] - timedelta(minutes=7))):
        assert next_ticks(timing, asked_at, until=found[-1]) == [t for t in found if t > asked_at]


TODAY = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timings", "expected_seconds"),
    [
        ([every(1)], 1),
        ([every(1), every(3600), cron("0 2 * * *")], 1),
        ([cron("0 2 * * *")], 86_400),
        ([cron("0 2 * * *"), cron("0 6 * * *")], 20 * 3600),
        ([cron("0 2 * * *"), cron("0 2 * * *", "UTC")], 22 * 3600),
        ([cron("0 2 * * 1-5")], 3 * 86_400),
        ([cron("0 2 1 * *")], 31 * 86_400),
        ([cron("0 2 1 1 *", "UTC")], 365 * 86_400),
        ([every(7200), cron("0 * * * *", "UTC")], 3600),
        ([every(7200), every(10_800)], 7200),
    ],
)
def test_an_interval_is_the_longest_gap_of_the_union(
    timings: list[Timing], expected_seconds: float
) -> None:
    assert longest_gap_seconds(frozenset(timings), TODAY) == expected_seconds


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20_000, 500_000).map(every), min_size=1, max_size=3))
def test_the_short_cuts_of_intervals_agree_with_walking(timings: list[Timing]) -> None:
    walked = sorted(
        {
            t
            for timing in timings
            for t in next_ticks(
                timing, TODAY - timedelta(microseconds=1), until=TODAY + 2 * HORIZON
            )
        }
    )
    gaps = [b - a for a, b in pairwise(walked) if a <= TODAY + HORIZON]

    assert longest_gap_seconds(frozenset(timings), TODAY) == max(gaps).total_seconds()
