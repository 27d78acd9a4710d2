"""What is left by a crash, a full disk or a person's mistake is found and mended, or said."""

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from exporter.database.engine import create_engine
from exporter.errors import RepositoryProblem
from exporter.publishing import Publisher, rebuild
from exporter.settings import DatabaseSettings, GitSettings, Settings
from tests.publishing.fleet import Fleet, no_check

Run = Callable[..., str]

HINT = "hint: configbackup publish --rebuild"
ERROR = "SELECT last_error FROM publishing_state"
#: Children begin as copies of one process that has imported everything.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["exporter.publishing", "exporter.database.engine"])

CHECK = "check of leadership"


def _work_until_killed(
    database: DatabaseSettings, git: GitSettings, killed_at: tuple[str, int], rebuilding: bool
) -> None:
    step, left = killed_at

    def die_at(what: str) -> None:
        nonlocal left
        left -= step in what
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = create_engine(database, application_name="killed")
    event.listen(engine, "before_cursor_execute", lambda *arguments: die_at(arguments[2]))
    if rebuilding:
        rebuild(engine, git, lambda: die_at(CHECK))
    else:
        Publisher(engine, git, lambda: die_at(CHECK)).publish()


def _kill(settings: Settings, step: str, time: int = 1, *, rebuilding: bool = False) -> None:
    process = _children.Process(
        target=_work_until_killed, args=(settings.database, settings.git, (step, time), rebuilding)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("step", "time", "is_moved"),
    [
        ("INSERT INTO device_paths", 1, False),
        ("FROM configuration_texts", 2, False),
        (CHECK, 1, False),
        (CHECK, 2, True),
        ("UPDATE backup_execution_logs", 1, True),
    ],
)
def test_a_turn_that_was_killed_is_finished_and_nothing_is_doubled(
    step: str,
    time: int,
    is_moved: bool,
    fleet: Fleet,
    settings: Settings,
    engine: Engine,
    publisher: Publisher,
    run: Run,
) -> None:
    first = fleet.add_device("core-0")
    fleet.store(first, b"0\n")
    publisher.publish()
    fleet.change_device(first, name="core")
    # More than one chunk of texts.
    for number in range(51):
        fleet.store(fleet.add_device(f"edge-{number}"), b"%d\n" % number)
    _kill(settings, step, time)
    assert run("rev-list", "--count", "main") == ("53" if is_moved else "1")
    assert fleet.value("SELECT count(*) FROM configurations WHERE git_commit_id IS NULL") == 51
    assert Publisher(engine, settings.git, no_check).publish() == 52
    assert run("rev-list", "--count", "main") == "53"
    unpublished = """
        SELECT (SELECT count(*) FROM configurations WHERE git_commit_id IS NULL)
            + (SELECT count(*) FROM device_paths WHERE git_commit_id IS NULL)
            + (SELECT count(*) FROM backup_execution_logs WHERE git_commit_id IS NULL)
    """
    assert fleet.value(unpublished) == 0
    before = run("rev-parse", "main")
    rebuild(engine, settings.git, no_check)
    assert run("rev-parse", "main") == before


def test_a_very_first_turn_that_was_killed_is_finished(
    fleet: Fleet, settings: Settings, engine: Engine, run: Run
) -> None:
    fleet.store(fleet.add_device("core"), b"a\n")
    _kill(settings, CHECK, 2)
    assert Publisher(engine, settings.git, no_check).publish() == 1
    assert run("rev-list", "--count", "main") == "1"


def test_a_rebuild_that_was_killed_changes_nothing(
    fleet: Fleet, settings: Settings, engine: Engine, publisher: Publisher, run: Run
) -> None:
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher.publish()
    before = run("rev-parse", "main")
    _kill(settings, CHECK, rebuilding=True)
    assert run("rev-parse", "main") == before
    assert Publisher(engine, settings.git, no_check).publish() == 0
    assert rebuild(engine, settings.git, no_check) == 1
    assert not list(settings.git.directory.parent.glob("*.new-*"))


