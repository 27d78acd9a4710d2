"""The daemon as people run it: a process, a simulated fleet, PostgreSQL, Git, commands."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.simulator import Fleet, start_fleet
from tests.installation import Installation, wait_until

#: What a fault of the simulator must be recorded as.
EXPECTED = {
    "silent": ("timeout", "timeout"),
    "reset": ("failed", "disconnected"),
    "refused": ("failed", "refused"),
    "truncated": ("failed", "truncated"),
    "empty": ("failed", "empty"),
    "invalid": ("failed", "command"),
    "endless": ("failed", "truncated"),
    "password": ("failed", "auth"),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), devices=24) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, shared_database_url: str, fleet: Fleet
) -> Iterator[Installation]:
    installation = Installation(
        tmp_path_factory.mktemp("installation"),
        shared_database_url,
        fleet,
        collection={"sessions": 12, "maximum_bytes": 1_000_000},
        workers={"processes": 2},
    )
    installation.start()
    yield installation
    installation.close()


def test_a_backup_of_the_whole_fleet_is_recorded_and_published(
    installation: Installation, fleet: Fleet
) -> None:
    result = installation.command("backup", "--all", "--wait")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "24 success" in result.stdout
    versions = installation.rows("SELECT DISTINCT device_id FROM configurations")
    assert len(versions) == 24
    wait_until(
        lambda: not installation.rows("SELECT FROM configurations WHERE git_commit_id IS NULL"),
        "everything is published",
    )
    files = installation.git("ls-tree", "-r", "--name-only", "main").split()
    assert len(files) == 24
    name = fleet.names[0]
    shown = installation.command("show", name).stdout
    site = installation.row("SELECT site FROM devices WHERE name = :name", name=name).site
    assert shown == installation.git("show", f"main:{site}/{name}.cfg")


def test_a_second_backup_stores_only_what_changed(installation: Installation, fleet: Fleet) -> None:
    name = fleet.names[1]
    installation.command("backup", "--all", "--wait")
    before = installation.row("SELECT count(*) FROM configurations").count
    shown = installation.command("show", name).stdout

    fleet.set_configuration(name, shown.replace("hostname", "! edited\nhostname", 1))
    result = installation.command("backup", "--all", "--wait")

    assert result.returncode == 0
    assert installation.row("SELECT count(*) FROM configurations").count == before + 1
    assert "+! edited" in installation.command("diff", name).stdout


def test_every_failure_ends_with_its_reason_within_its_time(
    installation: Installation, fleet: Fleet
) -> None:
    broken = dict(zip(fleet.names[2:], EXPECTED, strict=False))
    stored = installation.row("SELECT count(*) FROM configurations").count
    for name, fault in broken.items():
        fleet.set_fault(name, fault)

    result = installation.command("backup", "--all", "--wait")

    assert result.returncode == 1
    ended = {
        each.name: each
        for each in installation.rows("""
            SELECT DISTINCT ON (d.name) d.name, status, reason, execution_time, error_message
            FROM backup_execution_logs AS l JOIN devices AS d ON d.id = l.device_id
            ORDER BY d.name, l.created_at DESC""")
    }
    found = {fault: (ended[name].status, ended[name].reason) for name, fault in broken.items()}
    assert found == EXPECTED
    assert max(each.execution_time for each in ended.values()) < 5 + 10
    assert sum(each.status == "success" for each in ended.values()) == 24 - len(broken)
    assert installation.row("SELECT count(*) FROM configurations").count == stored
    for name in broken:
        fleet.clear_fault(name)


def test_a_persons_backup_starts_at_once_while_all_others_hang(
    installation: Installation, fleet: Fleet
) -> None:
    free, *hanging = fleet.names
    for name in hanging:
        fleet.set_fault(name, "silent")
    started = installation.command("backup", *hanging)
    assert started.returncode == 0
    wait_until(
        lambda: (
            installation.row("SELECT count(*) FROM open_executions WHERE status = 'running'").count
            >= 22
        ),
        "all but the sessions kept for people hang",
    )

    asked = time.monotonic()
    result = installation.command("backup", free, "--wait")
    assert result.returncode == 0, result.stderr
    waited = installation.row(
        """
        SELECT extra_info['waited_seconds']::float AS seconds FROM backup_execution_logs AS l
        JOIN devices AS d ON d.id = l.device_id WHERE d.name = :name
        ORDER BY l.created_at DESC LIMIT 1""",
        name=free,
    )
    assert waited.seconds < 2
    assert time.monotonic() - asked < PATIENCE

    task_id = started.stderr.split()[1]
    cancelled = installation.command("cancel", task_id)
    assert cancelled.returncode == 0
    wait_until(
        lambda: not installation.rows("SELECT FROM open_executions"), "what ran is cut off", 10
    )
    for name in hanging:
        fleet.clear_fault(name)


PATIENCE = 20.0


def test_an_unknown_device_is_named_and_nothing_starts(installation: Installation) -> None:
    before = installation.row("SELECT count(*) FROM backups").count

    result = installation.command("backup", "nowhere-1")

    assert result.returncode == 2
    assert "nowhere-1" in result.stderr
    assert installation.row("SELECT count(*) FROM backups").count == before


def test_a_changed_host_key_is_refused_until_a_person_trusts_it(
    installation: Installation, fleet: Fleet
) -> None:
    name = next(name for name in fleet.names if fleet.login(name).platform == "ios")
    assert installation.command("backup", name, "--wait").returncode == 0
    fleet.set_fault(name, "host_key")

    refused = installation.command("backup", name, "--wait")
    assert refused.returncode == 1
    assert "host_key" in refused.stdout
    assert installation.command("trust", name, "--yes").returncode == 0

    assert installation.command("backup", name, "--wait").returncode == 0
    fleet.clear_fault(name)
    assert installation.command("trust", name, "--yes").returncode == 0


def test_probe_shows_the_dialogue_and_records_nothing(
    installation: Installation, fleet: Fleet
) -> None:
    name = next(name for name in fleet.names if fleet.login(name).platform == "ios")
    before = installation.row("SELECT count(*) FROM backup_execution_logs").count

    result = installation.command("probe", name)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "show running-config" in result.stdout
    assert installation.row("SELECT count(*) FROM backup_execution_logs").count == before


def test_lists_are_tables_json_and_csv(installation: Installation, fleet: Fleet) -> None:
    installation.command("backup", fleet.names[0], "--wait")

    assert fleet.names[0] in installation.command("devices").stdout
    (newest,) = json.loads(installation.command("executions", "--limit", "1", "--json").stdout)
    assert newest["device"] == fleet.names[0]
    header, line = installation.command("executions", "--limit", "1", "--csv").stdout.splitlines()
    assert header.startswith("id,created_at,device")
    assert fleet.names[0] in line


def test_a_bad_configuration_changes_nothing_and_is_reported(installation: Installation) -> None:
    good = installation.settings_file.read_text()
    workers = installation.worker_pids()
    bad = yaml.safe_load(good) | {"collection": {"retries": 99}}
    assert installation.daemon is not None
    installation.settings_file.write_text(yaml.safe_dump(bad))
    try:
        installation.daemon.send_signal(signal.SIGHUP)

        wait_until(
            lambda: "collection.retries" in installation.log_file.read_text(), "it is reported"
        )
        assert installation.worker_pids() == workers
        result = installation.command("check")
        assert result.returncode == 1
        assert "collection.retries: found 99" in result.stderr
    finally:
        installation.settings_file.write_text(good)


def test_a_schedule_of_a_reloaded_configuration_fires(installation: Installation) -> None:
    content = yaml.safe_load(installation.settings_file.read_text())
    content["schedules"] = [{"name": "often", "every_seconds": 1, "selection": {"all": True}}]
    installation.settings_file.write_text(yaml.safe_dump(content))
    assert installation.daemon is not None

    installation.daemon.send_signal(signal.SIGHUP)

    wait_until(
        lambda: installation.rows("SELECT FROM backup_execution_logs WHERE trigger = 'schedule'"),
        "an execution of the schedule ends",
    )
    content["schedules"] = []
    installation.settings_file.write_text(yaml.safe_dump(content))
    installation.daemon.send_signal(signal.SIGHUP)
    wait_until(
        lambda: installation.rows("SELECT FROM backup_schedules WHERE retired_at IS NOT NULL"),
        "the schedule is retired",
    )


def test_a_killed_worker_is_replaced_and_its_executions_end_once(
    installation: Installation, fleet: Fleet
) -> None:
    wait_until(lambda: not installation.rows("SELECT FROM open_executions"), "nothing is open")
    for name in fleet.names:
        fleet.set_fault(name, "slow", bytes_per_second=5_000)
    started = installation.command("backup", "--all")
    task_id = started.stderr.split()[1]
    wait_until(
        lambda: installation.rows("SELECT FROM open_executions WHERE status = 'running'"),
        "executions run",
    )

    for pid in installation.worker_pids():
        os.kill(pid, signal.SIGKILL)

    wait_until(lambda: not installation.rows("SELECT FROM open_executions"), "all have ended")
    ends = installation.rows(
        "SELECT id, count(*) FROM backup_execution_logs WHERE task_id = :id GROUP BY id",
        id=task_id,
    )
    assert [each.count for each in ends] == [1] * 24
    for name in fleet.names:
        fleet.clear_fault(name)


def test_no_secret_of_the_inventory_is_anywhere(
    installation: Installation, fleet: Fleet, superuser_engine: object
) -> None:
    fleet.set_fault(fleet.names[0], "password")
    installation.command("backup", "--all", "--wait")
    secrets = {fleet.login(name).password for name in fleet.names} | {
        str(fleet.login(name).optional_args["secret"])
        for name in fleet.names
        if "secret" in fleet.login(name).optional_args
    }
    assert secrets
    dump = _dump(installation)
    log = installation.log_file.read_text()
    processes = "\n".join(
        path.read_bytes().decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )

    for secret in secrets:
        assert secret not in dump
        assert secret not in log
        assert secret not in processes
    fleet.clear_fault(fleet.names[0])


def _dump(installation: Installation) -> str:
    """Every row of every table as text, but for the configurations themselves."""
    names = installation.rows("""
        SELECT c.oid::regclass::text AS name FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname = 'public'""")
    return "\n".join(
        str(each[0])
        for name in names
        for each in installation.rows(f"SELECT t::text FROM {name.name} AS t")
    )


def test_sigterm_ends_everything_and_nothing_is_left_running(
    installation: Installation, fleet: Fleet
) -> None:
    workers = installation.worker_pids()

    assert installation.stop() == 0

    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert installation.rows("SELECT FROM processes") == []
    installation.start()
