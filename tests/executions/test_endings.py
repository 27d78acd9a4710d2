"""The ending transaction: once an execution, with everything that must agree."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from exporter.errors import Reason
from exporter.executions.cancelling import cancel_executions
from exporter.executions.endings import Ending, end_running
from exporter.executions.recovery import end_overdue, recover_vanished
from exporter.executions.retries import delay_before_retry, requeue
from exporter.executions.tries import count_changed_lines
from exporter.settings import CollectionSettings
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup

_FAILED = Ending(
    status="failed", reason=Reason.AUTH, message="the password was refused", try_seconds=2.0
)


@pytest.fixture
def fleet(engine: Engine) -> Engine:
    with engine.begin() as connection:
        add_devices(connection, "a", "b")
    return engine


def test_a_success_is_recorded_everywhere(fleet: Engine) -> None:
    started = trigger_backup(fleet, "a")
    claimed = claim_next(fleet)

    assert end_running(fleet, claimed, success(b"one\ntwo\n"), time_zone="Europe/Berlin")

    log = row(fleet, "SELECT * FROM backup_execution_logs")
    assert (log.id, log.task_id, log.status, log.reason) == (
        claimed.id,
        started.task_id,
        "success",
        None,
    )
    assert (log.execution_time, log.config_size, log.trigger, log.site) == (1.5, 8, "api", "berlin")
    stored = row(fleet, "SELECT * FROM configurations")
    assert (stored.id, stored.created_at) == (log.config_id, log.created_at)
    state = row(fleet, "SELECT * FROM device_states WHERE device_id = :id", id=log.device_id)
    assert (
        state.last_status,
        state.success_count,
        state.configuration_id,
        state.config_size,
        state.change_count,
        state.consecutive_failures,
    ) == ("success", 1, stored.id, 8, 1, 0)
    daily = row(fleet, "SELECT * FROM daily_statistics")
    assert (
        daily.count,
        daily.timed_count,
        daily.duration_sum_seconds,
        daily.size_sum_bytes,
        daily.time_zone,
    ) == (1, 1, 1.5, 8, "Europe/Berlin")
    counter = row(fleet, "SELECT * FROM execution_counters")
    assert (counter.count, counter.duration_buckets, sum(counter.wait_buckets)) == (
        1,
        [0, 1] + [0] * 9,
        1,
    )
    assert counter.duration_exemplar_tasks[1] == started.task_id
    kinds = rows(fleet, "SELECT kind FROM events ORDER BY id")
    assert [each.kind for each in kinds] == [
        "backup_started",
        "execution_started",
        "execution_ended",
    ]
    assert rows(fleet, "SELECT * FROM open_executions") == []


def test_failures_are_counted_in_a_row_until_a_success(fleet: Engine) -> None:
    for ending in (_FAILED, _FAILED):
        trigger_backup(fleet, "a")
        end_running(fleet, claim_next(fleet), ending, time_zone="UTC")
    state = row(fleet, "SELECT * FROM device_states WHERE failed_count > 0")
    assert (state.consecutive_failures, state.failed_count, state.last_reason) == (2, 2, "auth")
    assert state.failing_since < state.last_failure_at

    trigger_backup(fleet, "a")
    end_running(fleet, claim_next(fleet), success(), time_zone="UTC")

    state = row(fleet, "SELECT * FROM device_states WHERE failed_count > 0")
    assert (state.consecutive_failures, state.last_reason, state.failing_since) == (0, None, None)


def test_an_execution_ends_once_however_many_end_it(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claimed = claim_next(fleet)
    together = threading.Barrier(4)

    def end(ending: Ending) -> bool:
        together.wait()
        return end_running(fleet, claimed, ending, time_zone="UTC")

    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(end, [success(), _FAILED, success(b"other\n"), _FAILED]))

    assert sorted(ended) == [False, False, False, True]
    assert row(fleet, "SELECT count(*) FROM backup_execution_logs").count == 1
    assert row(fleet, "SELECT sum(count) AS sum FROM execution_counters").sum == 1
    assert row(fleet, "SELECT count(*) FROM configurations").count <= 1


def test_the_end_of_one_wakes_the_other_execution_of_its_device(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claimed = claim_next(fleet)
    second = trigger_backup(fleet, "a")
    with fleet.begin() as connection:
        connection.execute(text("DELETE FROM procrastinate_jobs"))

    end_running(fleet, claimed, success(), time_zone="UTC")

    job = row(fleet, "SELECT args FROM procrastinate_jobs")
    wanted = row(
        fleet, "SELECT execution_id FROM backup_devices WHERE task_id = :id", id=second.task_id
    )
    assert job.args == {"execution_id": str(wanted.execution_id)}


def test_a_further_try_waits_in_the_queue_and_is_counted(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    first = claim_next(fleet)
    timeout = Ending(status="timeout", reason=Reason.TIMEOUT, message="slow", try_seconds=3.0)
    with fleet.begin() as connection:
        assert requeue(connection, first, timeout, delay_seconds=0.0)

    second = claim_next(fleet)
    end_running(fleet, second, success(), time_zone="UTC")

    log = row(fleet, "SELECT * FROM backup_execution_logs")
    assert (log.retry_count, log.execution_time) == (1, 4.5)
    (failed_try,) = log.extra_info["failed_tries"]
    assert (failed_try["reason"], failed_try["message"], failed_try["seconds"]) == (
        "timeout",
        "slow",
        3.0,
    )
    assert row(fleet, "SELECT retry_sum FROM execution_counters").retry_sum == 1


def test_no_further_try_while_another_execution_of_the_device_waits(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claimed = claim_next(fleet)
    trigger_backup(fleet, "a")

    with fleet.begin() as connection:
        assert not requeue(connection, claimed, _FAILED, delay_seconds=0.0)


def test_cancelling_during_the_back_off_keeps_what_ran(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claimed = claim_next(fleet)
    with fleet.begin() as connection:
        requeue(connection, claimed, _FAILED, delay_seconds=900.0)

    cancelled = cancel_executions(fleet, [claimed.id], time_zone="UTC")

    assert (cancelled.ended, cancelled.stopping) == (1, 0)
    log = row(fleet, "SELECT * FROM backup_execution_logs")
    assert (log.status, log.execution_time, log.retry_count) == ("cancelled", 2.0, 1)
    assert row(fleet, "SELECT duration_buckets FROM execution_counters")[0][1] == 1


@pytest.mark.parametrize("reason", [Reason.AUTH, Reason.HOST_KEY, Reason.UNSUPPORTED])
def test_what_a_retry_cannot_help_is_not_retried(reason: Reason) -> None:
    assert delay_before_retry(CollectionSettings(), reason, 0) is None


def test_the_back_off_doubles_with_a_jitter_of_a_half() -> None:
    settings = CollectionSettings(retries=2, retry_delay_seconds=30)
    for failed_tries, middle in ((0, 30), (1, 60)):
        delay = delay_before_retry(settings, Reason.TIMEOUT, failed_tries)
        assert delay is not None
        assert middle * 0.5 <= delay <= middle * 1.5
    assert delay_before_retry(settings, Reason.TIMEOUT, 2) is None


def test_what_runs_on_a_vanished_worker_is_queued_again_then_interrupted(fleet: Engine) -> None:
    settings = CollectionSettings(retries=1)
    trigger_backup(fleet, "a")
    claim_next(fleet)
    assert recover_vanished(fleet, settings, time_zone="UTC") == 1
    assert row(fleet, "SELECT status FROM open_executions").status == "queued"

    claim_next(fleet)
    assert recover_vanished(fleet, settings, time_zone="UTC") == 1

    log = row(fleet, "SELECT * FROM backup_execution_logs")
    assert (log.status, log.reason, log.retry_count) == ("failed", "interrupted", 1)


def test_what_a_living_worker_runs_is_left_alone(fleet: Engine) -> None:
    worker_id = uuid.uuid4()
    with fleet.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO processes (id, kind, host, pid, version) "
                "VALUES (:id, 'worker', 'h', 1, '0')"
            ),
            {"id": worker_id},
        )
    trigger_backup(fleet, "a")
    claim_next(fleet, worker_id)

    assert recover_vanished(fleet, CollectionSettings(), time_zone="UTC") == 0


def test_what_outlives_deadline_and_grace_ends_as_timeout(fleet: Engine) -> None:
    trigger_backup(fleet)
    claim_next(fleet)
    stuck = claim_next(fleet)
    with fleet.begin() as connection:
        connection.execute(
            text("UPDATE open_executions SET deadline_at = now() - interval '11 s' WHERE id = :id"),
            {"id": stuck.id},
        )

    assert end_overdue(fleet, grace_seconds=10, time_zone="UTC") == 1

    log = row(fleet, "SELECT * FROM backup_execution_logs")
    assert (log.id, log.status, log.reason) == (stuck.id, "timeout", "timeout")


def test_a_missing_partition_is_made_by_the_ending(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    claimed = claim_next(fleet)
    for partition in rows(
        fleet,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'backup_execution_logs'::regclass",
    ):
        with fleet.begin() as connection:
            connection.execute(text(f"DROP TABLE {partition.name}"))

    assert end_running(fleet, claimed, success(), time_zone="UTC")

    assert row(fleet, "SELECT count(*) FROM backup_execution_logs").count == 1


@given(st.lists(st.sampled_from([b"a", b"b", b"c"])), st.lists(st.sampled_from([b"a", b"b"])))
def test_changed_lines_account_for_the_difference_in_length(
    old: list[bytes], new: list[bytes]
) -> None:
    added, removed = count_changed_lines(b"\n".join(old), b"\n".join(new))

    assert added - removed == len(b"\n".join(new).splitlines()) - len(b"\n".join(old).splitlines())
    assert count_changed_lines(b"\n".join(new), b"\n".join(new)) == (0, 0)


def test_a_claim_knows_the_current_configuration_to_compare_with(fleet: Engine) -> None:
    trigger_backup(fleet, "a")
    ending = success(b"one\n")
    end_running(fleet, claim_next(fleet), ending, time_zone="UTC")
    trigger_backup(fleet, "a")

    claimed = claim_next(fleet)

    assert ending.new_version is not None
    assert claimed.previous_stable_hash == ending.new_version.stable_hash
    assert claimed.previous_size == 4