def test_leftovers_of_a_crash_are_removed_and_do_not_stand_in_the_way(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    device = fleet.add_device("core")
    fleet.store(device, b"a\n")
    publisher.publish()
    leftovers = [
        git_settings.directory / name
        for name in ("refs/heads/main.lock", "objects/pack/tmp_pack_x", "fast_import_crash_1")
    ]
    for leftover in leftovers:
        leftover.touch()
        os.utime(leftover, (0, 0))
    fleet.store(device, b"b\n")
    assert Publisher(engine, git_settings, no_check).publish() == 1
    assert not [leftover for leftover in leftovers if leftover.exists()]


def _lose_objects(directory: Path) -> None:
    shutil.rmtree(directory / "objects")
    (directory / "objects").mkdir()


def _lose_branch(directory: Path) -> None:
    for name in ("refs/heads/main", "packed-refs"):
        (directory / name).unlink(missing_ok=True)
    _lose_objects(directory)


def _break_an_object(directory: Path) -> None:
    tree = subprocess.run(
        ["git", f"--git-dir={directory}", "rev-parse", "main^{tree}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    file = directory / "objects" / tree[:2] / tree[2:]
    file.chmod(0o644)
    file.write_bytes(b"nonsense")


def _lose_head(directory: Path) -> None:
    (directory / "HEAD").unlink()


def _commit_by_hand(directory: Path) -> None:
    git = ["git", f"--git-dir={directory}", "-c", "user.name=x", "-c", "user.email=x@x"]
    commit = subprocess.run(
        [*git, "commit-tree", "-p", "main", "-m", "by hand", "main^{tree}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run([*git, "update-ref", "refs/heads/main", commit], check=True)


def _turn_back(directory: Path) -> None:
    subprocess.run(
        ["git", f"--git-dir={directory}", "update-ref", "refs/heads/main", "main~1"], check=True
    )


@pytest.mark.parametrize(
    "damage",
    [_lose_objects, _lose_branch, _break_an_object, _lose_head, _commit_by_hand, _turn_back],
)
def test_damage_is_noticed_said_and_mended_by_a_rebuild(
    damage: Callable[[Path], None],
    fleet: Fleet,
    engine: Engine,
    publisher: Publisher,
    git_settings: GitSettings,
    run: Run,
) -> None:
    device = fleet.add_device("core")
    for content in (b"a\n", b"b\n"):
        fleet.store(device, content)
        publisher.publish()
    before = run("rev-list", "main")
    damage(git_settings.directory)
    returning = Publisher(engine, git_settings, no_check)
    with pytest.raises(RepositoryProblem, match=HINT):
        returning.publish()
    assert HINT in str(fleet.value(ERROR))
    assert fleet.value("SELECT failing_since FROM publishing_state")
    rebuild(engine, git_settings, no_check)
    assert run("rev-list", "main") == before
    assert returning.publish() == 0
    assert fleet.value(ERROR) is None


def test_where_no_repository_lies_it_is_rebuilt_before_publishing(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    device = fleet.add_device("core")
    fleet.store(device, b"a\n")
    publisher.publish()
    before = run("rev-parse", "main")
    shutil.rmtree(git_settings.directory)
    fleet.store(device, b"b\n")
    while publisher.publish():
        pass
    assert run("rev-parse", "main~1") == before
    assert fleet.value("SELECT count(*) FROM configurations WHERE git_commit_id IS NULL") == 0


def test_a_leader_that_comes_back_catches_up_with_what_another_machine_published(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    other = git_settings.model_copy(update={"directory": git_settings.directory / "../other.git"})
    device = fleet.add_device("core")
    fleet.store(device, b"a\n")
    publisher.publish()
    elsewhere = Publisher(engine, other, no_check)
    assert elsewhere.publish() == 0
    fleet.store(device, b"b\n")
    assert elsewhere.publish() == 1
    assert publisher.publish() == 0
    fleet.store(device, b"c\n")
    assert publisher.publish() == 1
    assert run("rev-parse", "main~1") == run("rev-parse", "main", directory=other.directory)


def test_another_branch_name_goes_on_where_the_old_one_was(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings, run: Run
) -> None:
    device = fleet.add_device("core")
    fleet.store(device, b"a\n")
    publisher.publish()
    fleet.store(device, b"b\n")
    other = git_settings.model_copy(update={"branch": "network"})
    assert Publisher(engine, other, no_check).publish() == 1
    assert run("rev-list", "--count", "network") == "2"


def test_a_repository_of_another_database_is_refused(
    fleet: Fleet, engine: Engine, publisher: Publisher, git_settings: GitSettings
) -> None:
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher.publish()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE publishing_state SET head_commit_id = NULL")
    with pytest.raises(RepositoryProblem, match="not of this database"):
        Publisher(engine, git_settings, no_check).publish()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "configbackup-test", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_delays_publishing_and_loses_nothing(
    fleet: Fleet, engine: Engine, git_settings: GitSettings, small_disk: Path, run: Run
) -> None:
    on_disk = git_settings.model_copy(update={"directory": small_disk / "configurations.git"})
    publisher = Publisher(engine, on_disk, no_check)
    device = fleet.add_device("core")
    fleet.store(device, b"a\n")
    publisher.publish()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(700_000))
    fleet.store(device, os.urandom(600_000))
    for _ in range(3):
        with pytest.raises(RepositoryProblem, match="Out of diskspace"):
            publisher.publish()
    assert "Out of diskspace" in str(fleet.value(ERROR))
    filler.unlink()
    assert publisher.publish() == 1
    assert fleet.value(ERROR) is None
    run("fsck", directory=on_disk.directory)
    assert not list(on_disk.directory.glob("fast_import_crash_*"))
    assert not list(on_disk.directory.glob("objects/pack/tmp_*"))
