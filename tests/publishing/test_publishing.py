"""Rows become commits, and commits are written back to the rows."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from exporter.errors import LeadershipLost
from exporter.publishing import Publisher, history, read_version, rebuild
from exporter.settings import GitSettings
from tests.publishing.fleet import Fleet, no_check

Run = Callable[..., str]

HEAD = "SELECT head_commit_id FROM publishing_state"


def test_a_first_version_is_one_commit_that_says_where_it_comes_from(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    device = fleet.add_device("core-01")
    version = fleet.store(device, b"hostname core-01\n\xff\x00\n")
    assert publisher.publish() == 1
    row = fleet.value("SELECT row_to_json(c) FROM configurations c WHERE id = :id", id=version)
    assert isinstance(row, dict)
    message = run("log", "-1", "--format=%B", "main")
    assert message.splitlines() == [
        "core-01: +2 -0",
        "",
        "Device: core-01",
        f"Task: {row['task_id']}",
        f"Execution: {row['execution_id']}",
        "Trigger: command",
        f"Version: {version}",
        "Path: 1",
    ]
    times = run("log", "-1", "--format=%at %ct", "main").split()
    created_at = datetime.fromisoformat(str(row["created_at"]))
    assert {int(time) for time in times} == {int(created_at.timestamp())}
    assert run("log", "-1", "--format=%an <%ae>", "main") == "configbackup <configbackup@localhost>"


def test_the_commit_id_is_written_back_everywhere(
    fleet: Fleet, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    version = fleet.store(fleet.add_device("core-01"), b"a\xff\n")
    assert publisher.publish() == 1
    head = run("rev-parse", "main")
    assert (
        fleet.value("SELECT git_commit_id FROM configurations WHERE id = :id", id=version) == head
    )
    assert fleet.value("SELECT git_commit_id FROM backup_execution_logs") == head
    assert fleet.value("SELECT git_commit_id FROM device_paths") == head
    assert fleet.value(HEAD) == head
    assert read_version(git_settings, head, "berlin/core-01.cfg") == b"a\xff\n"
    assert [entry.commit_id for entry in history(git_settings, "berlin/core-01.cfg")] == [head]
    assert publisher.publish() == 0


def test_versions_are_committed_in_the_order_of_their_times(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    one, two = fleet.add_device("one"), fleet.add_device("two")
    start = datetime.now(UTC) - timedelta(milliseconds=10)
    fleet.store(two, b"2\n", start + timedelta(milliseconds=1))
    fleet.store(one, b"1\n", start)
    fleet.store(one, b"3\n", start + timedelta(milliseconds=2))
    assert publisher.publish() == 3
    subjects = run("log", "--reverse", "--format=%s", "main").splitlines()
    assert [subject.split(":")[0] for subject in subjects] == ["one", "two", "one"]


def test_a_version_waits_for_an_open_transaction_that_may_store_an_earlier_one(
    fleet: Fleet, engine: Engine, publisher: Publisher
) -> None:
    device = fleet.add_device("core-01")
    with engine.begin() as connection:
        connection.execute(text("SELECT now()"))
        fleet.store(device, b"later\n")
        assert publisher.publish() == 0
    assert publisher.publish() == 1


def test_a_retired_device_loses_its_file_and_gets_it_back_when_it_returns(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    device = fleet.add_device("core-01")
    fleet.store(device, b"a\n")
    publisher.publish()
    fleet.retire(device)
    assert publisher.publish() == 1
    assert run("ls-tree", "-r", "--name-only", "main") == ""
    fleet.change_device(device, retired_at=None)
    assert publisher.publish() == 1
    assert run("show", "main:berlin/core-01.cfg") == "a"
    assert run("log", "--format=%s", "main").splitlines() == [
        "core-01: back as berlin/core-01.cfg",
        "core-01: retired",
        "core-01: +1 -0",
    ]
    assert publisher.publish() == 0


def test_a_version_of_a_device_that_was_retired_meanwhile_is_not_lost(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    early, late = fleet.add_device("early"), fleet.add_device("late")
    fleet.store(early, b"a\n")
    publisher.publish()
    fleet.retire(early)
    fleet.retire(late)
    publisher.publish()
    fleet.store(early, b"b\n")
    fleet.store(late, b"c\n")
    while publisher.publish():
        pass
    assert fleet.value("SELECT count(*) FROM configurations WHERE git_commit_id IS NULL") == 0
    assert fleet.value("SELECT count(*) FROM device_paths WHERE git_commit_id IS NULL") == 0
    assert run("ls-tree", "-r", "--name-only", "main") == ""
    for content in (b"b\n", b"c\n"):
        blob = subprocess.run(
            ["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True
        )
        assert run("cat-file", "-t", blob.stdout.decode().strip()) == "blob"


def test_a_move_and_a_rename_are_one_commit_each_that_git_sees_as_a_rename(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    device = fleet.add_device("core-01")
    fleet.store(device, b"a\nb\n")
    publisher.publish()
    fleet.change_device(device, site="hamburg")
    assert publisher.publish() == 1
    fleet.change_device(device, name="core-02")
    assert publisher.publish() == 1
    assert run("log", "-2", "--format=%s", "--name-status", "main").split("\n\n") == [
        "core-02: moved from hamburg/core-01.cfg to hamburg/core-02.cfg",
        "R100\thamburg/core-01.cfg\thamburg/core-02.cfg\n"
        "core-01: moved from berlin/core-01.cfg to hamburg/core-01.cfg",
        "R100\tberlin/core-01.cfg\thamburg/core-01.cfg",
    ]


def test_another_path_template_moves_every_file(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    for name in ("one", "two"):
        fleet.store(fleet.add_device(name), name.encode())
    publisher.publish()
    flat = git_settings.model_copy(update={"path": "{device}.txt"})
    assert Publisher(engine, flat, no_check).publish() == 2
    assert run("ls-tree", "-r", "--name-only", "main").split() == ["one.txt", "two.txt"]


def test_two_devices_that_swap_their_names_keep_their_own_files(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    one, two = fleet.add_device("one"), fleet.add_device("two")
    fleet.store(one, b"1\n")
    fleet.store(two, b"2\n")
    publisher.publish()
    fleet.change_device(one, name="parked")
    fleet.change_device(two, name="one")
    fleet.change_device(one, name="two")
    assert publisher.publish() == 3
    assert run("show", "main:berlin/one.cfg") == "2"
    assert run("show", "main:berlin/two.cfg") == "1"
    assert len(run("ls-tree", "-r", "--name-only", "main").split()) == 2


def test_a_new_device_does_not_take_the_file_of_one_that_was_renamed_before_it_came(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    old = fleet.add_device("core")
    fleet.store(old, b"old\n")
    publisher.publish()
    fleet.change_device(old, name="core-old")
    fleet.store(fleet.add_device("core"), b"new\n")
    while publisher.publish():
        pass
    assert run("show", "main:berlin/core.cfg") == "new"
    assert run("show", "main:berlin/core-old.cfg") == "old"
    assert len(run("ls-tree", "-r", "--name-only", "main").split()) == 2


def test_more_versions_than_a_batch_holds_take_several_turns(
    fleet: Fleet, publisher: Publisher, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.publishing.outbox.BATCH_COMMITS", 2)
    for number in range(5):
        fleet.store(fleet.add_device(f"core-{number}"), b"a\n")
    assert [publisher.publish() for _ in range(4)] == [2, 2, 1, 0]
    assert run("rev-list", "--count", "main") == "5"


def _everything(fleet: Fleet, publisher: Publisher) -> list[int]:
    """A history with everything in it: versions, moves, a rename, a retirement, a return."""
    one, two = fleet.add_device("one"), fleet.add_device("Two", "köln")
    versions = [fleet.store(one, b"1\n"), fleet.store(two, b"2\n")]
    publisher.publish()
    fleet.change_device(one, name="eins")
    versions.append(fleet.store(one, b"1\n1\n"))
    publisher.publish()
    fleet.retire(two)
    publisher.publish()
    fleet.change_device(two, retired_at=None, site="bonn")
    publisher.publish()
    versions.append(fleet.store(one, b"1\n"))
    publisher.publish()
    return versions


def test_a_rebuild_writes_the_same_commits_and_keeps_the_old_repository(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    _everything(fleet, publisher)
    before = run("rev-list", "main")
    assert rebuild(engine, git_settings, no_check) == 7
    assert run("rev-list", "main") == before
    assert fleet.value(HEAD) == before.split()[0]
    assert publisher.publish() == 0
    kept = list(git_settings.directory.parent.glob("configurations.git.damaged-*"))
    assert len(kept) == 1
    assert not list(git_settings.directory.parent.glob("*.new-*"))


def test_a_rebuild_after_thinning_keeps_a_commit_for_every_version(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    versions = _everything(fleet, publisher)
    before = run("rev-list", "main").split()
    fleet.thin_out(versions[2])
    assert rebuild(engine, git_settings, no_check) == 7
    after = run("rev-list", "main").split()
    assert len(after) == len(before)
    assert after != before
    assert "one: +2 -0 (text thinned out)" in run("log", "--format=%s", "main").splitlines()
    stale = "SELECT count(*) FROM configurations WHERE NOT git_commit_id = ANY(:commits)"
    assert fleet.value(stale, commits=after) == 0
    logged = "SELECT count(*) FROM backup_execution_logs WHERE NOT git_commit_id = ANY(:commits)"
    assert fleet.value(logged, commits=after) == 0
    assert run("show", "main:berlin/eins.cfg") == "1"


def test_who_does_not_lead_any_more_moves_no_branch(
    fleet: Fleet, engine: Engine, git_settings: GitSettings, run: Run
) -> None:
    def lost() -> None:
        raise LeadershipLost("lost")

    fleet.store(fleet.add_device("core-01"), b"a\n")
    with pytest.raises(LeadershipLost):
        Publisher(engine, git_settings, lost).publish()
    assert run("for-each-ref", "refs/heads") == ""
    assert fleet.value("SELECT git_commit_id FROM configurations") is None
    assert fleet.value("SELECT last_error FROM publishing_state") is None


def test_who_was_overtaken_by_another_publisher_writes_nothing_back(
    fleet: Fleet, engine: Engine, git_settings: GitSettings
) -> None:
    calls = 0

    def overtaken() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            with engine.begin() as connection:
                connection.execute(text("UPDATE publishing_state SET head_commit_id = 'other'"))

    fleet.store(fleet.add_device("core-01"), b"a\n")
    with pytest.raises(LeadershipLost):
        Publisher(engine, git_settings, overtaken).publish()
    assert fleet.value("SELECT git_commit_id FROM configurations") is None


def test_packing_loses_nothing_and_the_size_is_known(
    fleet: Fleet, publisher: Publisher, run: Run
) -> None:
    for number in range(3):
        fleet.store(fleet.add_device(f"core-{number}"), b"a\n" * number)
        publisher.publish()
    publisher.maintain()
    publisher.maintain()
    run("fsck", "--strict")
    assert run("count-objects").startswith("0 objects")
    size = fleet.value("SELECT repository_bytes FROM publishing_state")
    assert isinstance(size, int)
    assert size > 0


def test_git_obeys_no_variable_of_the_environment(
    fleet: Fleet, publisher: Publisher, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'nonsense'")
    fleet.store(fleet.add_device("core-01"), b"a\n")
    assert publisher.publish() == 1
    for name in ("GIT_AUTHOR_NAME", "GIT_DIR", "GIT_CONFIG_PARAMETERS"):
        monkeypatch.delenv(name)
    assert run("log", "-1", "--format=%an", "main") == "configbackup"
