"""Random histories, and one planted fault in each place."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from exporter.database import history
from exporter.database.partitions import ensure_partition_for
from exporter.errors import Reason, UnknownDevice
from exporter.executions.cancelling import cancel_executions
from exporter.executions.endings import Ending, end_running
from exporter.executions.retries import requeue
from exporter.integrity.numbers import fold_days, mend_numbers, verify_numbers
from exporter.inventory import purge_device
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup

DEVICES = ("a", "b", "c")
ZONES = ("UTC", "Pacific/Kiritimati", "America/Los_Angeles")

seconds = st.sampled_from([0.0, 0.5, 1.0, 1.1, 60.0, 600.0, 601.0])
endings = st.one_of(
    st.builds(lambda s, t: success(t, try_seconds=s), seconds, st.sampled_from([b"1\n", b"2\n"])),
    st.builds(
        lambda s, r: Ending("failed", r, "no", try_seconds=s),
        seconds,
        st.sampled_from([Reason.AUTH, Reason.REFUSED]),
    ),
    st.builds(lambda s: Ending("timeout", Reason.TIMEOUT, "late", try_seconds=s), seconds),
    st.builds(lambda s: Ending("cancelled", try_seconds=s), seconds),
    st.just(Ending("failed", Reason.INTERNAL, "nothing ran")),
)
device = st.sampled_from(DEVICES)
steps = st.one_of(
    st.tuples(st.just("back_up"), device, endings, st.sampled_from(ZONES), st.integers(0, 2)),
    st.tuples(st.just("back_up"), device, endings, st.sampled_from(ZONES), st.just(0)),
    st.tuples(st.just("cancel_waiting"), device, st.sampled_from(ZONES)),
    st.tuples(st.just("move"), device, st.sampled_from(["rome", "oslo"])),
    st.tuples(st.just("retire"), device),
    st.tuples(st.just("purge"), device),
    st.tuples(st.just("pass_months"), st.integers(1, 2)),
    st.tuples(st.just("archive"), st.booleans()),
    st.tuples(st.just("drop_oldest")),
    st.tuples(st.just("fold")),
    st.tuples(st.just("add"), device),
)


@pytest.fixture(scope="module")
def engine(shared_database_url):
    engine = sqlalchemy.create_engine(shared_database_url)
    yield engine
    engine.dispose()


class History:
    """Plays steps on a database that it empties first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.begin() as connection:
            for table in history.months(connection):
                connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(
                text("""
                    TRUNCATE devices, backups, daily_statistics, execution_counters,
                        remaining_statistics, remaining_counters, events CASCADE
                """)
            )
        self.add(*DEVICES)
        ensure_partition_for(engine, datetime.now(UTC))

    def add(self, *names):
        with self.engine.begin() as connection:
            known = set(connection.scalars(text("SELECT name FROM devices")))
            add_devices(connection, *(set(names) - known))

    def back_up(self, device, ending, time_zone, retries):
        if not self._start(device):
            return
        running = claim_next(self.engine)
        for _ in range(retries):
            failed = Ending("failed", Reason.REFUSED, "no", try_seconds=1.5)
            with self.engine.begin() as connection:
                assert requeue(connection, running, failed, delay_seconds=0)
            running = claim_next(self.engine)
        assert end_running(self.engine, running, ending, time_zone=time_zone)

    def _start(self, device):
        known = rows(
            self.engine,
            "SELECT name FROM devices WHERE name = :name AND retired_at IS NULL",
            name=device,
        )
        if known:
            trigger_backup(self.engine, device)
        return bool(known)

    def cancel_waiting(self, device, time_zone):
        if self._start(device):
            waiting = [r.id for r in rows(self.engine, "SELECT id FROM open_executions")]
            cancel_executions(self.engine, waiting, time_zone=time_zone)

    def move(self, device, site):
        self._execute(f"UPDATE devices SET site = '{site}' WHERE name = '{device}'")

    def retire(self, device):
        self._execute(f"UPDATE devices SET retired_at = now() WHERE name = '{device}'")

    def purge(self, device):
        with self.engine.begin() as connection:
            try:
                purge_device(connection, device)
            except UnknownDevice:
                return

    def pass_months(self, count):
        """Everything becomes older, and so moves into earlier months."""
        days = 31 * count
        for (moment,) in rows(
            self.engine,
            f"""SELECT DISTINCT date_trunc('month', created_at - interval '{days} days')
                FROM backup_execution_logs""",
        ):
            ensure_partition_for(self.engine, moment)
        with self.engine.begin() as connection:
            for table in (*self._parents(), "daily_statistics", "remaining_statistics"):
                # The keys must not meet those of rows that are still to move.
                connection.execute(text(f"UPDATE {table} SET day = day - {days} - 100000"))
                connection.execute(text(f"UPDATE {table} SET day = day + 100000"))
            logs = dict.fromkeys(self._parents(), LOG_TIMES)
            for table, columns in {**TIMES, **logs}.items():
                sets = ", ".join(f"{c} = {c} - interval '{days} days'" for c in columns)
                connection.execute(text(f"UPDATE {table} SET {sets}"))

    def _parents(self):
        """The log, and months that belong to nothing."""
        with self.engine.connect() as connection:
            orphans = connection.scalars(
                text("""
                    SELECT relname FROM pg_class AS c WHERE relkind = 'r'
                        AND relname LIKE 'backup\\_execution\\_%' AND NOT relispartition
                """)
            ).all()
        return ["backup_execution_logs", *orphans]

    def archive(self, is_whole):
        """Detach the oldest month with rows; killed before it was attached, or not."""
        self._leave(is_dropped=False)

    def drop_oldest(self):
        self._leave(is_dropped=True)

    def _leave(self, *, is_dropped):
        with history.moving_months(self.engine) as connection:
            with_rows = [
                month
                for month in history.months(connection)
                if connection.scalar(text(f"SELECT EXISTS (SELECT FROM {month})"))
            ]
            if not with_rows:
                return
            if is_dropped:
                # Never one that is younger than one that stays.
                with_rows.sort(key=lambda month: self._oldest(connection, month))
                connection.execute(text("BEGIN"))
                history.remember_month(connection, with_rows[0])
                connection.execute(text(f"DROP TABLE {with_rows[0]}"))
                connection.execute(text("COMMIT"))
            else:
                attached = connection.scalar(
                    text("SELECT relispartition FROM pg_class WHERE relname = :name"),
                    {"name": with_rows[0]},
                )
                now = f"{datetime.now(UTC):%Y_%m}"
                if attached and not with_rows[0].endswith(now):
                    connection.execute(
                        text(f"ALTER TABLE backup_execution_logs DETACH PARTITION {with_rows[0]}")
                    )
                    connection.execute(
                        text(
                            f"ALTER TABLE {with_rows[0]} RENAME TO"
                            f" backup_execution_history_{uuid.uuid4().hex[:8]}"
                        )
                    )

    @staticmethod
    def _oldest(connection, month):
        return connection.scalar(text(f"SELECT min(created_at) FROM {month}"))

    def fold(self):
        with self.engine.begin() as connection:
            fold_days(connection)

    def _execute(self, sql):
        with self.engine.begin() as connection:
            connection.execute(text(sql))


