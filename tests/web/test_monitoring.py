"""Each monitoring answer against plain SQL over the rows, for random histories.

The histories cross midnight, a month's end and both changes of daylight saving: the clock of the
database is moved by ending executions `now`, then shifting rows and statistics alike.
"""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, text

from exporter.database.partitions import ensure_partition_for
from exporter.queries import monitoring
from tests.fleets import add_devices, rows

ZONES = ["UTC", "Europe/Berlin", "Asia/Shanghai", "America/St_Johns", "Pacific/Auckland"]
STATUSES = ["success", "success", "success", "failed", "timeout", "cancelled"]


def boundaries(zone: ZoneInfo, today: date) -> Iterator[datetime]:
    """Instants around the midnights that bound the periods."""
    for back in (0, 1, 6, 7, 29, 30):
        midnight = datetime.combine(today - timedelta(days=back), time(), zone).astimezone(UTC)
        yield from (midnight, midnight - timedelta(microseconds=1))


def insert_ended(
    connection: Connection, device: Any, zone: str, moment: datetime, chance: random.Random
) -> None:
    status = chance.choice(STATUSES)
    ran = None if status == "cancelled" and chance.random() < 0.5 else chance.uniform(0.1, 90)
    reason = {"failed": "refused", "timeout": "timeout"}.get(status)
    connection.execute(
        text("""
            WITH logged AS (
                INSERT INTO backup_execution_logs (id, created_at, task_id, device_id, status,
                    reason, execution_time, queued_at, completed_at, config_size, extra_info, site,
                    platform, zone, trigger, day, error_message)
                VALUES (:id, :at, :id, :device_id, :status, :reason, :ran, :at, :at, :size, '{}',
                    :site, 'ios', 'default', 'api', CAST(:at AT TIME ZONE :zone AS date), :reason)
            )
            INSERT INTO daily_statistics AS t (day, time_zone, site, platform, status, shard,
                count, timed_count, duration_sum_seconds, size_sum_bytes)
            VALUES (CAST(:at AT TIME ZONE :zone AS date), :zone, :site, 'ios', :status,
                :device_id % 16, 1, CASE WHEN CAST(:ran AS float) IS NULL THEN 0 ELSE 1 END,
                coalesce(:ran, 0),
                coalesce(:size, 0))
            ON CONFLICT (day, time_zone, site, platform, status, shard) DO UPDATE SET
                count = t.count + 1, timed_count = t.timed_count + excluded.timed_count,
                duration_sum_seconds = t.duration_sum_seconds + excluded.duration_sum_seconds,
                size_sum_bytes = t.size_sum_bytes + excluded.size_sum_bytes
        """),
        {"id": uuid.UUID(int=chance.getrandbits(128)), "at": moment, "device_id": device.id,
         "status": status, "reason": reason, "ran": ran, "site": device.site, "zone": zone,
         "size": chance.randrange(10_000) if status == "success" else None},
    )  # fmt: skip


@pytest.fixture(params=range(6))
def history(request: pytest.FixtureRequest, engine: Engine) -> tuple[str, random.Random]:
    """A random history of 40 days; the time zone whose days it has."""
    chance = random.Random(request.param)
    zone = ZONES[request.param % len(ZONES)]
    now = datetime.now(UTC)
    today = now.astimezone(ZoneInfo(zone)).date()
    with engine.begin() as connection:
        for site in ("berlin", "paris"):
            add_devices(connection, *(f"{site}-{n}" for n in range(4)), site=site)
    moments = [now - timedelta(seconds=chance.uniform(0, 40 * 86_400)) for _ in range(250)]
    moments += [moment for moment in boundaries(ZoneInfo(zone), today) if moment <= now]
    for moment in moments:
        ensure_partition_for(engine, moment)
    devices = rows(engine, "SELECT id, site FROM devices")
    with engine.begin() as connection:
        for moment in moments:
            insert_ended(connection, chance.choice(devices), zone, moment, chance)
    return zone, chance


#: Rows of the period, by the plain meaning: their local date is one of the last N.
_LOCAL = "CAST(created_at AT TIME ZONE :zone AS date)"
_TODAY = "CAST(now() AT TIME ZONE :zone AS date)"
_IN_PERIOD = f"{_LOCAL} BETWEEN {_TODAY} - (CAST(:days AS int) - 1) AND {_TODAY}"


@pytest.mark.parametrize("days", [1, 7, 30])
def test_statistics_are_those_of_the_rows(
    engine: Engine, history: tuple[str, random.Random], days: int
) -> None:
    zone, _ = history
    with engine.connect() as connection:
        answer = monitoring.backup_statistics(connection, days=days, time_zone=zone)
        for name, condition in {
            "total_executions": "TRUE",
            "success_count": "status = 'success'",
            "failed_count": "status = 'failed'",
            "timeout_count": "status = 'timeout'",
            "cancelled_count": "status = 'cancelled'",
        }.items():
            sql = f"SELECT count(*) FROM backup_execution_logs WHERE {condition} AND {_IN_PERIOD}"
            expected = connection.scalar(text(sql), {"zone": zone, "days": days})
            assert answer[name] == expected, name
        for name, period in (("today_total", 1), ("week_total", 7)):
            sql = f"SELECT count(*) FROM backup_execution_logs WHERE {_IN_PERIOD}"
            assert answer[name] == connection.scalar(text(sql), {"zone": zone, "days": period})
        sql = f"""
            SELECT avg(execution_time), coalesce(sum(config_size), 0) FROM backup_execution_logs
            WHERE {_IN_PERIOD}
        """
        average, size = connection.execute(text(sql), {"zone": zone, "days": days}).one()
    ran = answer["success_count"] + answer["failed_count"] + answer["timeout_count"]
    assert answer["average_execution_time"] == pytest.approx(average or 0)
    assert answer["total_config_size"] == size
    rate = answer["success_count"] / ran * 100 if ran else 0.0
    assert answer["success_rate"] == pytest.approx(rate, abs=0.0051)
    assert answer["device_count"] == 8


