import threading

import pytest
from sqlalchemy import Engine, text

from exporter.errors import LeadershipLost
from exporter.leadership import LOCK_KEY, Leadership

TERMINATE_HOLDER = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
    " WHERE locktype = 'advisory' AND objid = :key AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def terminate_holder(superuser_engine: Engine) -> None:
    with superuser_engine.connect() as connection:
        assert connection.execute(TERMINATE_HOLDER, {"key": LOCK_KEY}).scalars().all() == [True]


def test_only_one_of_two_leads(engine):
    first, second = Leadership(engine), Leadership(engine)

    assert first.acquire()
    assert not second.acquire()
    assert first.is_held()
    assert not second.is_held()
    first.release()


def test_who_leads_may_ask_again(engine):
    leadership = Leadership(engine)

    assert leadership.acquire()
    assert leadership.acquire()
    leadership.release()


def test_a_released_lead_can_be_taken_by_another(engine):
    first, second = Leadership(engine), Leadership(engine)
    first.acquire()

    first.release()

    assert not first.is_held()
    assert second.acquire()
    second.release()


def test_a_broken_connection_loses_the_lead(engine, superuser_engine):
    first, second = Leadership(engine), Leadership(engine)
    first.acquire()

    terminate_holder(superuser_engine)

    assert second.acquire()
    assert not first.is_held()
    with pytest.raises(LeadershipLost):
        first.require()
    second.release()


def test_a_lost_lead_can_be_taken_again(engine, superuser_engine):
    leadership = Leadership(engine)
    leadership.acquire()
    terminate_holder(superuser_engine)

    assert leadership.acquire()
    leadership.require()
    leadership.release()


def test_of_many_that_try_at_once_one_leads(engine):
    candidates = [Leadership(engine) for _ in range(6)]
    barrier = threading.Barrier(len(candidates))
    results: list[bool] = []

    def run(candidate: Leadership) -> None:
        barrier.wait()
        results.append(candidate.acquire())

    threads = [threading.Thread(target=run, args=(candidate,)) for candidate in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == [False] * 5 + [True]
    for candidate in candidates:
        candidate.release()


def test_the_lead_costs_no_connection_of_the_pool(engine):
    leadership = Leadership(engine)
    leadership.acquire()

    assert engine.pool.checkedout() == 0
    leadership.release()