LOG_TIMES = ("created_at", "queued_at", "started_at", "completed_at")
TIMES = {
    "configurations": ("created_at",),
    "device_states": (
        "last_started_at",
        "last_end_at",
        "last_success_at",
        "last_failure_at",
        "failing_since",
        "last_change_at",
    ),
    "remaining_devices": ("last_success_at", "last_failure_at", "failing_since"),
}


@given(st.lists(steps, min_size=5, max_size=30))
@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_after_any_history_no_number_differs(engine, played):
    past = History(engine)
    for name, *arguments in played:
        getattr(past, name)(*arguments)

    assert verify_numbers(engine) == []
    past.fold()
    assert verify_numbers(engine) == []


PLANTED = {
    ("daily_statistics", "count"): "UPDATE daily_statistics SET count = count + 1",
    ("daily_statistics", "timed_count"): "UPDATE daily_statistics SET timed_count = 9",
    ("daily_statistics", "duration_sum_seconds"): """
        UPDATE daily_statistics SET duration_sum_seconds = duration_sum_seconds + 0.01""",
    ("daily_statistics", "size_sum_bytes"): "UPDATE daily_statistics SET size_sum_bytes = 7",
    ("daily_statistics", "count", 2): "DELETE FROM daily_statistics WHERE status = 'success'",
    ("daily_statistics", "count", 3): """
        INSERT INTO daily_statistics
        VALUES ('2020-01-01', 'UTC', 'x', 'y', 'success', 3, 1, 1, 1, 1)""",
    ("execution_counters", "count"): "UPDATE execution_counters SET count = 0",
    ("execution_counters", "retry_sum"): "UPDATE execution_counters SET retry_sum = 3",
    ("execution_counters", "duration_sum_seconds"): """
        UPDATE execution_counters SET duration_sum_seconds = -1""",
    ("execution_counters", "wait_sum_seconds"): """
        UPDATE execution_counters SET wait_sum_seconds = 100""",
    ("execution_counters", "duration_buckets"): """
        UPDATE execution_counters SET duration_buckets[2] = duration_buckets[2] + 1""",
    ("execution_counters", "wait_buckets"): """
        UPDATE execution_counters SET wait_buckets[11] = 1""",
    ("execution_counters", "duration_buckets", 2): """
        DELETE FROM execution_counters WHERE status = 'failed'""",
    **{
        ("device_states", column): f"UPDATE device_states SET {column} = {value}"
        for column, value in {
            "last_execution_id": "NULL",
            "last_started_at": "now()",
            "last_end_at": "now()",
            "last_status": "'timeout'",
            "last_reason": "'storage'",
            "last_error_message": "'other'",
            "last_duration_seconds": "99",
            "last_success_at": "now()",
            "last_failure_at": "NULL",
            "failing_since": "now()",
            "last_change_at": "NULL",
            "consecutive_failures": "5",
            "configuration_id": "NULL",
            "config_size": "1",
            "success_count": "7",
            "failed_count": "7",
            "timeout_count": "7",
            "cancelled_count": "7",
            "change_count": "7",
            "duration_sum_seconds": "0.1",
        }.items()
    },
}