@pytest.mark.parametrize("days", [1, 7, 40])
def test_the_trend_is_that_of_the_rows(
    engine: Engine, history: tuple[str, random.Random], days: int
) -> None:
    zone, _ = history
    with engine.connect() as connection:
        answer = monitoring.execution_trend(connection, days=days, time_zone=zone)
        assert len(answer["dates"]) == len(set(answer["dates"])) == days
        for place, day in enumerate(answer["dates"]):
            sql = f"""
                SELECT count(*) FILTER (WHERE status = 'success'),
                    count(*) FILTER (WHERE status = 'failed'),
                    count(*) FILTER (WHERE status = 'timeout'), coalesce(avg(execution_time), 0)
                FROM backup_execution_logs WHERE {_LOCAL} = CAST(:day AS date)
            """
            expected = connection.execute(text(sql), {"zone": zone, "day": day}).one()
            assert answer["success_counts"][place] == expected[0]
            assert answer["failure_counts"][place] == expected[1]
            assert answer["timeout_counts"][place] == expected[2]
            assert answer["average_times"][place] == pytest.approx(expected[3])
        assert answer["dates"][-1] == str(
            connection.scalar(text(f"SELECT {_TODAY}"), {"zone": zone})
        )


@pytest.mark.parametrize("days", [1, 7, 30])
def test_failed_devices_are_those_of_the_rows(
    engine: Engine, history: tuple[str, random.Random], days: int
) -> None:
    zone, _ = history
    with engine.connect() as connection:
        answer = monitoring.failed_devices(connection, days=days, limit=50, time_zone=zone)
        sql = f"""
            SELECT device_id, count(*), max(completed_at) FROM backup_execution_logs
            WHERE status IN ('failed', 'timeout') AND {_IN_PERIOD} GROUP BY device_id
        """
        expected = {
            row[0]: (row[1], row[2])
            for row in connection.execute(text(sql), {"zone": zone, "days": days})
        }
    found = {row["device_id"]: (row["failure_count"], row["last_failure_time"]) for row in answer}
    assert found == expected
    counts = [row["failure_count"] for row in answer]
    assert counts == sorted(counts, reverse=True)


def test_pages_of_executions_are_the_rows_in_order(
    engine: Engine, history: tuple[str, random.Random]
) -> None:
    _, chance = history
    filters: dict[str, Any] = {
        "status": chance.choice([None, "failed", "success"]),
        "site": chance.choice([None, "berlin"]),
        "since": chance.choice([None, datetime.now(UTC) - timedelta(days=20)]),
    }
    given = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join("created_at >= :since" if n == "since" else f"{n} = :{n}" for n in given)
    sql = f"""SELECT id FROM backup_execution_logs WHERE {where or "TRUE"}
        ORDER BY created_at DESC, id DESC"""
    found: list[uuid.UUID] = []
    after = None
    with engine.connect() as connection:
        expected = list(connection.scalars(text(sql), given))
        while True:
            total, page = monitoring.recent_executions_page(
                connection, limit=17, after=after, filters=filters
            )
            if not page:
                break
            found += [row["id"] for row in page]
            after = page[-1]["created_at"], str(page[-1]["id"])
        _, second = monitoring.recent_executions_page(
            connection, limit=17, offset=17, filters=filters
        )
    assert found == expected
    assert (total.count, total.is_exact) == (len(expected), True)
    assert [row["id"] for row in second] == expected[17:34]


def test_status_of_devices_is_that_of_their_states(engine: Engine) -> None:
    with engine.begin() as connection:
        add_devices(connection, "a", "b", "c")
        connection.execute(
            text("""
                UPDATE device_states SET success_count = 2, failed_count = 1, cancelled_count = 4,
                    last_status = 'failed', last_end_at = now(), consecutive_failures = 1
                WHERE device_id = (SELECT id FROM devices WHERE name = 'b')
            """)
        )
    with engine.connect() as connection:

        def page(**options: Any) -> dict[str, Any]:
            return monitoring.device_backup_status(
                connection, **{"limit": 10, "offset": 0, **options}
            )

        assert [row["device_name"] for row in page()["devices"]] == ["a", "b", "c"]
        (failing,) = page(status="failed")["devices"]
        assert (failing["total_backups"], failing["success_rate"]) == (7, 66.67)
        assert page(status="none")["total"] == 2
        assert page(state="abnormal")["devices"] == [failing]
        assert page(sort="-success_rate")["devices"][0] == failing
        assert [row["device_name"] for row in page(limit=1, offset=2)["devices"]] == ["c"]
        assert page(offset=99) == {"total": 3, "devices": []}
        assert page(search="nothing")["total"] == 0