@pytest.fixture(scope="module")
def past(engine):
    past = History(engine)
    past.back_up("a", success(b"1\n"), "UTC", 1)
    past.back_up("a", Ending("failed", Reason.AUTH, "no", try_seconds=2), "UTC", 0)
    past.pass_months(1)
    past.drop_oldest()
    past.back_up("a", success(b"2\n"), "UTC", 2)
    past.back_up("b", success(b"1\n"), "UTC", 0)
    past.back_up("b", Ending("failed", Reason.AUTH, "no", try_seconds=2), "UTC", 0)
    past.back_up("b", Ending("timeout", Reason.TIMEOUT, "late", try_seconds=60), "UTC", 0)
    past.cancel_waiting("b", "UTC")
    assert verify_numbers(engine) == []
    return past


@pytest.mark.parametrize("place", PLANTED, ids=lambda place: "-".join(map(str, place)))
def test_a_planted_fault_is_found_in_its_place_and_mended(engine, past, place):
    with engine.begin() as connection:
        assert connection.execute(text(PLANTED[place])).rowcount

    differences = verify_numbers(engine)
    mend_numbers(engine, differences)

    assert place[:2] in {(d.table, d.column) for d in differences}
    assert {d.table for d in differences} == {place[0]}
    assert verify_numbers(engine) == []


def test_the_last_days_alone_can_be_recomputed(engine, past):
    today = datetime.now(UTC).date()
    assert verify_numbers(engine, since=today - timedelta(days=3)) == []
    old = "UPDATE daily_statistics SET count = count + 1 WHERE day < CURRENT_DATE - 5"
    new = "UPDATE daily_statistics SET count = count - 1 WHERE day = CURRENT_DATE"
    with engine.begin() as connection:
        assert connection.execute(text(old)).rowcount
        assert connection.execute(text(new)).rowcount

    differences = verify_numbers(engine, since=today - timedelta(days=3))

    assert {d.key[0] for d in differences} == {today}
    mend_numbers(engine, verify_numbers(engine))


def test_numbers_are_right_while_executions_end_and_are_mended(engine, past):
    """Mending adds what is missing; what ends in the meantime is neither lost nor doubled."""
    with engine.begin() as connection:
        connection.execute(text(PLANTED["daily_statistics", "count"]))
        connection.execute(text(PLANTED["execution_counters", "wait_sum_seconds"]))
        connection.execute(text(PLANTED["device_states", "consecutive_failures"]))
    differences = verify_numbers(engine)
    past.back_up("a", success(b"3\n"), "UTC", 0)
    past.back_up("b", Ending("failed", Reason.AUTH, "no", try_seconds=2), "UTC", 0)

    mend_numbers(engine, differences)

    assert verify_numbers(engine) == []


def test_finished_days_are_folded_into_one_shard_and_unfinished_ones_are_not(engine):
    past = History(engine)
    past.back_up("a", success(b"1\n"), "UTC", 0)
    past.back_up("b", success(b"1\n"), "UTC", 0)
    past.fold()
    shards = "SELECT count(*) AS rows, sum(count) AS executions FROM daily_statistics"
    assert tuple(row(engine, shards)) == (2, 2)
    past.pass_months(1)

    past.fold()

    assert tuple(row(engine, shards)) == (1, 2)
    assert verify_numbers(engine) == []


def test_counting_waits_while_a_month_moves(engine):
    with ThreadPoolExecutor(1) as pool:
        with history.moving_months(engine):
            counted = pool.submit(verify_numbers, engine)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not row(engine, waiting)[0]:
                assert not counted.done()
        assert counted.result(timeout=10) == []
